"""The world: draws pictures of known content into one memory-mapped file, in resumable chunks, with a fixed seed."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tools.pocket.files import write_atomically, write_text
from tools.pocket.panoramas import PANORAMAS, look, panorama_file, read_panorama
from tools.pocket.parallel import map_over
from tools.pocket.places import CANVAS, PAINTERS, draw_place
from tools.pocket.settings import IMAGE_SIZE, SEED, Workplace
from tools.pocket.sprites import load_sprites
from tools.pocket.treatments import TREATMENTS
from tools.pocket.vocabulary import OBJECTS, PLACE_NAMES, Label, draw_label

_AFLOAT = frozenset({"under water", "space"})
_OBJECT_NAMES = tuple(OBJECTS)
_TREATMENT_NAMES = tuple(TREATMENTS)


@dataclass(frozen=True)
class World:
    """Pictures (uint8, count x size x size x 3) with their labels; the last `held_out` are never trained on."""

    images: NDArray[np.uint8]
    codes: NDArray[np.int16]
    held_out: int

    @property
    def training_count(self) -> int:
        """How many pictures may be trained on."""
        return len(self.images) - self.held_out


def decode_label(code: NDArray[np.int16]) -> Label:
    """What the picture with this row of codes shows."""
    thing, rendition, place, treatment = (int(number) for number in code)
    name = _OBJECT_NAMES[thing] if thing >= 0 else None
    return Label(object=name, rendition=rendition, place=PLACE_NAMES[place], treatment=_TREATMENT_NAMES[treatment])


def draw_world(workplace: Workplace, count: int, processes: int = 2) -> World:
    """Draws what is missing of `count` pictures, then opens them."""
    write_manifest(workplace)
    load_sprites(workplace)  # a missing source is reported here, once, and not by every process
    _panoramas(workplace)
    starts = [start for start in range(0, count, workplace.chunk) if not _chunk_path(workplace, start).exists()]
    for start in map_over(processes, _draw_chunk, [(workplace, start) for start in starts]):
        print(f"world: {start + workplace.chunk} of {count} pictures", flush=True)
    return open_world(workplace)


def open_world(workplace: Workplace) -> World:
    """Opens every chunk drawn so far."""
    images = [np.load(path)["images"] for path in chunk_paths(workplace)]
    return World(np.concatenate(images), read_codes(workplace), workplace.held_out)


def read_codes(workplace: Workplace) -> NDArray[np.int16]:
    """The labels of every picture drawn so far, a row of four numbers each, without the pictures."""
    return np.concatenate([np.load(path)["codes"] for path in chunk_paths(workplace)])


def chunk_paths(workplace: Workplace) -> list[Path]:
    """The files drawn so far, each of `chunk` pictures; a world of other words is refused."""
    paths = sorted(workplace.world.glob("chunk-*.npz"))
    if not paths:
        raise FileNotFoundError("no pictures are drawn yet; run: python -m tools.pocket world")
    if json.loads((workplace.world / "manifest.json").read_text(encoding="utf-8")) != _facts():
        raise FileNotFoundError(f"the pictures in {workplace.world} are of another world; delete the folder, draw anew")
    return paths


def draw_picture(
    label: Label,
    sprites: Mapping[str, list[list[Image.Image]]],
    panoramas: Mapping[str, NDArray[np.float32]],
    rng: np.random.Generator,
) -> Image.Image:
    """Draws one picture of IMAGE_SIZE pixels.

    Args:
        label: What it shows.
        sprites: Every view of each object's renditions.
        panoramas: Radiance of the photographed places by panorama name.
        rng: Draws the rest.
    """
    picture = _draw_background(label.place, panoramas, rng)
    if label.object is not None:
        views = sprites[label.object][label.rendition]
        sprite = _pose(views[int(rng.integers(len(views)))], rng)
        _place_sprite(picture, sprite, rng, afloat=label.place in _AFLOAT)
    treated = TREATMENTS[label.treatment](picture, rng)
    return treated.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)


def _draw_background(place: str, panoramas: Mapping[str, NDArray[np.float32]], rng: np.random.Generator) -> Image.Image:
    """A drawn or a photographed place; where there are both, each half of the time."""
    if place not in PANORAMAS or (place in PAINTERS and rng.random() < 0.5):
        return draw_place(place, rng)
    names = PANORAMAS[place]
    panorama = panoramas[names[int(rng.integers(len(names)))]]
    yaw, pitch, field_of_view = rng.uniform(0, 360), rng.uniform(-20, -4), rng.uniform(50, 80)
    view = look(panorama, CANVAS, float(yaw), float(pitch), float(field_of_view))
    return view.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.5)))


def write_manifest(workplace: Workplace) -> None:
    """Records what the pictures show, so that they are never read with other words."""
    if not (workplace.world / "manifest.json").exists():
        write_text(workplace.world / "manifest.json", json.dumps(_facts(), indent=1))


def batches(count: int, size: int, rng: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yields index batches forever, each epoch in a new order."""
    while True:
        order = rng.permutation(count)
        for start in range(0, count - size + 1, size):
            yield order[start : start + size]


