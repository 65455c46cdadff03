"""Adaptive augmentation: photos that are fitted too closely are shown smaller and tilted.

    p = clamp(gamma_b, 0, p_max), p_max = 0.8 [readers]
    one affine warp of the photo in pixels: shrunk to 1 / zoom, zoom ~ U(1, 3), and turned by U(-15, 15) degrees,
    about the center; outside is black; before the VAE [paper, readers].

[ours]: the warp comes with a mask of what is photo, because black borders are learnable.
Shapes: B pictures, H and W their sides in pixels, h = H/f and w = W/f those of their latents.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

ZOOM_RANGE = (1.0, 3.0)
ROTATION_DEGREES = 15.0
BLACK = -1.0


@dataclass(frozen=True)
class Warp:
    """A photo shrunk to 1 / `zoom` (>= 1) and turned counter-clockwise by `rotation_degrees`."""

    zoom: float
    rotation_degrees: float


def augmentation_probability(gamma: float, p_max: float) -> float:
    """Chance that a sample is warped, 0 .. p_max, from the indicator of its bin."""
    return min(max(gamma, 0.0), p_max)


def draw_warp(
    generator: torch.Generator, max_zoom: float = ZOOM_RANGE[1], max_rotation: float = ROTATION_DEGREES
) -> Warp:
    """A warp with zoom in U(1, max_zoom) and rotation in U(-max_rotation, max_rotation) degrees."""
    zoom, turn = torch.rand(2, generator=generator).tolist()
    return Warp(1 + zoom * (max_zoom - 1), (2 * turn - 1) * max_rotation)


def warp_pixels(pixels: Tensor, warp: Warp) -> tuple[Tensor, Tensor]:
    """A warped picture and the mask of its valid part.

    Args:
        pixels: (3, H, W) in [-1, 1].
        warp: what to do.

    Returns:
        pixels (3, H, W) with black outside, and a mask (H, W) that is 1 where the whole pixel comes from the photo.
    """
    height, width = pixels.shape[1:]
    # Shrinking by sampling alone would alias: resize with a filter first, then turn what is nearly the right size.
    small = F.interpolate(
        pixels[None],
        size=(max(1, round(height / warp.zoom)), max(1, round(width / warp.zoom))),
        mode="bilinear",
        antialias=True,
        align_corners=False,
    )
    angle = math.radians(warp.rotation_degrees)
    cos, sin = math.cos(angle) * warp.zoom, math.sin(angle) * warp.zoom
    ratio = width / height
    theta = torch.tensor([[[cos, -sin / ratio, 0.0], [sin * ratio, cos, 0.0]]], dtype=pixels.dtype)
    grid = F.affine_grid(theta, [1, 1, height, width], align_corners=False)
    # Black is 0 after the shift, so that the padding and the blend at the edge are black too.
    warped = F.grid_sample(small - BLACK, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0] + BLACK
    inside = F.grid_sample(
        torch.ones_like(small[:, :1]), grid, mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return warped, (inside[0, 0] > 1 - 1e-4).to(pixels.dtype)


def latent_mask(mask: Tensor, factor: int) -> Tensor:
    """The mask (h, w) of latent cells that lie wholly inside the photo, eroded by one cell, from a pixel mask (H, W).

    The picture's own edge is no border: cells there erode only where the photo's edge is near.
    """
    cells = -F.max_pool2d(-mask[None, None], factor)
    padded = F.pad(cells, (1, 1, 1, 1), value=1.0)
    return -F.max_pool2d(-padded, 3, stride=1)[0, 0]
