"""The noise levels of rectified flow, as Flux, SD3 and their kin have them.

    x_t = (1 - s) x0 + s eps,  t = 1000 s,  the network is to say v = eps - x0

A level is drawn as u = sigmoid(z), z ~ N(0, 1), and then shifted towards noise, s = k u / (1 + (k - 1) u): the more cells a
picture has, the more noise it takes to hide it. Source: Esser et al. 2024, arXiv 2403.03206, sections 3.1 and 5.3.2.
"""

import math
from typing import Any

import torch
from torch import Tensor

from apt_engine.apt.bins import BINS

TRAIN_TIMESTEPS = 1000


class FlowNoise:
    """Answers the questions about noise. `shift` is k, >= 1."""

    shift: float = 1.0

    def draw_timestep(self, generator: torch.Generator) -> float:
        return self._at(torch.randn((), generator=generator)).item()

    def bin_of(self, timesteps: Tensor) -> Tensor:
        """Tenths of what is drawn: the share of draws that have less noise, cut into equal parts."""
        share = self._share(timesteps.cpu().double())
        quantile = torch.special.ndtr(torch.logit(share / (self.shift - (self.shift - 1) * share)))
        return (quantile * BINS).long().clamp(0, BINS - 1)

    def levels(self, count: int) -> list[float]:
        """The middles of so many equal parts of what is drawn."""
        middles = (torch.arange(count, dtype=torch.float64) + 0.5) / count
        return self._at(torch.special.ndtri(middles)).tolist()

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        share = self._share(timesteps)[:, None, None, None]
        return (1 - share) * latents + share * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:  # noqa: ARG002  # the same at all
        return noise - latents

    def in_eps_space(self, timesteps: Tensor) -> Tensor:
        """Eps = x_t + (1 - s) v, hence L_eps = (1 - s)^2 L_v."""
        return (1 - self._share(timesteps)).square()

    def snr(self, timesteps: Tensor) -> Tensor:
        share = self._share(timesteps)
        return ((1 - share) / share).square()

    def _at(self, normal: Tensor) -> Tensor:
        """The timestep of a draw from N(0, 1)."""
        share = torch.sigmoid(normal.double())
        return TRAIN_TIMESTEPS * self.shift * share / (1 + (self.shift - 1) * share)

    @staticmethod
    def _share(timesteps: Tensor) -> Tensor:
        """How much of the mixture is noise."""
        return timesteps / TRAIN_TIMESTEPS


def shift_for(scheduler: Any, cells: int) -> float:
    """The shift that a scheduler's config asks for when a picture has so many cells: its logarithm lies on a line between two.

    This is what the training scripts of diffusers and OneTrainer call dynamic shifting. A sampler of few steps shifts more.
    """
    if not scheduler.use_dynamic_shifting:
        return scheduler.shift
    step = (scheduler.max_shift - scheduler.base_shift) / (scheduler.max_image_seq_len - scheduler.base_image_seq_len)
    return math.exp(scheduler.base_shift + step * (cells - scheduler.base_image_seq_len))
