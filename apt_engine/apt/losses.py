"""The losses that APT's objective is made of: denoising errors, stabilized features, aligned attention.

B samples, C channels, P spatial positions, h heads, Q queries (positions), K tokens.
"""

import torch
from torch import Tensor

EPSILON = 1e-6


def min_snr_weight(snr: Tensor, in_eps_space: Tensor, gamma: float) -> Tensor:
    """Weight (B,) of a denoising loss by its noise level: min(SNR, gamma) / SNR in eps space; all 1 when gamma is 0.

    Source: Hang et al. 2023, arXiv 2303.09556, equation 5 and section 3.4.

    Args:
        snr: signal-to-noise ratio (B,) > 0.
        in_eps_space: (B,), from the loss's own space to eps space: 1 where noise is predicted, SNR / (SNR + 1) for velocities.
        gamma: the ratio from which on noise levels count less, usually 5.
    """
    if gamma == 0:
        return torch.ones_like(snr)
    return snr.clamp(max=gamma) * in_eps_space / snr


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean (B,) of values (B, C, h, w) over channels and the latent cells where mask (B, h, w) is 1; 0 if there are none."""
    weights = mask[:, None].to(values.dtype)
    return (values * weights).sum(dim=(1, 2, 3)) / (weights.sum(dim=(1, 2, 3)) * values.shape[1]).clamp(min=1)


def shares(mask: Tensor) -> Tensor:
    """How much each position counts among all (B, P), from masks (B, P) in 0 .. 1, in fp32; all 0 where the mask is."""
    weights = mask.float()
    return weights / weights.sum(dim=1, keepdim=True).clamp(min=EPSILON)


def channel_statistics(features: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (B, C) of features (B, P, C) over positions, each as heavy as its mask (B, P), in fp32.

    The deviation is sqrt(var + 1e-6), var without Bessel's correction: its gradient stays finite where var is 0.
    """
    features, weights = features.float(), shares(mask)[:, :, None]
    mean = (features * weights).sum(dim=1)
    variance = ((features - mean[:, None]).square() * weights).sum(dim=1)
    return mean, (variance + EPSILON).sqrt()


def stabilization(tuned: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> Tensor:
    """RS of one layer (B,): mean over channels of (mu_t - mu_r)^2 + (sd_t - sd_r)^2 [readers].

    Args:
        tuned, reference: channel statistics (B, C) of the self-attention output before its output projection.
    """
    return sum(
        ((ours - theirs).square().mean(dim=1) for ours, theirs in zip(tuned, reference, strict=True)), torch.zeros(())
    )


def alignment(tuned: Tensor, reference: Tensor, mask: Tensor) -> Tensor:
    """AA of one layer (B,): mean of (A_t - A_r)^2 over heads, tokens and queries, each query as heavy as its mask.

    That attention to the words is compared, from Q and K alone, is [paper]; the mean over tokens and positions is [ours].

    Args:
        tuned, reference: maps (B, h, Q, J) of attention to the words, after the softmax, of the tokens that are no padding.
        mask: (B, Q) in 0 .. 1, how much of each position lies inside the photo.
    """
    squares = (tuned.float() - reference.float()).square().mean(dim=(1, 3))
    return (squares * shares(mask)).sum(dim=1)
