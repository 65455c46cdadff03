"""One step of adaptive training, in the order of the paper.

    1  draw a timestep for each sample          6   reference pass: LoRA off, no gradients
    2  gamma of its bin, from earlier steps     7   tuned pass on the same noisy latents
    3  coin, and the warp if it says so         8   error of each sample
    4  latents                                  9   update the indicator with both errors
    5  noise, noisy latents                     10  weigh, add RS and AA, backward

A step may be cut into `accumulate` micro-batches. The weight of a sample depends on all errors of the joint batch in its bin, so
a micro-batch that shares a bin with one before it is looked at ahead, without gradients: the price of exactness is a third of
such a sample's passes.

Numbers leave the device once a step, all together, at its end; up to there nothing waits for it. What must be known on the host
before (timesteps, coins) comes from generators and from the indicator of earlier steps.

Shapes: B samples of a micro-batch, N timestep bins.
"""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from apt_engine.apt.augment import augmentation_probability
from apt_engine.apt.bins import BINS
from apt_engine.apt.indicator import OverfittingIndicator, step_sums
from apt_engine.apt.losses import masked_mean, min_snr_weight
from apt_engine.apt.memorized import SplitIndicator
from apt_engine.apt.objective import loss_weight, objective, terms_of
from apt_engine.bases import random
from apt_engine.bases.base import BaseModel, PromptStates
from apt_engine.errors import RunError
from apt_engine.lora.adapter import reference_pass
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.calibration import LossWeights
from apt_engine.training.captions import Captions, class_caption
from apt_engine.training.draws import Batch, Draw
from apt_engine.training.latents import LatentSource
from apt_engine.training.processes import ALONE, Processes
from apt_engine.training.watch import Probes, Watched

Indicator = OverfittingIndicator | SplitIndicator


def _not_measured() -> Tensor:
    return torch.zeros(())


def _unscaled(loss: Tensor) -> Tensor:
    return loss


@dataclass(kw_only=True)
class Compared:
    """A micro-batch and what the two passes say of it.

    Attributes:
        batch: what they are told.
        seen: the reference pass, layer by layer, for the tuned one to be held against.
        reference: its errors (B,); None before it, or where it is not needed.
        is_counted: whether the errors are in the sums of the step.
    """

    batch: Batch
    seen: Watched
    reference: Tensor | None = None
    is_counted: bool = False


