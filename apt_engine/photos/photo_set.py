"""Photos as people bring them: decoded, upright, checked, and cropped to squares around the subject.

Pictures are 8-bit RGB from here on; sizes are in pixels.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
from PIL import Image

from apt_engine.errors import PhotoError
from apt_engine.photos import buckets
from apt_engine.photos.captions import caption_beside
from apt_engine.photos.pool import decode

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".heic", ".heif")
GOOD_COUNT = (3, 10)
MINIMUM_COUNT = 2
MAXIMUM_COUNT = 30
BLUR_SIDE = 512  # sharpness is judged at this size
# 24 good photos of five subjects have a sharpness of 380 to 12,000; blurred by 2 px none has more than 40.
BLUR_LIMIT = 80.0
# Correlation of 16 px thumbnails. A photo and itself made brighter, smaller or cropped by 3 % correlate by 0.93 to 1.00;
# two of the 24 photos by 0.73 at most.
TWIN_LIMIT = 0.93
ORIGINALS, SQUARES = "originals", "squares.json"
ORIGINS = "origins.json"
ORIGINAL_QUALITY = 92  # of JPEG; a photo of 2048 px takes about 0.5 MB
CROP_SIDE = 64  # the subject is looked for in a picture of this size


@dataclass(frozen=True)
class Photo:
    """One photo, upright RGB of at most 2048 px a side; `warnings` are sentences about it.

    `box` (left, top, right, bottom) is the square a person chose, None where it is to be found; `caption` its own
    caption, empty for the usual one; `source` its file.
    """

    name: str
    image: Image.Image
    warnings: tuple[str, ...] = ()
    box: tuple[int, int, int, int] | None = None
    caption: str = ""
    source: str = ""

    @property
    def square(self) -> tuple[int, int, int, int]:
        """The square that is learnt: the chosen one, else the one around the subject."""
        return self.box or square_box(self.image)

    def learnt(self, resolution: int, crop: str) -> tuple[int, int, int, int]:
        """The part that is learnt with these settings: the square, or with crop buckets what its bucket shows."""
        if crop != "buckets":
            return self.square
        left, top, right, bottom = map(round, buckets.frame(self.image.size, self.square, resolution))
        return (left, top, right, bottom)


@dataclass(frozen=True)
class PhotoSet:
    """The photos that could be read, and a sentence for each file that could not.

    `unopened` counts the files of a set so large that none of it was decoded.
    """

    photos: tuple[Photo, ...]
    problems: tuple[str, ...] = ()
    unopened: int = 0

    def check(self, slot: str) -> None:
        """Refuse a set that cannot be trained on.

        Args:
            slot: what stands for the subject in a caption.

        Raises:
            PhotoError: there are none, only one, or far too many; or a caption leaves the subject out.
        """
        count = len(self.photos) + self.unopened
        if count == 0:
            raise PhotoError("There are no photos; add 3 to 10 photos of the thing.")
        if count < MINIMUM_COUNT:
            raise PhotoError(
                "One photo is too few; add 3 to 10 photos of the thing, in different places and from different sides."
            )
        if count > MAXIMUM_COUNT:
            raise PhotoError(f"{count} photos are too many; choose the 3 to 10 that differ most.")
        for photo in self.photos:
            if photo.caption and slot not in photo.caption:
                raise PhotoError(
                    f"The caption of photo {photo.name} does not mention the subject; write {slot} where it belongs."
                )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What could be better, one sentence each."""
        count = len(self.photos)
        about_set = []
        if 0 < count < GOOD_COUNT[0]:
            about_set.append(f"Only {'one photo' if count == 1 else f'{count} photos'}; 3 to 10 work better.")
        if count > GOOD_COUNT[1]:
            about_set.append(f"{count} photos are many; 3 to 10 that differ work as well and train faster.")
        return (*about_set, *(warning for photo in self.photos for warning in photo.warnings), *_twins(self.photos))

    def smaller_than(self, resolution: int, crop: str = "square") -> tuple[str, ...]:
        """A sentence for each photo whose shorter side has fewer pixels than it will be trained at."""
        found: list[str] = []
        for photo in self.photos:
            size = buckets.nearest(*photo.image.size, resolution) if crop == "buckets" else (resolution, resolution)
            side, least = min(photo.image.size), min(size)
            if side < least:
                found.append(f"Photo {photo.name} is small ({side} px); {least} px or more are better.")
        return tuple(found)

    def save(self, folder: Path, resolution: int, crop: str = "square") -> None:
        """Write 01.png, 02.png ... into `folder`: RGB squares of `resolution` px around the subject; and own captions.

        With crop buckets photos keep their proportions as far as may be, and the square says what must stay in the picture; see
        `buckets`. What was cut is in `origins.json`.

        Under `originals/` lie the whole photos, with `squares.json`, to be cut again for a larger base model.
        """
        (folder / ORIGINALS).mkdir()
        squares, origins = {}, {}
        for number, photo in enumerate(self.photos, 1):
            name = f"{number:02d}.png"
            if crop == "buckets":
                prepared, origins[name] = buckets.cut(photo.image, photo.square, resolution)
            else:
                square = photo.image.crop(photo.square)
                prepared = square.resize((resolution, resolution), Image.Resampling.LANCZOS)
            prepared.save(folder / name)
            photo.image.save(folder / ORIGINALS / f"{number:02d}.jpg", quality=ORIGINAL_QUALITY)
            squares[f"{number:02d}.jpg"] = shares_of(photo.image, photo.square)
        (folder / ORIGINALS / SQUARES).write_text(json.dumps(squares), encoding="utf-8")
        if origins:
            (folder / ORIGINS).write_text(json.dumps(origins), encoding="utf-8")
        captions = {f"{number:02d}.png": photo.caption for number, photo in enumerate(self.photos, 1) if photo.caption}
        if captions:
            (folder / "captions.json").write_text(json.dumps(captions, ensure_ascii=False), encoding="utf-8")


