"""One step of adaptive training, in the order of the paper: draw, warp, add noise, look twice, compare, weigh, learn.

Shapes: B samples of this step, C latent channels, h and w latent height and width.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from apt_engine import random
from apt_engine.apt.augment import augmentation_probability
from apt_engine.apt.indicator import OverfittingIndicator, step_sums
from apt_engine.apt.losses import loss_weight, masked_mean, min_snr_weight
from apt_engine.bases.base import BaseModel, PromptStates
from apt_engine.lora.adapter import reference_pass
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.calibration import Lambdas
from apt_engine.training.captions import Captions, class_caption
from apt_engine.training.latents import LatentSource, View
from apt_engine.training.processes import ALONE, Processes
from apt_engine.training.watch import Probes


@dataclass(frozen=True)
class Batch:
    """What a step trains on: latents and noise (B, C, h, w), timesteps (B,), mask (B, h, w) of latent cells that count.

    `bins` (B,) on the CPU; for each sample its photo, the chance it had of being warped and whether it was; `shown` pictures
    of the warped.
    """

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    mask: Tensor
    bins: Tensor
    photos: tuple[int, ...]
    chances: tuple[float, ...]
    warped: tuple[bool, ...]
    shown: tuple[Image.Image, ...]


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step measured: scalars on the device, to be fetched together; None for what was switched off."""

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
        self.indicator = OverfittingIndicator(config.indicator, config.sensitivity)
        self.lambdas = Lambdas(config, processes)

    def __call__(self, step: int, backward: Callable[[Tensor], None]) -> StepResult:
        """Draw, compare, and hand each loss to `backward`; the optimizer's step is the caller's.

        The loss may be anything, finite or not: the indicator takes in finite numbers alone.
        """
        config, base = self._config, self._base
        batch = self._draw(step, self._photos, "photos")
        reference = None
        with self._probes.watch(
            batch.mask, self._captions.tokens(batch.photos)
        ) as seen:  # around backward too: checkpointing runs layers again
            if config.needs_reference:
                with reference_pass(base.denoiser):
                    reference = self._errors(batch, self._captions.reference_states(batch.photos))
                seen.is_tuned = True
            tuned = self._errors(batch, self._captions.states(batch.photos))
            if reference is not None:
                self._observe(batch, tuned.detach(), reference)
            weights = self._weights(batch)
            denoising = (weights * self._snr_weights(batch) * tuned).mean()
            stabilization, alignment = seen.stabilization().mean(), seen.alignment().mean()
            backward(self.lambdas.total(step, denoising, stabilization, alignment, base.denoiser))
        prior_loss = self._prior_step(step, backward)
        return StepResult(
            batch=batch,
            weights=weights,
            loss=tuned.detach().mean(),
            reference_loss=None if reference is None else reference.mean(),
            stabilization=stabilization.detach() if config.stabilization else None,
            alignment=alignment.detach() if config.alignment else None,
            prior_loss=prior_loss,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """What must survive a resume besides LoRA and optimizer."""
        return {**self.indicator.state_dict(), **self.lambdas.state_dict()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a saved state, exactly."""
        self.indicator.load_state_dict(state)
        self.lambdas.load_state_dict(state)

    def _draw(self, step: int, source: LatentSource, purpose: str) -> Batch:
        """Each sample from generators of its own: the timestep first, the photo second, the coin and the warp apart."""
        gamma = self.indicator.gamma().tolist()
        latents, noise, masks, timesteps, chances, views, photos = [], [], [], [], [], [], []
        for sample in self._samples:
            generator = random.generator(self._config.seed, step, sample, purpose)
            timesteps.append(self._base.draw_timestep(generator))
            photo = int(torch.randint(len(source), (), generator=generator))
            chance = 0.0
            if purpose == "photos":
                bin_index = int(self._base.bin_of(torch.tensor(timesteps[-1])))
                chance = augmentation_probability(gamma[bin_index], self._config.augmentation)
            view = self._view(source, photo, chance, random.generator(self._config.seed, step, sample, "warp"))
            latents.append(view.draw(generator))
            noise.append(torch.randn(view.mean.shape, generator=generator))
            masks.append(view.mask)
            chances.append(chance)
            views.append(view)
            photos.append(photo)
        mask = torch.stack(masks)
        if self._config.border == "paper":
            mask = torch.ones_like(mask)
        numbers = torch.tensor(timesteps)
        return Batch(
            latents=torch.stack(latents),
            noise=torch.stack(noise).to(self._base.device),
            timesteps=numbers.to(self._base.device),
            mask=mask,
            bins=self._base.bin_of(numbers),
            photos=tuple(photos),
            chances=tuple(chances),
            warped=tuple(view.shown is not None for view in views),
            shown=tuple(view.shown for view in views if view.shown is not None),
        )

    def _view(self, source: LatentSource, photo: int, chance: float, generator: torch.Generator) -> View:
        is_warped = float(torch.rand((), generator=generator)) < chance
        return source.warped(photo, generator) if is_warped else source.plain[photo]

    def _errors(self, batch: Batch, states: PromptStates) -> Tensor:
        """Mean squared error of each sample (B,) over the cells that count, in the space the base predicts in, in fp32."""
        noisy_latents = self._base.add_noise(batch.latents, batch.noise, batch.timesteps)
        prediction = self._base.predict(noisy_latents, batch.timesteps, states)
        target = self._base.target(batch.latents, batch.noise, batch.timesteps)
        return masked_mean((prediction.float() - target.float()).square(), batch.mask)

    def _observe(self, batch: Batch, tuned: Tensor, reference: Tensor) -> None:
        """Take both losses into the indicator, in eps space."""
        losses = (torch.stack([tuned, reference]) * self._base.in_eps_space(batch.timesteps)).double().cpu()
        finite = torch.isfinite(losses).all(dim=0)
        sums, counts = step_sums(losses[0, finite], losses[1, finite], batch.bins[finite])
        joint = self._processes.add_up(torch.cat([sums, counts[None]]))
        self.indicator.update(joint[:2], joint[2])

    def _weights(self, batch: Batch) -> Tensor:
        """1 - gamma of each sample's bin (B,), after this step's update; ones where weighting is off."""
        if not self._config.weighting:
            return torch.ones(len(batch.bins), device=self._base.device)
        return loss_weight(self.indicator.gamma()[batch.bins]).float().to(self._base.device)

    def _snr_weights(self, batch: Batch) -> Tensor:
        snr, in_eps_space = self._base.snr(batch.timesteps), self._base.in_eps_space(batch.timesteps)
        return min_snr_weight(snr, in_eps_space, self._config.min_snr_gamma)

    def _prior_step(self, step: int, backward: Callable[[Tensor], None]) -> Tensor | None:
        """The same loss on the base's own pictures of the class, unwarped and unweighed: DreamBooth's prior preservation."""
        if self._prior is None:
            return None
        batch = self._draw(step, self._prior, "prior")
        loss = (self._snr_weights(batch) * self._errors(batch, self._prior_states.expand(len(batch.photos)))).mean()
        backward(self._config.prior_weight * loss)
        return loss.detach()
