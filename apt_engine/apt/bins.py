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
    """Per bin (N,) the sum of the values (B,) that fall into it, and how many they are; a value in bin -1 falls into none.

    Sums and counts, not means: those of several processes may be added. All stays where it is, a GPU included.
    """
    is_in = bin_indices == torch.arange(bins, device=values.device)[:, None]  # (N, B)
    return torch.where(is_in, values, 0).sum(dim=1), is_in.to(values.dtype).sum(dim=1)
