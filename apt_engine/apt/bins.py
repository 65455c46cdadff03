"""Timestep bins: the range of diffusion steps cut into equal parts.

B samples of a step, N bins.
"""

import torch
from torch import Tensor

BINS = 10  # [paper, readers]


def bin_of(timesteps: Tensor, train_timesteps: int, bins: int = BINS) -> Tensor:
    """The bin (B,) of integer timesteps (B,) in 0 .. train_timesteps - 1: b = floor(bins * t / T)."""
    return timesteps * bins // train_timesteps


def sums_and_counts(values: Tensor, bin_indices: Tensor, bins: int = BINS) -> tuple[Tensor, Tensor]:
    """Per bin (N,) the sum of the values (B,) that fall into it, in fp64, and how many they are.

    Sums and counts, not means: those of several processes may be added.
    """
    counts = torch.bincount(bin_indices, minlength=bins).double()
    return torch.bincount(bin_indices, weights=values.double(), minlength=bins), counts