def photos_in(folder: Path) -> list[Path]:
    """The pictures of a folder by their endings, in the order of their names; hidden files are passed over.

    Raises:
        PhotoError: there is no such folder.
    """
    if not folder.is_dir():
        raise PhotoError(f"There is no folder {folder}; give the folder that holds the photos.")
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )


def read_photos(paths: Sequence[Path]) -> PhotoSet:
    """Read all that can be read, with the captions beside them; one bad file does not spoil the others.

    Too many files are counted, not read.
    """
    if len(paths) > MAXIMUM_COUNT:  # a whole picture library would fill the memory
        return PhotoSet((), (), unopened=len(paths))
    photos, problems = [], []
    for path in paths:
        try:
            photos.append(replace(read_photo(path), caption=caption_beside(path)))
        except PhotoError as error:
            problems.append(str(error))
    return PhotoSet(tuple(photos), tuple(problems))


def read_photo(path: Path, name: str | None = None) -> Photo:
    """One photo: turned upright, transparency on gray, any depth and color space as 8-bit RGB, without its metadata.

    Args:
        path: the file.
        name: what to call it in messages; the file's name unless given.

    Raises:
        PhotoError: it is no picture, damaged, too large or too small; says which and what to do.
    """
    name = name or path.name
    upright = decode(path, name)
    blurred = (f"Photo {name} is a little blurred.",) if sharpness(upright) < BLUR_LIMIT else ()
    return Photo(name, upright, blurred)


def square_box(image: Image.Image) -> tuple[int, int, int, int]:
    """The largest square (left, top, right, bottom) that holds most of the subject, the middle of the square first."""
    width, height = image.size
    side, slack = min(width, height), abs(width - height)
    along = _strangeness(image).sum(axis=0 if width > height else 1)
    window = 1 - 0.5 * numpy.linspace(-1, 1, CROP_SIDE) ** 2
    scores = numpy.correlate(along, window, mode="valid")
    middle = (len(scores) - 1) / 2
    # Among equals the middle: a plain surface scores the same everywhere.
    best = max(range(len(scores)), key=lambda offset: (round(float(scores[offset]), 3), -abs(offset - middle)))
    start = round(slack * best / max(1, len(scores) - 1))
    return (start, 0, start + side, side) if width > height else (0, start, side, start + side)


def shares_of(image: Image.Image, box: Sequence[int]) -> list[float]:
    """A square as shares: left of the width, top of the height, side of the shorter side."""
    left, top, right, _ = box
    return [left / image.width, top / image.height, (right - left) / min(image.size)]


def sharpness(image: Image.Image) -> float:
    """How strong the edges are where the photo is sharpest: its background may well be out of focus.

    The variance of the Laplacian of the gray picture at 512 px, in 8 x 8 tiles; of these the 90th percentile.
    """
    gray = image.convert("L")
    scale = min(1.0, BLUR_SIDE / min(gray.size))
    gray = gray.resize((round(gray.width * scale), round(gray.height * scale)), Image.Resampling.LANCZOS)
    values = numpy.asarray(gray, dtype=numpy.float32)
    center = values[1:-1, 1:-1]
    laplacian = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:] - 4 * center
    height, width = (size // 8 * 8 for size in laplacian.shape)
    tiles = laplacian[:height, :width].reshape(8, height // 8, 8, width // 8)
    return float(numpy.percentile(tiles.var(axis=(1, 3)), 90))


def _strangeness(image: Image.Image) -> numpy.ndarray:
    """How unlike the photo's border each pixel is, less so away from the middle; CROP_SIDE pixels on the shorter side.

    The measure is the Mahalanobis distance: what varies along the border, sky to grass for example, counts little.
    """
    scale = CROP_SIDE / min(image.size)
    small = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BOX)
    pixels = numpy.asarray(small, dtype=numpy.float32)
    rims = (pixels[:2], pixels[-2:], pixels[:, :2], pixels[:, -2:])
    border = numpy.concatenate([rim.reshape(-1, 3) for rim in rims])
    spread = numpy.linalg.inv(numpy.cov(border.T) + 100 * numpy.eye(3))  # 100: ten gray levels are noise
    away = pixels - border.mean(axis=0)
    distance = numpy.sqrt(numpy.einsum("yxi,ij,yxj->yx", away, spread, away))
    down, right = (numpy.linspace(-1, 1, size) for size in distance.shape)
    return distance * numpy.exp(-(down[:, None] ** 2 + right**2) / 2)


def twins_of(photos: Sequence[Photo]) -> dict[str, str]:
    """For each photo that looks nearly like an earlier one: its name, and the earlier one's."""
    thumbnails = [_thumbnail(photo.image) for photo in photos]
    found = {}
    for later, thumbnail in enumerate(thumbnails):
        earlier = next((index for index in range(later) if (thumbnail * thumbnails[index]).sum() > TWIN_LIMIT), None)
        if earlier is not None:
            found[photos[later].name] = photos[earlier].name
    return found


def _twins(photos: Sequence[Photo]) -> list[str]:
    return [f"Photos {earlier} and {later} look alike; leave one out." for later, earlier in twins_of(photos).items()]


def _thumbnail(image: Image.Image) -> numpy.ndarray:
    """16 x 16 colors less their mean, of length 1: brightness and contrast make no difference."""
    small = numpy.asarray(image.resize((16, 16), Image.Resampling.BOX, reducing_gap=2), dtype=numpy.float32)
    centered = small - small.mean()
    return centered / max(1.0, float(numpy.linalg.norm(centered)))