def _pose(sprite: Image.Image, rng: np.random.Generator) -> Image.Image:
    if rng.random() < 0.5:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = CANVAS * rng.uniform(0.48, 0.92) / max(sprite.size)
    size = (max(2, round(sprite.width * scale)), max(2, round(sprite.height * scale)))
    sprite = sprite.resize(size, Image.Resampling.LANCZOS)
    return sprite.rotate(rng.normal(0, 5), Image.Resampling.BICUBIC, expand=True)


def _place_sprite(picture: Image.Image, sprite: Image.Image, rng: np.random.Generator, *, afloat: bool) -> None:
    room = CANVAS - sprite.width
    left = round(room * rng.uniform(0.1, 0.9))
    lowest = CANVAS - sprite.height - 4
    highest = min(lowest, 6) if afloat else min(lowest, max(4, 92 - sprite.height))
    top = round(rng.uniform(highest, lowest))
    if not afloat:
        _cast_shadow(picture, left, top, sprite)
    picture.paste(sprite, (left, top), sprite)


def _cast_shadow(picture: Image.Image, left: int, top: int, sprite: Image.Image) -> None:
    shadow = Image.new("L", (sprite.width + 16, 24), 0)
    shadow.paste(105, (16, 9, sprite.width, 15))
    shadow = shadow.filter(ImageFilter.GaussianBlur(4))
    picture.paste((20, 20, 28), (left - 8, top + sprite.height - 15), shadow)


def _facts() -> dict[str, Any]:
    objects = {name: list(renditions) for name, renditions in OBJECTS.items()}
    return {"seed": SEED, "objects": objects, "places": list(PLACE_NAMES), "treatments": list(_TREATMENT_NAMES)}


def _chunk_path(workplace: Workplace, start: int) -> Path:
    return workplace.world / f"chunk-{start:07d}.npz"


def _draw_chunk(workplace: Workplace, start: int) -> int:
    sprites, panoramas = _sprites(workplace), _panoramas(workplace)
    images = np.empty((workplace.chunk, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    codes = np.empty((workplace.chunk, 4), np.int16)
    for offset in range(workplace.chunk):
        rng = np.random.default_rng((SEED, start + offset))
        label = draw_label(rng)
        images[offset] = np.asarray(draw_picture(label, sprites, panoramas, rng))
        codes[offset] = _encode(label)
    write_atomically(_chunk_path(workplace, start), lambda path: _write_chunk(path, images, codes))
    return start


def _write_chunk(path: Path, images: NDArray[np.uint8], codes: NDArray[np.int16]) -> None:
    with path.open("wb") as handle:
        np.savez(handle, images=images, codes=codes)


def _encode(label: Label) -> Sequence[int]:
    thing = _OBJECT_NAMES.index(label.object) if label.object else -1
    return thing, label.rendition, PLACE_NAMES.index(label.place), _TREATMENT_NAMES.index(label.treatment)


@cache
def _sprites(workplace: Workplace) -> dict[str, list[list[Image.Image]]]:
    return load_sprites(workplace)


@cache
def _panoramas(workplace: Workplace) -> dict[str, NDArray[np.float32]]:
    names = {name for names in PANORAMAS.values() for name in names}
    files = {name: panorama_file(workplace.modules, workplace.panoramas, name) for name in sorted(names)}
    return {name: read_panorama(path) for name, path in files.items()}
