"""What a step draws, before anything is computed: timesteps, photos, coins, latents, noise.

B samples of a micro-batch, C latent channels, h and w latent height and width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from apt_engine.bases.base import BaseModel
from apt_engine.training.latents import LatentSource, View


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One sample as it is drawn on the host, the same in every process.

    Attributes:
        timestep, photo: drawn in this order.
        chance: that it had of being warped.
        is_warped: what the coin said.
        generator: which goes on with latents and noise.
        warps: which goes on with the warp.
    """

    timestep: float
    photo: int
    chance: float
    is_warped: bool
    generator: torch.Generator
    warps: torch.Generator

    def view(self, source: LatentSource) -> View:
        """The photo as this sample sees it."""
        return source.warped(self.photo, self.warps) if self.is_warped else source.plain[self.photo]


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What is computed at once, on the device, and what is told of it.

    Attributes:
        latents, noise, noisy: x_0, eps and x_t (B, C, h, w).
        timesteps, bins: (B,).
        mask: (B, h, w), 1 for latent cells that count; a sample of which none counts has no error.
        photos: number of each sample's photo.
        chances: of each sample to be warped.
        warped: whether it was.
        shown: small pictures of the warped ones.
        origins: see `LatentSource`, (B, 4); None for squares.
    """

    latents: Tensor
    noise: Tensor
    noisy: Tensor
    timesteps: Tensor
    bins: Tensor
    mask: Tensor
    photos: tuple[int, ...]
    chances: tuple[float, ...]
    warped: tuple[bool, ...]
    shown: tuple[Image.Image, ...]
    origins: Tensor | None = None

    @classmethod
    def of(cls, draws: Sequence[Draw], source: LatentSource, base: BaseModel, border: str) -> "Batch":
        """Draws stacked and made noisy; with the border of the paper every latent cell counts."""
        numbers = torch.tensor([draw.timestep for draw in draws])  # (B,), on the CPU
        timesteps = numbers.to(base.device)
        views = [draw.view(source) for draw in draws]
        pairs = list(zip(views, draws, strict=True))
        latents = torch.stack([view.draw(draw.generator) for view, draw in pairs])  # (C, h, w) -> (B, C, h, w)
        noise = torch.stack([torch.randn(view.mean.shape, generator=draw.generator) for view, draw in pairs])
        noise = noise.to(base.device)  # (B, C, h, w)
        mask = torch.stack([view.mask for view in views])  # (h, w) -> (B, h, w)
        return cls(
            latents=latents,
            noise=noise,
            noisy=base.add_noise(latents, noise, timesteps),
            timesteps=timesteps,
            bins=base.bin_of(numbers).to(base.device),
            mask=torch.ones_like(mask) if border == "paper" else mask,
            photos=tuple(draw.photo for draw in draws),
            chances=tuple(draw.chance for draw in draws),
            warped=tuple(view.shown is not None for view in views),
            shown=tuple(view.shown for view in views if view.shown is not None),
            origins=torch.tensor([source.origins[draw.photo] for draw in draws]).to(base.device)
            if source.origins
            else None,
        )

    @property
    def counts(self) -> Tensor:
        """(B,), 1 for samples of which some cell counts, else 0."""
        return self.mask.amax(dim=(1, 2))
