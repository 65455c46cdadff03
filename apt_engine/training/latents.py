"""Photos as latents: plain ones encoded once and kept, warped ones from a bank of views or encoded when drawn.

N photos, C latent channels, h and w latent height and width.
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from PIL import Image
from torch import Tensor

from apt_engine.apt.augment import Warp, draw_warp, latent_mask, warp_pixels
from apt_engine.bases import random
from apt_engine.bases.base import BaseModel
from apt_engine.errors import BaseModelError, RunError
from apt_engine.reading.regular import open_regular
from apt_engine.runs.events import StageChanged
from apt_engine.settings.training import TrainingConfig

SHOWN_SIDE = 96
TIMES_TOLD = 20
TRIES = 10
LARGEST_SIDE = 2048  # of a picture that a run keeps


@dataclass(frozen=True)
class View:
    """One picture as the VAE sees it: mean and standard deviation (C, h, w), and the mask (h, w) of cells inside the photo.

    `shown` is a small RGB picture of a warped one, for people to see.
    """

    mean: Tensor
    std: Tensor
    mask: Tensor
    shown: Image.Image | None = None

    def to(self, device: torch.device | str) -> "View":
        """The same on another device."""
        return View(self.mean.to(device), self.std.to(device), self.mask.to(device), self.shown)

    def draw(self, generator: torch.Generator) -> Tensor:
        """Latents (C, h, w) from the VAE's distribution, as in training of the base model."""
        noise = torch.randn(self.mean.shape, generator=generator)
        return self.mean + self.std * noise.to(self.mean)


class LatentSource:
    """The views of some photos, given on the model's device. `warped` draws a view of photo n with a generator.

    `origins` are height and width of each photo before it was scaled, top and left of its cut after it; empty for squares.
    """

    def __init__(
        self,
        plain: Sequence[View],
        warped: Callable[[int, torch.Generator], View] | None = None,
        origins: Sequence[tuple[int, int, int, int]] = (),
    ) -> None:
        self.plain = plain
        self._warped = warped
        self.origins = origins

    def alike(self, photo: int) -> list[int]:
        """The photos of the size of one, itself among them."""
        shape = self.plain[photo].mean.shape
        return [number for number, view in enumerate(self.plain) if view.mean.shape == shape]

    def __len__(self) -> int:
        return len(self.plain)

    def warped(self, photo: int, generator: torch.Generator) -> View:
        """A re-framed view of a photo."""
        assert self._warped
        return self._warped(photo, generator)


def encode_photos(
    base: BaseModel, paths: Sequence[Path], message: str, obey_stop: Callable[[], None]
) -> Generator[StageChanged, None, LatentSource]:
    """Plain views alone of square pictures of one size; arguments and errors as of `encode_pictures`."""
    pictures = (read_pixels(path) for path in paths)
    return LatentSource((yield from encode_pictures(base, pictures, len(paths), message, obey_stop)))


def encode_pictures(
    base: BaseModel, pictures: Iterable[Tensor], count: int, message: str, obey_stop: Callable[[], None]
) -> Generator[StageChanged, None, list[View]]:
    """Plain views of so many pictures, each (3, H, W) in [-1, 1].

    Args:
        message: what is told while it goes on.
        obey_stop: asked before each picture; what it raises ends the work.

    Raises:
        BaseModelError: the VAE returns numbers that are not finite.
    """
    views: list[View] = []
    for pixels in pictures:
        yield from _progress(message, len(views), count)
        obey_stop()
        views.append(encode_view(base, pixels))
    return views


