"""One step of training: draw, add noise, predict, compare, learn.

Shapes: B samples of this step, C latent channels, h and w latent height and width, L tokens, D width of a token state.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from apt_engine import random
from apt_engine.bases.base import BaseModel
from apt_engine.config import TrainingConfig
from apt_engine.latents import LatentSource


@dataclass(frozen=True)
class Batch:
    """What a step trains on: latents (B, C, h, w), noise as latents, timesteps (B,), states (B, L, D)."""

    latents: Tensor
    noise: Tensor
    timesteps: Tensor
    states: Tensor


def draw_batch(
    config: TrainingConfig, base: BaseModel, source: LatentSource, states: Tensor, *, step: int, purpose: str
) -> Batch:
    """The samples of a step, each from generators keyed by (seed, step, sample): timestep first, photo second."""
    latents, noise, timesteps = [], [], []
    for sample in range(config.batch_size):
        generator = random.generator(config.seed, step, sample, purpose)
        timesteps.append(int(torch.randint(base.train_timesteps, (), generator=generator)))
        photo = int(torch.randint(len(source), (), generator=generator))
        latents.append(source.draw(photo, generator))
        noise.append(torch.randn(latents[-1].shape, generator=generator))
    return Batch(
        latents=torch.stack(latents),
        noise=torch.stack(noise).to(base.device),
        timesteps=torch.tensor(timesteps, device=base.device),
        states=states.expand(config.batch_size, -1, -1),
    )


def min_snr_weights(snr: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """Loss weights (B,): min(SNR, gamma) / SNR, for v-prediction over SNR + 1; all 1 when gamma is 0.

    Source: Hang et al. 2023, arXiv 2303.09556, equation 5 and section 3.4.
    """
    if gamma == 0:
        return torch.ones_like(snr)
    return snr.clamp(max=gamma) / (snr if prediction_type == "epsilon" else snr + 1)


def prediction_errors(base: BaseModel, batch: Batch) -> Tensor:
    """Mean squared error of each sample (B,), in the space the base predicts in, computed in fp32."""
    noisy_latents = base.add_noise(batch.latents, batch.noise, batch.timesteps)
    prediction = base.predict(noisy_latents, batch.timesteps, batch.states)
    target = base.target(batch.latents, batch.noise, batch.timesteps)
    return (prediction.float() - target.float()).square().mean(dim=(1, 2, 3))


class DreamBoothStep:
    """The plain DreamBooth LoRA step (arXiv 2208.12242), with optional prior preservation: the baseline to beat."""

    def __init__(
        self,
        config: TrainingConfig,
        base: BaseModel,
        photos: LatentSource,
        prior: LatentSource | None = None,
    ) -> None:
        self._config = config
        self._base = base
        self._photos = photos
        self._prior = prior
        self._photo_states = base.encode_prompts([config.fill(config.caption)])
        self._prior_states = base.encode_prompts([prior_caption(config)]) if prior else None

    def losses(self, step: int) -> tuple[Tensor, Tensor | None]:
        """Loss on the photos and, with prior preservation, on the prior pictures: scalars with a graph."""
        loss = self._loss(self._photos, self._photo_states, step, "photos")
        if self._prior is None or self._prior_states is None:
            return loss, None
        return loss, self._loss(self._prior, self._prior_states, step, "prior")

    def _loss(self, source: LatentSource, states: Tensor, step: int, purpose: str) -> Tensor:
        batch = draw_batch(self._config, self._base, source, states, step=step, purpose=purpose)
        weights = min_snr_weights(
            self._base.snr(batch.timesteps), self._config.min_snr_gamma, self._base.prediction_type
        )
        return (weights * prediction_errors(self._base, batch)).mean()


def prior_caption(config: TrainingConfig) -> str:
    """The photos' caption with the class word alone, no identifier: what the base model calls such a thing."""
    return config.caption.replace("{subject}", config.subject)
