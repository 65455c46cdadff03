"""Prior drift: how far training has moved the model where the subject is not asked for.

drift = mean over prompts, noise levels and pixels of |eps_tuned - eps_ref|^2,
on latents that the base model itself made from prompts without the subject. 0 before the first step.

Each prompt has one noise level of its own, always the same: that costs a pass a prompt. A thorough measurement takes all levels.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from apt_engine.bases import random
from apt_engine.bases.base import BaseModel
from apt_engine.lora.adapter import reference_pass
from apt_engine.sampling.sampler import Picture, Sampler
from apt_engine.settings.training import TrainingConfig

LEVELS = 5  # noise levels of a thorough measurement, evenly spaced
DRAWING_STEPS = 8  # of the latents, without guidance: what the base itself makes of the prompts


class PriorDrift:
    """Measures one model against itself without its LoRA, always on the same noisy latents.

    Args:
        base: with its LoRA attached, trained or not.
        config: seed, size, the prompts, and whether to be thorough.
        on_step: told how far the drawing of the latents is (0 to 1); what it raises ends it.
    """

    def __init__(
        self, base: BaseModel, config: TrainingConfig, on_step: Callable[[float], None] = lambda fraction: None
    ) -> None:
        """Lets the base draw its latents once, (prompts, C, h, w)."""
        self._base = base
        drawn = [Picture.of(config, prompt, config.seed + index) for index, prompt in enumerate(config.drift_prompts)]
        pictures = [dataclasses.replace(picture, steps=DRAWING_STEPS, guidance_scale=1.0) for picture in drawn]
        with reference_pass(base.denoiser):
            self._latents = torch.cat(list(Sampler(base).latents(pictures, on_step)))
        self._seed = config.seed
        self._states = base.encode_prompts(list(config.drift_prompts))
        count = len(pictures)
        levels, own = torch.tensor(base.levels(LEVELS)), torch.tensor(base.levels(count))
        # Of levels, then prompts.
        self._timesteps = levels[:, None].expand(-1, count) if config.thorough_checks else own[None]
        self._reference: list[Tensor] = []

    @torch.no_grad()
    def measure(self) -> float:
        """The drift now: a pass a prompt and level, and the first time one more of the untrained model."""
        total = self._latents.new_zeros(())
        for level, row in enumerate(self._timesteps):
            timesteps = row.to(self._base.device)
            noise = torch.stack([self._noise(level, index) for index in range(len(self._latents))])
            noisy_latents = self._base.add_noise(self._latents, noise.to(self._latents), timesteps)
            if level == len(self._reference):
                with reference_pass(self._base.denoiser):
                    self._reference.append(self._base.predict(noisy_latents, timesteps, self._states).float())
            difference = self._base.predict(noisy_latents, timesteps, self._states).float() - self._reference[level]
            total = total + (self._base.in_eps_space(timesteps) * difference.square().mean((1, 2, 3))).mean()
        return float(total / len(self._timesteps))

    def _noise(self, level: int, index: int) -> Tensor:
        return torch.randn(self._latents.shape[1:], generator=random.generator(self._seed, level, index, "drift"))