@dataclass
class Tally:
    """What the samples of a step amount to so far, on the device.

    Attributes:
        sums: (3, N), of tuned and of reference errors in each bin, in eps space, and how many they are.
        totals: (5,), how many samples count, and the sums of their tuned and reference errors, RS and AA.
    """

    sums: Tensor
    totals: Tensor

    @classmethod
    def on(cls, device: torch.device) -> "Tally":
        """Nothing yet."""
        return cls(torch.zeros(3, BINS, device=device), torch.zeros(5, device=device))


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step measured, on the CPU: scalars, means over all samples of the joint batch that count, 0 if none does.

    Attributes:
        batches: the micro-batches of this process, on the device.
        draws: of the joint batch.
        weights: of the joint batch, 1 - gamma after this step.
        loss, reference_loss: errors of the two passes.
        stabilization, alignment: RS and AA before their lambdas.
        prior_loss: of the pictures of the class. None stands for what was switched off.
        gradient_norm: as `clip` told it.
    """

    batches: tuple[Batch, ...]
    draws: tuple[Draw, ...]
    weights: Tensor
    loss: Tensor
    reference_loss: Tensor | None
    stabilization: Tensor | None
    alignment: Tensor | None
    prior_loss: Tensor | None
    gradient_norm: Tensor

    @property
    def batch(self) -> Batch:
        """The first micro-batch: all there is unless the step is cut."""
        return self.batches[0]

    def per_sample(self) -> Tensor:
        """Of the joint batch (samples, 4): timestep, chance of a warp, whether it came, weight."""
        rows = [(draw.timestep, draw.chance, draw.is_warped) for draw in self.draws]
        return torch.cat([torch.tensor(rows, dtype=torch.float64), self.weights[:, None]], dim=1)


class AdaptiveStep:
    """The step of APT. Each part has its own switch in the config; with all off it is the plain DreamBooth LoRA step.

    Args:
        captions: of each photo, where they have their own.
        processes: those that share the batch; what is handed to `backward` is of this one's samples alone.
        scale: as a loss is scaled before its gradients are taken, where half precision needs it.
        indicator: one that does not live on the losses of the two passes.
    """

    def __init__(
        self,
        config: TrainingConfig,
        base: BaseModel,
        photos: LatentSource,
        prior: LatentSource | None = None,
        *,
        captions: Sequence[str] = (),
        processes: Processes = ALONE,
        scale: Callable[[Tensor], Tensor] = _unscaled,
        indicator: Indicator | None = None,
    ) -> None:
        self._config = config
        self._base = base
        self._photos = photos
        self._prior = prior
        self._processes = processes
        own = processes.samples(config.batch_size)
        self._joint_size = config.batch_size * config.accumulate
        starts = range(0, self._joint_size, config.batch_size)
        self._micro_batches = [range(start + own.start, start + own.stop) for start in starts]
        self._captions = Captions(base, config, captions)
        self._prior_states = base.encode_prompts([class_caption(config, config.caption)])
        self._probes = Probes(base, features=config.stabilization > 0, maps=config.alignment > 0)
        self.indicator: Indicator = indicator or OverfittingIndicator(config.indicator, config.sensitivity)
        self.loss_weights = LossWeights(config, config.steps_for(len(photos)), processes, scale)

    def __call__(
        self, step: int, backward: Callable[[Tensor], None], clip: Callable[[], Tensor] = _not_measured
    ) -> StepResult:
        """Draw, compare, hand each loss to `backward`, then `clip`; the optimizer's step is the caller's.

        The losses may be anything, finite or not: the indicator takes in finite numbers alone. A sample of which nothing counts
        is 0 in every term; the divisor stays the number of samples, so that parts of a batch add up.

        Args:
            step: its number, from 1.
            backward: called for each micro-batch, with its share of the joint loss, and for each of pictures of the class.
            clip: called once after that, with all gradients there; tells their norm ().
        """
        draws = self._draw_all(step, range(self._joint_size), self._photos, "photos")  # 1 to 3
        bins = self._base.bin_of(torch.tensor([draw.timestep for draw in draws]))  # of the joint batch, on the CPU
        parts = [self._part(step, [draws[number] for number in numbers]) for numbers in self._micro_batches]  # 4, 5
        tally = Tally.on(self._base.device)
        for part in self._to_look_at_ahead(parts, bins.tolist()):
            self._look_ahead(part, tally)
        for part in parts:
            self._learn(step, part, tally, backward)
        prior_loss = self._learn_prior(step, backward)
        sums, totals, norm, norms = self._fetch(tally, prior_loss, clip())
        if self._config.needs_reference:
            self.indicator.update(sums[:2].double(), sums[2].double())
        self.loss_weights.take_in(step, norms.tolist())
        count, loss, reference_loss, stabilization, alignment, prior = totals
        means = [total / count.clamp(min=1) for total in (loss, reference_loss, stabilization, alignment)]
        return StepResult(
            batches=tuple(part.batch for part in parts),
            draws=tuple(draws),
            weights=self._weights(self.indicator, bins),
            loss=means[0],
            reference_loss=means[1] if self._config.needs_reference else None,
            stabilization=means[2] if self._config.stabilization else None,
            alignment=means[3] if self._config.alignment else None,
            prior_loss=None if self._prior is None else prior / self._processes.count,
            gradient_norm=norm,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """What must survive a resume besides LoRA and optimizer."""
        form = list(self._config.indicator.encode())
        kind = torch.tensor([self._config.sensitivity, *form], dtype=torch.float64)
        return {"indicator_kind": kind, **self.indicator.state_dict(), **self.loss_weights.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a saved state, exactly.

        Raises:
            RunError: indicator or lambdas are set otherwise than the run was trained with; an earlier version did not save the
                former.
        """
        if (kind := state.get("indicator_kind")) is not None:
            sensitivity, *form = kind.tolist()
            was = bytes(map(int, form)).decode(), sensitivity
            now = self._config.indicator, self._config.sensitivity
            if was != now:
                raise RunError(
                    f"This run was trained with indicator {was[0]} and sensitivity {was[1]:g}, and its settings now say {now[0]} "
                    f"and {now[1]:g}; set them back, or start a new run."
                )
        self.indicator.load_state_dict(state)
        self.loss_weights.load_state_dict(state)

    def _draw_all(self, step: int, numbers: Sequence[int], source: LatentSource, purpose: str) -> list[Draw]:
        """Of some samples: the first of a micro-batch has any photo, the others one of the same size."""
        draws: list[Draw] = []
        for number in numbers:
            is_free = not draws or number % self._config.batch_size == 0
            among = range(len(source)) if is_free else source.alike(draws[-1].photo)
            draws.append(self._draw(step, number, among, purpose))
        return draws

    def _draw(self, step: int, number: int, among: Sequence[int], purpose: str) -> Draw:
        """From generators of its own: the timestep first, the photo second, the coin and the warp apart."""
        generator = random.generator(self._config.seed, step, number, purpose)
        warps = random.generator(self._config.seed, step, number, "warp")
        timestep = self._timestep(generator, purpose)
        photo = among[int(torch.randint(len(among), (), generator=generator))]
        chance = self._chance(timestep) if purpose == "photos" else 0.0
        return Draw(
            timestep=timestep,
            photo=photo,
            chance=chance,
            is_warped=float(torch.rand((), generator=warps)) < chance,
            generator=generator,
            warps=warps,
        )

    def _timestep(self, generator: torch.Generator, purpose: str) -> float:  # noqa: ARG002  # a method may ask
        return self._base.draw_timestep(generator)

    def _chance(self, timestep: float) -> float:
        """That a sample of this timestep is warped, by gamma of earlier steps."""
        gamma = self.indicator.gamma()[self._base.bin_of(torch.tensor(timestep))]  # (N,) -> ()
        return augmentation_probability(float(gamma), self._config.augmentation)

    def _part(self, step: int, draws: Sequence[Draw]) -> Compared:
        batch = Batch.of(draws, self._photos, self._base, self._config.border)
        tokens = self._captions.tokens(batch.photos)
        return Compared(batch=batch, seen=self._probes.begin(batch.mask, tokens, step))

    def _to_look_at_ahead(self, parts: Sequence[Compared], bins: list[int]) -> list[Compared]:
        """The micro-batches whose errors others need before them: those that share a bin with one before, in any process."""
        if not self._config.weighting:
            return []
        size = self._config.batch_size
        own = [set(bins[start : start + size]) for start in range(0, len(bins), size)]
        return [part for number, part in enumerate(parts) if own[number] & set(bins[: number * size])]

    def _look_ahead(self, part: Compared, tally: Tally) -> None:
        """Count both errors of a micro-batch without gradients; what the reference pass showed is kept for later."""
        with self._probes.watch_again(part.seen):
            part.reference = self._reference_errors(part.batch)
        with torch.no_grad():
            tuned = self._errors(part.batch, self._captions.states(part.batch.photos))
        self._count(part, tuned, tally)

    def _learn(self, step: int, part: Compared, tally: Tally, backward: Callable[[Tensor], None]) -> None:
        """Both passes of a micro-batch, unless the first is known, and backward."""
        batch = part.batch
        with self._probes.watch_again(part.seen) as seen:  # through backward: with checkpointing layers run again then
            if self._config.needs_reference and part.reference is None:
                part.reference = self._reference_errors(batch)  # 6: (B,)
            seen.is_tuned = True
            tuned = self._errors(batch, self._captions.states(batch.photos))  # 7, 8: (B,)
            self._count(part, tuned.detach(), tally)
            weights = self._weights_after(batch, tally)  # 9, 10: (B,)
            features, maps = seen.stabilization(), seen.alignment()  # (B,)
            terms = terms_of(weights, tuned, features, maps, self._noise_weights(batch))
            self.loss_weights.measure(step, terms, self._base.denoiser)
            loss = objective(terms, self.loss_weights.lambda_rs, self.loss_weights.lambda_aa)
            backward(loss / self._config.accumulate)
        reference = torch.zeros_like(tuned) if part.reference is None else part.reference
        told = torch.stack([torch.ones_like(tuned), tuned, reference, features, maps]).detach()  # (5, B)
        tally.totals = tally.totals + (told * batch.counts).sum(dim=1)

    def _reference_errors(self, batch: Batch) -> Tensor:
        """Errors (B,) of the untrained model; what it is told may differ."""
        with reference_pass(self._base.denoiser):
            return self._errors(batch, self._captions.reference_states(batch.photos))

    def _errors(self, batch: Batch, states: PromptStates) -> Tensor:
        """Mean squared error of each sample (B,) over the cells that count, in the base's own space, in fp32; 0 if none does."""
        states = dataclasses.replace(states, origins=batch.origins)
        prediction = self._base.predict(batch.noisy, batch.timesteps, states)  # (B, C, h, w)
        target = self._base.target(batch.latents, batch.noise, batch.timesteps)  # (B, C, h, w)
        return masked_mean((prediction.float() - target.float()).square(), batch.mask)  # (B, C, h, w) -> (B,)

    def _count(self, part: Compared, tuned: Tensor, tally: Tally) -> None:
        """Take both errors (B,) of a micro-batch into the sums, once, in eps space."""
        if part.reference is None or part.is_counted:
            return
        batch = part.batch
        losses = torch.stack([tuned, part.reference]) * self._base.in_eps_space(batch.timesteps)  # (2, B)
        counted_bins = torch.where(batch.counts > 0, batch.bins, -1)
        sums, counts = step_sums(losses[0], losses[1], counted_bins)  # (2, N) and (N,)
        tally.sums = tally.sums + torch.cat([sums, counts[None]])
        part.is_counted = True

    def _weights_after(self, batch: Batch, tally: Tally) -> Tensor:
        """Weights (B,) by the indicator as it is with this step's errors of all processes in it; on the device."""
        indicator = self.indicator.on(self._base.device)
        if self._config.weighting:
            joint = self._processes.add_up(tally.sums)  # (3, N)
            indicator.update(joint[:2], joint[2])
        return self._weights(indicator, batch.bins)

    def _weights(self, indicator: Indicator, bins: Tensor) -> Tensor:
        """1 - gamma of each sample's bin (B,); ones where weighting is off."""
        weights = loss_weight(indicator.gamma()[bins])  # (N,) -> (B,)
        return weights if self._config.weighting else torch.ones_like(weights)

    def _noise_weights(self, batch: Batch) -> Tensor:
        """Min-SNR weight of each sample (B,)."""
        snr, in_eps_space = self._base.snr(batch.timesteps), self._base.in_eps_space(batch.timesteps)
        return min_snr_weight(snr, in_eps_space, self._config.min_snr_gamma)

    def _learn_prior(self, step: int, backward: Callable[[Tensor], None]) -> Tensor:
        """The same loss on the base's own pictures of the class, unwarped and unweighed: DreamBooth's prior preservation."""
        total = torch.zeros((), device=self._base.device)
        for numbers in self._micro_batches if self._prior is not None else ():
            assert self._prior
            draws = self._draw_all(step, numbers, self._prior, "prior")
            batch = Batch.of(draws, self._prior, self._base, self._config.border)
            errors = self._errors(batch, self._prior_states.expand(len(draws)))  # (B,)
            loss = (self._noise_weights(batch) * errors).mean() / self._config.accumulate  # (B,) -> ()
            backward(self._config.prior_weight * loss)
            total = total + loss.detach()
        return total

    def _fetch(self, tally: Tally, prior_loss: Tensor, norm: Tensor) -> list[Tensor]:
        """All that a step measured, over all processes, in the one transfer that waits for the device.

        Returns:
            sums (3, N), totals (6,) of which the last is the prior's loss, the gradient's norm (), and norms for calibration.
        """
        totals = torch.cat([tally.totals, prior_loss[None]])
        joint = self._processes.add_up(torch.cat([tally.sums.flatten(), totals]))
        parts = [joint, norm.to(joint).flatten(), self.loss_weights.norms().to(joint)]
        sums, totals, norm, norms = to_cpu(torch.cat(parts)).split([3 * BINS, len(totals), 1, len(parts[2])])
        return [sums.view(3, BINS), totals, norm[0], norms]


def to_cpu(numbers: Tensor) -> Tensor:
    """Numbers (n,) of the device on the CPU."""
    return numbers.detach().cpu()
