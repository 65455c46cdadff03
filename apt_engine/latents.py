"""Photos as latents, encoded once and kept."""

from collections.abc import Sequence
from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import Tensor

from apt_engine.bases.base import BaseModel
from apt_engine.errors import BaseModelError


class LatentSource:
    """The VAE's answer for each photo: mean and standard deviation (N, C, h, w), on the model's device."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean = mean
        self.std = std

    def __len__(self) -> int:
        return len(self.mean)

    def draw(self, photo: int, generator: torch.Generator) -> Tensor:
        """Latents (C, h, w) of one photo, drawn from the VAE's distribution as in training of the base model."""
        noise = torch.randn(self.mean.shape[1:], generator=generator)
        return self.mean[photo] + self.std[photo] * noise.to(self.mean)


def encode_photos(base: BaseModel, paths: Sequence[Path]) -> LatentSource:
    """Encode square pictures of one size, one at a time (a VAE at full size needs much memory).

    Raises:
        BaseModelError: the VAE returns numbers that are not finite.
    """
    encoded = [base.encode_images(read_pixels(path)[None]) for path in paths]
    mean, std = (torch.cat(parts) for parts in zip(*encoded, strict=True))
    if not (torch.isfinite(mean).all() and torch.isfinite(std).all()):
        raise BaseModelError(
            f"The VAE of {base.name} returns numbers that are not finite; its files may be damaged: get the model again."
        )
    return LatentSource(mean, std)


def read_pixels(path: Path) -> Tensor:
    """A picture's pixels (3, H, W) in [-1, 1]."""
    with Image.open(path) as image:
        pixels = numpy.asarray(image.convert("RGB"), dtype=numpy.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1
