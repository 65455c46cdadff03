"""The photos on the Train tab: what the browser holds of them, and what is looked at here. No file but an own one is read."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from apt_engine.errors import PhotoError
from apt_engine.photos import buckets
from apt_engine.photos.captions import LONGEST_CAPTION
from apt_engine.photos.photo_set import MAXIMUM_COUNT, Photo, PhotoSet, read_photo, shares_of, twins_of
from apt_engine.runs.run import Run
from ui.plots import file_url
from ui.words import say, told

TILE_SIDE = 256
WHOLE_SIDE = 900
NO_PHOTOS: dict[str, Any] = {"photos": [], "problems": []}


def tiles_of(paths: Sequence[Path]) -> dict[str, Any]:
    """Tiles of files that were not looked at yet."""
    photos = [
        {"path": str(path), "name": path.name, "url": "", "whole": "", "box": None, "caption": "", "warnings": []}
        for path in paths
    ]
    return {"photos": photos, "problems": []}


def tiles_of_run(run: Run) -> dict[str, Any]:
    """Tiles of a run's photos: the whole ones where it has them, cut and captioned as they were."""
    originals = run.originals
    tiles = tiles_of([path for path, _ in originals] or run.photo_paths)
    usual = run.config.caption
    boxes = [box for _, box in originals] or [None] * len(tiles["photos"])
    for tile, box, caption in zip(tiles["photos"], boxes, run.captions, strict=True):
        tile |= {"box": box, "caption": "" if caption == usual else caption}
    return tiles


def read_tiles(value: dict[str, Any] | None, folders: Sequence[Path]) -> PhotoSet:
    """The photos behind the tiles, cut as wished; what cannot be read is a sentence. Too many are counted, not read.

    Args:
        value: of the component, as the browser sent it.
        folders: only files in these are opened.
    """
    tiles = (value or NO_PHOTOS)["photos"]
    if len(tiles) > MAXIMUM_COUNT:
        return PhotoSet((), (), unopened=len(tiles))
    photos, problems = [], []
    for tile in tiles:
        try:
            photos.append(_read(tile, folders))
        except PhotoError as error:
            problems.append(told(str(error)))
    return PhotoSet(tuple(photos), tuple(problems))


def first_of(value: dict[str, Any] | None) -> dict[str, Any]:
    """As many of the tiles as a run may have."""
    return {**(value or NO_PHOTOS), "photos": (value or NO_PHOTOS)["photos"][:MAXIMUM_COUNT]}


def show(
    value: dict[str, Any] | None,
    photos: PhotoSet,
    cut: tuple[int, str],
    folder: Path,
    too_long: Sequence[str] = (),
) -> dict[str, Any]:
    """The tiles of the photos that could be read, with small pictures and what could be better about each.

    Args:
        value: of the component before.
        photos: what `read_tiles` made of it.
        cut: how they will be trained: resolution in px, and the setting crop.
        folder: where small pictures are kept.
        too_long: names of those whose caption is longer than the base model can hear.
    """
    tiles: list[dict[str, Any]] = (value or NO_PHOTOS)["photos"]
    problems = list(map(told, photos.problems))
    if len(tiles) > MAXIMUM_COUNT:
        problems.append(
            say(
                "{count} photos are too many; the first {most} are here. Keep the 3 to 10 that differ most.",
                count=len(tiles),
                most=MAXIMUM_COUNT,
            )
        )
    by_name = {photo.source: photo for photo in photos.photos}
    twins = twins_of(photos.photos)
    shown: list[dict[str, Any]] = []
    for tile in tiles:
        if photo := by_name.get(tile["path"]):
            notes = _notes(photo, *cut)
            notes += [say("like another one")] * (photo.name in twins) + [say("caption too long")] * (
                photo.name in too_long
            )
            shown.append(_tile(tile, photo, notes, cut, folder))
    return {**(value or NO_PHOTOS), "photos": shown, "problems": problems}  # with the round the browser counts


def _read(tile: dict[str, Any], folders: Sequence[Path]) -> Photo:
    path = Path(str(tile["path"])).resolve()
    name = Path(str(tile.get("name") or path.name)).name
    if not any(path.is_relative_to(folder.resolve()) for folder in folders):
        raise PhotoError(say("Photo {name} is not among the files you brought; add it again.", name=name))
    caption = " ".join(str(tile.get("caption") or "").split())[:LONGEST_CAPTION]
    photo = replace(read_photo(path, name), source=str(tile["path"]), caption=caption)
    box = tile.get("box")
    if not isinstance(box, list) or len(box) != 3 or not all(isinstance(share, int | float) for share in box):
        return photo
    return replace(photo, box=box_of(photo.image, box))


def box_of(image: Image.Image, shares: Sequence[float]) -> tuple[int, int, int, int]:
    """A square inside the picture, in px, from shares: left of the width, top of the height, side of the shorter side."""
    left, top, share = (min(max(float(value), 0.0), 1.0) for value in shares)
    side = max(16, round(max(share, 0.05) * min(image.size)))
    x, y = min(round(left * image.width), image.width - side), min(round(top * image.height), image.height - side)
    return (x, y, x + side, y + side)


def _notes(photo: Photo, resolution: int, crop: str) -> list[str]:
    box = photo.learnt(resolution, crop)
    width = buckets.nearest(*photo.image.size, resolution)[0] if crop == "buckets" else resolution
    notes = [say("a little blurred")] if photo.warnings else []
    return [*notes, *([say("small")] if box[2] - box[0] < width else [])]


def _tile(tile: dict[str, Any], photo: Photo, notes: list[str], cut: tuple[int, str], folder: Path) -> dict[str, Any]:
    resolution, crop = cut
    box = photo.learnt(resolution, crop)
    key = hashlib.sha256(f"{photo.source}/{box}".encode()).hexdigest()[:24]
    whole = hashlib.sha256(photo.source.encode()).hexdigest()[:24]
    learnt, upright = folder / f"{key}.jpg", folder / f"{whole}-whole.jpg"
    folder.mkdir(parents=True, exist_ok=True)
    if not learnt.exists():
        scale = TILE_SIDE / max(box[2] - box[0], box[3] - box[1])
        size = (max(1, round(scale * (box[2] - box[0]))), max(1, round(scale * (box[3] - box[1]))))
        photo.image.crop(box).resize(size).save(learnt, quality=85)
    if not upright.exists():
        reduced = photo.image.copy()
        reduced.thumbnail((WHOLE_SIDE, WHOLE_SIDE))
        reduced.save(upright, quality=85)
    return {
        "path": tile["path"],
        "name": photo.name,
        "url": file_url(learnt),
        "whole": file_url(upright),
        "box": shares_of(photo.image, photo.square),
        "bucket": buckets.nearest(*photo.image.size, resolution) if crop == "buckets" else None,
        "caption": photo.caption,
        "warnings": notes,
    }
