"""From prompts to pictures, with a base model and whatever LoRA is attached to it."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from apt_engine.bases import random
from apt_engine.bases.base import BaseModel, OnStep
from apt_engine.errors import ConfigError, EngineError
from apt_engine.runs.files import write_atomically
from apt_engine.settings.sampling import SAMPLERS
from apt_engine.settings.training import TrainingConfig

BATCH = 4  # pictures drawn at once
BATCH_PIXELS = BATCH * 512 * 512  # and so many pixels at most, so that larger pictures take no more memory
PREVIEWS = 5
PREVIEW_CELLS = 32


class Stopped(EngineError):
    """The user asked to stop while pictures were being made."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One picture to make: the filled prompt, its seed, and how."""

    prompt: str
    seed: int
    negative_prompt: str = ""
    steps: int = 20
    guidance_scale: float = 5.0
    sampler: str = SAMPLERS[0]
    width: int
    height: int

    @classmethod
    def of(cls, config: TrainingConfig, prompt: str, seed: int) -> "Picture":
        """One that a training run draws of itself."""
        return cls(
            prompt=prompt,
            seed=seed,
            steps=config.sample_steps,
            guidance_scale=config.sample_guidance_scale,
            width=config.resolution,
            height=config.resolution,
        )


def batch_of(picture: Picture) -> int:
    """How many pictures of its size are drawn at once."""
    return max(1, min(BATCH, BATCH_PIXELS // (picture.width * picture.height)))


class Sampler:
    """Makes pictures with a base model and whatever LoRA is attached to it."""

    def __init__(self, base: BaseModel) -> None:
        self.base = base

    def generate(
        self,
        pictures: list[Picture],
        on_step: Callable[[float], None] = lambda fraction: None,
        on_preview: Callable[[Image.Image], None] | None = None,
    ) -> Iterator[Image.Image]:
        """Pictures in the order asked for. Each depends on its own seed alone, not on its neighbors.

        Args:
            pictures: of one size, steps, guidance and sampler.
            on_step: told the share of the work done (0 to 1) after each denoising step; what it raises ends the work.
            on_preview: shown, a few times a batch, what its first picture seems to become; small.

        Raises:
            ConfigError: the size does not suit the base model.
        """
        for latents in self.latents(pictures, on_step, on_preview):
            yield from self.images(latents)

    def latents(
        self,
        pictures: list[Picture],
        on_step: Callable[[float], None] = lambda fraction: None,
        on_preview: Callable[[Image.Image], None] | None = None,
    ) -> Iterator[torch.Tensor]:
        """The same, before the VAE: scaled latents (B, C, h, w), a batch at a time."""
        at_once = batch_of(pictures[0]) if pictures else 1
        batches = [pictures[start : start + at_once] for start in range(0, len(pictures), at_once)]
        for number, batch in enumerate(batches):
            self._check_size(batch[0])

            def told(done: int, guess: torch.Tensor, number: int = number, steps: int = batch[0].steps) -> None:
                on_step((number + min(1.0, done / steps)) / len(batches))
                if on_preview and done % max(2, steps // PREVIEWS) == 0 and done < steps:
                    on_preview(self._preview(guess[:1]))

            yield self._latents_of(batch, told)

    def fitting(self, wish: str) -> str:
        """The solver of a name, or the base's own in place of the usual default where that does not fit.

        Raises:
            ConfigError: another solver was chosen that does not fit; names those that do.
        """
        known = self.base.samplers
        if wish in known or wish == SAMPLERS[0]:
            return wish if wish in known else known[0]
        raise ConfigError(f"{self.base.name} cannot be sampled with {wish}; choose {' or '.join(known)}.")

    @torch.no_grad()
    def _latents_of(self, batch: list[Picture], on_step: OnStep) -> torch.Tensor:
        first = batch[0]
        shape = self.base.latent_shape(first.width, first.height)
        noise = [torch.randn(shape, generator=random.generator(picture.seed, 0, 0, "sample")) for picture in batch]
        return self.base.draw(
            torch.stack(noise).to(self.base.device, torch.float32),
            self.base.encode_prompts([picture.prompt for picture in batch]),
            self.base.encode_prompts([picture.negative_prompt for picture in batch]),
            steps=first.steps,
            guidance_scale=first.guidance_scale,
            sampler=self.fitting(first.sampler),
            generators=[random.generator(picture.seed, 0, 0, "ancestral") for picture in batch],
            on_step=on_step,
        )

    @torch.no_grad()
    def images(self, latents: torch.Tensor) -> list[Image.Image]:
        """What scaled latents (B, C, h, w) show."""
        pixels = torch.cat([self.base.decode(one[None]) for one in latents])
        arrays = (pixels.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy()
        return [Image.fromarray(array) for array in arrays]

    @torch.no_grad()
    def _preview(self, latents: torch.Tensor) -> Image.Image:
        """What latents (1, C, h, w) show, decoded small."""
        shrink = max(1, max(latents.shape[-2:]) // PREVIEW_CELLS)
        return self.images(torch.nn.functional.avg_pool2d(latents.float(), shrink))[0]

    def _check_size(self, picture: Picture) -> None:
        multiple = self.base.size_multiple
        for side in (picture.width, picture.height):
            if side % multiple:
                raise ConfigError(
                    f"{self.base.name} cannot make pictures of {side} px; choose a multiple of {multiple}."
                )


def save_picture(image: Image.Image, path: Path, about: PngInfo | None = None) -> None:
    """Write a PNG, whole or not at all; `about` is text inside it.

    Raises:
        DiskError: it cannot be written.
    """
    content = io.BytesIO()
    image.save(content, format="PNG", pnginfo=about)
    write_atomically(path, content.getvalue())