def encode_with_warps(
    base: BaseModel, paths: Sequence[Path], config: TrainingConfig, message: str, obey_stop: Callable[[], None]
) -> Generator[StageChanged, None, LatentSource]:
    """Plain views, and warped ones from a bank of `config.warped_views` a photo, or fresh each time when that is 0.

    The bank takes photos x views x (2 C h w + h w) x 4 bytes of the host's memory: 22 MB for 5 photos of SD 1.5 at 512 px and
    32 views, 190 MB for 10 photos of SDXL at 1024 px. A view comes to the model's device when it is drawn. The bank is keyed by
    the seed, so a resumed run makes the same one; nothing is kept on disk.

    Args:
        message: what is told while it goes on.
        obey_stop: asked before each view; what it raises ends the work.

    Raises:
        BaseModelError: the VAE returns numbers that are not finite.
    """
    pictures = [read_pixels(path) for path in paths]
    count = config.warped_views

    def draw(photo: int, generator: torch.Generator) -> View:
        for _ in range(TRIES):  # where there are few latent cells a small photo may cover none, and would teach nothing
            warped = _warp(base, pictures[photo], draw_warp(generator, config.max_zoom, config.max_rotation_degrees))
            if config.border == "paper" or warped[1].any():
                return _encode_warped(base, *warped)
        return plain[photo]

    plain: list[View] = []
    bank: list[View] = []  # `count` of the first photo, of the second ...
    for number in range(len(pictures) * (1 + count)):
        yield from _progress(message, number, len(pictures) * (1 + count))
        obey_stop()
        if number < len(pictures):
            plain.append(encode_view(base, pictures[number]))
        else:
            photo, view = divmod(number - len(pictures), count)
            bank.append(_check(base, draw(photo, random.generator(config.seed, view, photo, "bank"))).to("cpu"))
    if not count:
        return LatentSource(plain, draw)

    def drawn(photo: int, generator: torch.Generator) -> View:
        return bank[photo * count + int(torch.randint(count, (), generator=generator))].to(base.device)

    return LatentSource(plain, drawn)


def _progress(message: str, done: int, total: int) -> Iterator[StageChanged]:
    """How far encoding is, every twentieth of the way."""
    if done == 0 or done * TIMES_TOLD // total > (done - 1) * TIMES_TOLD // total:
        yield StageChanged(stage="encoding", message=message, fraction=done / total)


def encode_view(base: BaseModel, pixels: Tensor, warp: Warp | None = None) -> View:
    """One picture (3, H, W) in [-1, 1], warped first if so wished.

    Raises:
        BaseModelError: the VAE returns numbers that are not finite.
    """
    if warp:
        return _check(base, _encode_warped(base, *_warp(base, pixels, warp)))
    mean, std = (part[0] for part in base.encode_images(pixels[None]))
    return _check(base, View(mean, std, mean.new_ones(mean.shape[1:])))


def _warp(base: BaseModel, pixels: Tensor, warp: Warp) -> tuple[Tensor, Tensor]:
    """A warped picture (3, H, W) and the mask (h, w) of its latent cells, both on the CPU."""
    height, width = pixels.shape[1:]
    warped, mask = warp_pixels(pixels, warp)
    return warped, latent_mask(mask, width // base.latent_shape(width, height)[2])


def _encode_warped(base: BaseModel, pixels: Tensor, mask: Tensor) -> View:
    mean, std = (part[0] for part in base.encode_images(pixels[None]))
    return View(mean, std, mask.to(mean.device), _reduce(pixels))


def _check(base: BaseModel, view: View) -> View:
    """Before the first step. A view that is drawn during one is not waited for; the step's own numbers tell."""
    if not (torch.isfinite(view.mean).all() and torch.isfinite(view.std).all()):
        raise BaseModelError(
            f"The VAE of {base.name} returns numbers that are not finite; its files may be damaged: get the model again."
        )
    return view


def _reduce(pixels: Tensor) -> Image.Image:
    array = ((pixels + 1) * 127.5).clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array).resize((SHOWN_SIDE, SHOWN_SIDE), Image.Resampling.BILINEAR)


def read_pixels(path: Path) -> Tensor:
    """The pixels (3, H, W) in [-1, 1] of a picture that a run keeps; errors as of `read_picture`."""
    pixels = numpy.asarray(read_picture(path), dtype=numpy.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1) / 127.5 - 1


def read_picture(path: Path) -> Image.Image:
    """A picture that a run keeps. Of no format but PNG: Pillow would start other programs for some.

    Raises:
        RunError: it is none; the run's folder was damaged.
    """
    try:
        with open_regular(path) as file, Image.open(file, formats=["PNG"]) as image:
            if max(image.size) > LARGEST_SIDE:
                raise ValueError(f"it has {image.width} x {image.height} pixels")
            return image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RunError(f"The picture {path.name} of this run is damaged ({error}); start a new run.") from error
