"""One step of adaptive training, in the order of the paper.

    1  draw a timestep for each sample          6   reference pass: LoRA off, no gradients
    2  gamma of its bin, from earlier steps     7   tuned pass on the same noisy latents
    3  coin, and the warp if it says so         8   error of each sample
    4  latents                                  9   update the indicator with both errors
    5  noise, noisy latents                     10  weigh, add RS and AA, backward

Shapes: B samples of this step, C latent channels, h and w latent height and width, N timestep bins.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from apt_engine.apt import random
from apt_engine.apt.augment import augmentation_probability
from apt_engine.apt.indicator import OverfittingIndicator, step_sums
from apt_engine.apt.losses import masked_mean, min_snr_weight
from apt_engine.apt.memorized import SplitIndicator
from apt_engine.apt.objective import loss_weight, objective, terms_of
from apt_engine.bases.base import BaseModel, PromptStates
from apt_engine.lora.adapter import reference_pass
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.calibration import LossWeights
from apt_engine.training.captions import Captions, class_caption
from apt_engine.training.latents import LatentSource, View
from apt_engine.training.processes import ALONE, Processes
from apt_engine.training.watch import Probes

Indicator = OverfittingIndicator | SplitIndicator


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One draw: a timestep, a photo and the chance that it had of being warped, its view, latents and noise (C, h, w)."""

    timestep: float
    photo: int
    chance: float
    view: View
    latents: Tensor
    noise: Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What a step trains on, on the device, and what is told of it.

    Attributes:
        latents, noise, noisy: x_0, eps and x_t (B, C, h, w).
        timesteps: (B,).
        mask: (B, h, w), 1 for latent cells that count; a sample of which none counts has no error.
        bins: (B,), on the CPU.
        photos: number of each sample's photo.
        chances: of each sample to be warped.
        warped: whether it was.
        shown: small pictures of the warped ones.
    """

    latents: Tensor
    noise: Tensor
    noisy: Tensor
    timesteps: Tensor
    mask: Tensor
    bins: Tensor
    photos: tuple[int, ...]
    chances: tuple[float, ...]
    warped: tuple[bool, ...]
    shown: tuple[Image.Image, ...]

    @classmethod
    def of(cls, samples: Sequence[Sample], base: BaseModel, border: str) -> "Batch":
        """The draws of all samples, stacked and made noisy; with the border of the paper every latent cell counts."""
        numbers = torch.tensor([sample.timestep for sample in samples])  # (B,), on the CPU
        timesteps = numbers.to(base.device)
        latents = torch.stack([sample.latents for sample in samples])  # (C, h, w) -> (B, C, h, w)
        noise = torch.stack([sample.noise for sample in samples]).to(base.device)  # (C, h, w) -> (B, C, h, w)
        mask = torch.stack([sample.view.mask for sample in samples])  # (h, w) -> (B, h, w)
        return cls(
            latents=latents,
            noise=noise,
            noisy=base.add_noise(latents, noise, timesteps),
            timesteps=timesteps,
            mask=torch.ones_like(mask) if border == "paper" else mask,
            bins=base.bin_of(numbers),
            photos=tuple(sample.photo for sample in samples),
            chances=tuple(sample.chance for sample in samples),
            warped=tuple(sample.view.shown is not None for sample in samples),
            shown=tuple(sample.view.shown for sample in samples if sample.view.shown is not None),
        )

    @property
    def counts(self) -> Tensor:
        """(B,), 1 for samples of which some cell counts, else 0."""
        return self.mask.amax(dim=(1, 2))

    def mean(self, errors: Tensor) -> Tensor:
        """Mean () of errors (B,) over the samples that count; 0 if none does."""
        return (errors * self.counts).sum() / self.counts.sum().clamp(min=1)


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step measured, on the device, to be fetched together: weights 1 - gamma (B,), the others scalars.

    None stands for what was switched off.
    """

    batch: Batch
    weights: Tensor
    loss: Tensor
    reference_loss: Tensor | None
    stabilization: Tensor | None
    alignment: Tensor | None
    prior_loss: Tensor | None

    def per_sample(self) -> Tensor:
        """(B, 4) on the device: timestep, chance of a warp, whether it came, weight."""
        batch = self.batch
        rows = [torch.tensor(values, device=batch.timesteps.device) for values in (batch.chances, batch.warped)]
        return torch.stack([row.double() for row in (batch.timesteps, *rows, self.weights)], dim=1)


