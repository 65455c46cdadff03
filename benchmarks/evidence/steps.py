"""Steps of methods that the product does not have, told apart from its own by their weights or their draws alone.

    Direct Consistency Optimization, Lee, Kwak, Sohn and Shin, arXiv 2402.12004, on the losses of both models on one noise:

        L_DCO = -log sigmoid(-beta (L_tuned - L_ref))        beta 1000 to 2000 on SDXL, the same at all noise levels

    Its gradient is that of w L_tuned with w = beta sigmoid(beta (L_tuned - L_ref)) held fast: a weight of each sample, as
    1 - gamma is one of each timestep bin. The authors take the mean over a batch before the sigmoid, we after it, as the formula
    has it; they train one photo at a time, where both are one. Of a base that is not SDXL beta is its profile's sensitivity.

    Draws by gamma [ours]: a sample of bin b is drawn with q_b ~ a_b = max(1 - gamma_b, FLOOR) and counts mean(a) / a_b, gamma of
    earlier steps in both. The denoising loss is expected to be that of uniform draws, RS and AA follow the draws; steps go where
    there is something left to learn.

The numbers of the indicator are varied here too, where they are no settings: its rate a, and its bins.

B samples, N timestep bins of equal probability.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from apt_engine.apt import indicator
from apt_engine.apt.bins import BINS
from apt_engine.bases.base import BaseModel
from apt_engine.settings.training import TrainingConfig
from apt_engine.training import preparation
from apt_engine.training.draws import Batch
from apt_engine.training.latents import LatentSource
from apt_engine.training.step import AdaptiveStep, Compared, Tally

FLOOR = 0.1


def consistency_loss(tuned: Tensor, reference: Tensor, beta: float) -> Tensor:
    """L_DCO of each sample (B,); log 2 where both models are one."""
    return -F.logsigmoid(-beta * (tuned - reference))


def consistency_weight(tuned: Tensor, reference: Tensor, beta: float) -> Tensor:
    """The derivative of L_DCO by L_tuned (B,), beta / 2 where both models are one."""
    return beta * torch.sigmoid(beta * (tuned - reference))


def acceptance(gamma: Tensor) -> Tensor:
    """Share of the samples that are kept as they were drawn, of each bin (N,)."""
    return (1 - gamma).clamp(min=FLOOR)


class ConsistencyStep(AdaptiveStep):
    """The step of Direct Consistency Optimization; needs the reference pass, and no part of APT."""

    def _count(self, part: Compared, tuned: Tensor, tally: Tally) -> None:
        super()._count(part, tuned, tally)
        assert part.reference is not None
        self._errors_of = tuned, part.reference

    def _weights_after(self, batch: Batch, tally: Tally) -> Tensor:
        del tally
        noise_weights = self._noise_weights(batch)  # which the objective multiplies too: they stand inside the sigmoid
        tuned, reference = (noise_weights * errors for errors in self._errors_of)
        return consistency_weight(tuned, reference, self._config.sensitivity)


class AdaptedDraws(AdaptiveStep):
    """The step of APT whose timesteps are drawn by gamma."""

    def _timestep(self, generator: torch.Generator, purpose: str) -> float:
        chances = acceptance(self.indicator.gamma())  # (N,)
        while True:
            timestep = super()._timestep(generator, purpose)
            chance = chances[self._base.bin_of(torch.tensor(timestep))]
            if purpose != "photos" or float(torch.rand((), generator=generator)) < chance:
                return timestep

    def _weights_after(self, batch: Batch, tally: Tally) -> Tensor:
        chances = acceptance(self.indicator.gamma()).to(batch.bins.device)  # of earlier steps, as when they were drawn
        return super()._weights_after(batch, tally) * (chances.mean() / chances[batch.bins]).float()


class MergedBins(AdaptiveStep):
    """The step of APT whose indicator knows fewer bins: so many that lie side by side are one."""

    merged = 1

    def __init__(self, config: TrainingConfig, base: BaseModel, photos: LatentSource, *rest: Any, **named: Any) -> None:
        super().__init__(config, base, photos, *rest, **named)
        own: Any = base
        bin_of, merged = base.bin_of, self.merged
        # Of this base alone; nothing but the step asks.
        own.bin_of = lambda timesteps: bin_of(timesteps) // merged * merged


class FiveBins(MergedBins):
    """Two are one."""

    merged = 2


class OneBin(MergedBins):
    """All are one."""

    merged = BINS


@contextlib.contextmanager
def smoothing(rate: float) -> Iterator[None]:
    """Indicators of runs that are trained inside, in this process, take in new losses at this rate."""
    module: Any = indicator
    before, module.EMA_RATE = module.EMA_RATE, rate
    try:
        yield
    finally:
        module.EMA_RATE = before


@contextlib.contextmanager
def stepping(kind: type[AdaptiveStep]) -> Iterator[None]:
    """Runs that are trained inside, in this process, take this kind of step."""
    module: Any = preparation
    before, module.AdaptiveStep = module.AdaptiveStep, kind
    try:
        yield
    finally:
        module.AdaptiveStep = before
