"""Measures the split of a model in training: gains on the shots and on new views of them, against the untrained model.

What the untrained model loses on a cell is computed once. A cell always comes in the same batch, so a resumed run measures the
same to the bit.
"""

from collections.abc import Callable, Generator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from apt_engine.apt.bins import BINS
from apt_engine.apt.split import MIRROR, SHOT, ZOOM, Cell
from apt_engine.bases import random
from apt_engine.bases.base import BaseModel
from apt_engine.lora.adapter import reference_pass
from apt_engine.runs.events import StageChanged
from apt_engine.training.captions import Captions
from apt_engine.training.latents import LatentSource, encode_pictures, read_pixels

BATCH = 2  # as many as the sample grid asks at once, so a check never takes more memory
ZOOMED_SIDE = 0.8  # of the photo's side
# Distance of latents below which two pictures are the same to the model. Of five real things and eight rendered ones new views
# lie .17 to 1.06 from their photo, and photos .38 or more from each other (pocket model).
ALIKE = 0.05
Latents = dict[tuple[int, int], Tensor]  # (C, h, w) by photo and framing


def framed(pixels: Tensor, framing: int) -> Tensor:
    """A photo (3, H, W) in another framing: mirrored, or its middle enlarged to the whole."""
    if framing == MIRROR:
        return pixels.flip(-1)
    assert framing == ZOOM
    height, width = pixels.shape[1:]
    top, left = (round(side * (1 - ZOOMED_SIDE) / 2) for side in (height, width))
    middle = pixels[:, top : height - top, left : width - left]
    return F.interpolate(middle[None], size=(height, width), mode="bilinear", antialias=True, align_corners=False)[0]


def encode_framings(
    base: BaseModel,
    paths: Sequence[Path],
    photos: LatentSource,
    framings: Sequence[int],
    obey_stop: Callable[[], None],
) -> Generator[StageChanged, None, Latents]:
    """Mean latents of the photos, taken from `photos`, and of new views of them; arguments and errors as of `encode_pictures`."""
    keys = [(photo, framing) for photo in range(len(paths)) for framing in framings]
    pictures = (framed(read_pixels(paths[photo]), framing) for photo, framing in keys)
    message = "Encoding new views of the photos, to tell what is learnt from what is memorized."
    views = yield from encode_pictures(base, pictures, len(keys), message, obey_stop)
    shots = {(photo, SHOT): view.mean for photo, view in enumerate(photos.plain)}
    return shots | {key: view.mean for key, view in zip(keys, views, strict=True)}


def distance(one: Tensor, other: Tensor) -> float:
    """How far two latents (C, h, w) are apart: 0 for the same, about 1 for two that have nothing in common, or two sizes."""
    if one.shape != other.shape:
        return 1.0
    spread = sum(float((part - part.mean(dim=(1, 2), keepdim=True)).square().mean()) for part in (one, other))
    apart = float((one - other).square().mean())
    return apart / spread if spread else float(apart > 0)


def new_views(latents: Latents) -> list[tuple[int, int]]:
    """The views that differ from their own shot: the mirror image of a symmetric thing does not."""
    return [
        (photo, framing)
        for photo, framing in latents
        if framing != SHOT and distance(latents[photo, framing], latents[photo, SHOT]) > ALIKE
    ]


def count_different(photos: LatentSource) -> int:
    """How many photos differ from all before them."""
    found: list[Tensor] = []
    for view in photos.plain:
        if all(distance(view.mean, other) > ALIKE for other in found):
            found.append(view.mean)
    return len(found)


class SplitProbe:
    """Measures cells of one run, always at the same noises and noise levels.

    Args:
        base: with its LoRA attached by the time of the first measurement.
        latents: of the photos and their new views.
        captions: of the photos; both models are told the same.
        seed: of the noises.
        batch: cells measured at once.
    """

    def __init__(self, base: BaseModel, latents: Latents, captions: Captions, seed: int, batch: int = BATCH) -> None:
        self._base = base
        self._latents = latents
        self._captions = captions
        self._seed = seed
        self._batch = batch
        self._levels = base.levels(BINS)
        self._reference: dict[Cell, Tensor] = {}

    @torch.no_grad()
    def measure(self, cells: Sequence[Cell]) -> dict[Cell, float]:
        """The gain 1 - L_tuned / L_ref of each cell; not finite where a loss is not. One pass a cell, two the first time."""
        shots, views = ([cell for cell in cells if (cell.framing == SHOT) is is_shot] for is_shot in (True, False))
        alike = [same for part in (views, shots) for same in self._by_size(part)]
        batches = [part[start : start + self._batch] for part in alike for start in range(0, len(part), self._batch)]
        gains = torch.cat([self._gains(batch) for batch in batches]).tolist()
        return dict(zip([cell for batch in batches for cell in batch], gains, strict=True))

    def _by_size(self, cells: Sequence[Cell]) -> list[list[Cell]]:
        """The cells whose latents have one size, those of another, and so on."""
        found: dict[torch.Size, list[Cell]] = {}
        for cell in cells:
            found.setdefault(self._latents[cell.photo, cell.framing].shape, []).append(cell)
        return list(found.values())

    def _gains(self, cells: Sequence[Cell]) -> Tensor:
        latents = torch.stack([self._latents[cell.photo, cell.framing] for cell in cells])  # (B, C, h, w)
        noise = torch.stack([self._noise(cell) for cell in cells]).to(latents)  # (B, C, h, w)
        timesteps = torch.tensor([self._levels[cell.bin] for cell in cells]).to(self._base.device)
        states = self._captions.states([cell.photo for cell in cells])
        noisy = self._base.add_noise(latents, noise, timesteps)
        target = self._base.target(latents, noise, timesteps).float()

        def losses() -> Tensor:
            return (self._base.predict(noisy, timesteps, states).float() - target).square().mean(dim=(1, 2, 3))  # (B,)

        if cells[0] not in self._reference:
            with reference_pass(self._base.denoiser):
                self._reference |= dict(zip(cells, losses(), strict=True))
        return 1 - losses() / torch.stack([self._reference[cell] for cell in cells])

    def _noise(self, cell: Cell) -> Tensor:
        shape = self._latents[cell.photo, cell.framing].shape
        key = random.generator(self._seed, cell.photo, cell.framing * BINS + cell.bin, "split")
        return torch.randn(shape, generator=key)