class AdaptiveStep:
    """The step of APT. Each part has its own switch in the config; with all off it is the plain DreamBooth LoRA step.

    Args:
        captions: of each photo, where they have their own.
        processes: those that share the batch; the loss handed to `backward` is of this one's samples alone.
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
        indicator: Indicator | None = None,
    ) -> None:
        self._config = config
        self._base = base
        self._photos = photos
        self._prior = prior
        self._processes = processes
        self._samples = processes.samples(config.batch_size)
        self._captions = Captions(base, config, captions)
        self._prior_states = base.encode_prompts([class_caption(config, config.caption)])
        self._probes = Probes(base, features=config.stabilization > 0, maps=config.alignment > 0)
        self.indicator: Indicator = indicator or OverfittingIndicator(config.indicator, config.sensitivity)
        self.loss_weights = LossWeights(config, processes)

    def __call__(self, step: int, backward: Callable[[Tensor], None]) -> StepResult:
        """Draw, compare, and hand each loss to `backward`; the optimizer's step is the caller's.

        The loss may be anything, finite or not: the indicator takes in finite numbers alone. A sample of which nothing counts
        is 0 in every term; the divisor stays B, so that parts of a batch add up.
        """
        batch = self._draw(step, self._photos, "photos")  # 1 to 5
        # Watched through backward: with checkpointing layers run again then.
        with self._probes.watch(batch.mask, self._captions.tokens(batch.photos)) as seen:
            reference = self._reference_errors(batch) if self._config.needs_reference else None  # 6: (B,)
            seen.is_tuned = True
            tuned = self._errors(batch, self._captions.states(batch.photos))  # 7, 8: (B,)
            if reference is not None:
                self._observe(batch, tuned.detach(), reference)  # 9
            weights = self._weights(batch)  # 10: (B,)
            terms = terms_of(weights, tuned, seen.stabilization(), seen.alignment(), self._noise_weights(batch))
            self.loss_weights.calibrate(step, terms, self._base.denoiser)
            backward(objective(terms, self.loss_weights.lambda_rs, self.loss_weights.lambda_aa))
        return StepResult(
            batch=batch,
            weights=weights,
            loss=batch.mean(tuned.detach()),
            reference_loss=None if reference is None else batch.mean(reference),
            stabilization=terms.stabilization.detach() if self._config.stabilization else None,
            alignment=terms.alignment.detach() if self._config.alignment else None,
            prior_loss=self._prior_step(step, backward),
        )

    def state_dict(self) -> dict[str, Tensor]:
        """What must survive a resume besides LoRA and optimizer."""
        return {**self.indicator.state_dict(), **self.loss_weights.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a saved state, exactly."""
        self.indicator.load_state_dict(state)
        self.loss_weights.load_state_dict(state)

    def _draw(self, step: int, source: LatentSource, purpose: str) -> Batch:
        """This process's samples of a step."""
        samples = [self._draw_sample(step, number, source, purpose) for number in self._samples]
        return Batch.of(samples, self._base, self._config.border)

    def _draw_sample(self, step: int, number: int, source: LatentSource, purpose: str) -> Sample:
        """From generators of its own: the timestep first, the photo second, the coin and the warp apart."""
        generator = random.generator(self._config.seed, step, number, purpose)
        timestep = self._base.draw_timestep(generator)
        photo = int(torch.randint(len(source), (), generator=generator))
        chance = self._chance(timestep) if purpose == "photos" else 0.0
        view = self._view(source, photo, chance, random.generator(self._config.seed, step, number, "warp"))
        return Sample(
            timestep=timestep,
            photo=photo,
            chance=chance,
            view=view,
            latents=view.draw(generator),  # (C, h, w)
            noise=torch.randn(view.mean.shape, generator=generator),  # (C, h, w)
        )

    def _chance(self, timestep: float) -> float:
        """That a sample of this timestep is warped, by gamma of earlier steps."""
        gamma = self.indicator.gamma()[self._base.bin_of(torch.tensor(timestep))]  # (N,) -> ()
        return augmentation_probability(float(gamma), self._config.augmentation)

    def _view(self, source: LatentSource, photo: int, chance: float, generator: torch.Generator) -> View:
        is_warped = float(torch.rand((), generator=generator)) < chance
        return source.warped(photo, generator) if is_warped else source.plain[photo]

    def _reference_errors(self, batch: Batch) -> Tensor:
        """Errors (B,) of the untrained model; what it is told may differ."""
        with reference_pass(self._base.denoiser):
            return self._errors(batch, self._captions.reference_states(batch.photos))

    def _errors(self, batch: Batch, states: PromptStates) -> Tensor:
        """Mean squared error of each sample (B,) over the cells that count, in the base's own space, in fp32; 0 if none does."""
        prediction = self._base.predict(batch.noisy, batch.timesteps, states)  # (B, C, h, w)
        target = self._base.target(batch.latents, batch.noise, batch.timesteps)  # (B, C, h, w)
        return masked_mean((prediction.float() - target.float()).square(), batch.mask)  # (B, C, h, w) -> (B,)

    def _observe(self, batch: Batch, tuned: Tensor, reference: Tensor) -> None:
        """Take both losses (B,) into the indicator, in eps space."""
        losses = torch.stack([tuned, reference]) * self._base.in_eps_space(batch.timesteps)  # (2, B)
        losses = losses.double().cpu()
        known = torch.isfinite(losses).all(dim=0) & (batch.counts > 0).cpu()  # (B,)
        sums, counts = step_sums(losses[0, known], losses[1, known], batch.bins[known])  # (2, N) and (N,)
        joint = self._processes.add_up(torch.cat([sums, counts[None]]))  # (3, N)
        self.indicator.update(joint[:2], joint[2])

    def _weights(self, batch: Batch) -> Tensor:
        """1 - gamma of each sample's bin (B,), after this step's update; ones where weighting is off."""
        if not self._config.weighting:
            return torch.ones(len(batch.bins), device=self._base.device)
        return loss_weight(self.indicator.gamma()[batch.bins]).float().to(self._base.device)  # (N,) -> (B,)

    def _noise_weights(self, batch: Batch) -> Tensor:
        """Min-SNR weight of each sample (B,)."""
        snr, in_eps_space = self._base.snr(batch.timesteps), self._base.in_eps_space(batch.timesteps)
        return min_snr_weight(snr, in_eps_space, self._config.min_snr_gamma)

    def _prior_step(self, step: int, backward: Callable[[Tensor], None]) -> Tensor | None:
        """The same loss on the base's own pictures of the class, unwarped and unweighed: DreamBooth's prior preservation."""
        if self._prior is None:
            return None
        batch = self._draw(step, self._prior, "prior")
        errors = self._errors(batch, self._prior_states.expand(len(batch.photos)))  # (B,)
        loss = (self._noise_weights(batch) * errors).mean()  # (B,) -> ()
        backward(self._config.prior_weight * loss)
        return loss.detach()
