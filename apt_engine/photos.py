"""Photos as people bring them: decoded, upright, checked, and cropped to squares around the subject.

Pictures are 8-bit RGB from here on; sizes are in pixels.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

from apt_engine.errors import PhotoError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".heic", ".heif")
GOOD_COUNT = (3, 10)
MINIMUM_COUNT = 2
MAXIMUM_COUNT = 30
SMALLEST_SIDE = 64
MAXIMUM_PIXELS = 64_000_000
KEPT_SIDE = 2048  # larger photos are reduced: no base model is trained at more
GREY = (128, 128, 128)
BLUR_SIDE = 256  # sharpness is judged at this size
BLUR_LIMIT = 30.0  # variance of the Laplacian; the 24 sample photos of five subjects lie above 100
TWIN_LIMIT = 6.0  # mean difference of 16 px thumbnails in gray levels (0 to 255)


@dataclass(frozen=True)
class Photo:
    """One photo, upright RGB of at most 2048 px a side; `warnings` are sentences about it."""

    name: str
    image: Image.Image
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class PhotoSet:
    """The photos that could be read, and a sentence for each file that could not."""

    photos: tuple[Photo, ...]
    problems: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse a set that cannot be trained on.

        Raises:
            PhotoError: there are none, only one, or far too many.
        """
        count = len(self.photos)
        if count == 0:
            raise PhotoError("There are no photos; add 3 to 10 photos of the thing.")
        if count < MINIMUM_COUNT:
            raise PhotoError(
                "One photo is too few; add 3 to 10 photos of the thing, in different places and from different sides."
            )
        if count > MAXIMUM_COUNT:
            raise PhotoError(f"{count} photos are too many; choose the 3 to 10 that differ most.")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What could be better, one sentence each."""
        count = len(self.photos)
        about_set = []
        if 0 < count < GOOD_COUNT[0]:
            about_set.append(f"{count} photos are few; 3 to 10 work better.")
        if count > GOOD_COUNT[1]:
            about_set.append(f"{count} photos are many; 3 to 10 that differ work as well and train faster.")
        return (*about_set, *(warning for photo in self.photos for warning in photo.warnings), *_twins(self.photos))

    def smaller_than(self, resolution: int) -> tuple[str, ...]:
        """A sentence for each photo with fewer pixels a side than it will be trained at."""
        sides = [(photo.name, min(photo.image.size)) for photo in self.photos]
        return tuple(
            f"Photo {name} is small ({side} px); {resolution} px or more are better."
            for name, side in sides
            if side < resolution
        )

    def save(self, folder: Path, resolution: int) -> None:
        """Write 01.png, 02.png ... into `folder`: RGB squares of `resolution` px around the subject."""
        for number, photo in enumerate(self.photos, 1):
            square = photo.image.crop(square_box(photo.image))
            square.resize((resolution, resolution), Image.Resampling.LANCZOS).save(folder / f"{number:02d}.png")


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
    """Read all that can be read; one bad file does not spoil the others."""
    photos, problems = [], []
    for path in paths:
        try:
            photos.append(read_photo(path))
        except PhotoError as error:
            problems.append(str(error))
    return PhotoSet(tuple(photos), tuple(problems))


def read_photo(path: Path, name: str | None = None) -> Photo:
    """Decode one photo whole: turned upright, transparency on gray, any depth and color space as 8-bit RGB.

    Args:
        path: the file.
        name: what to call it in messages; the file's name unless given.

    Raises:
        PhotoError: it is no picture, damaged, too large or too small; says which and what to do.
    """
    name = name or path.name
    try:
        with Image.open(path) as image:
            _check_size(name, image.size)
            image.draft("RGB", (KEPT_SIDE, KEPT_SIDE))
            upright = ImageOps.exif_transpose(_to_rgb(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PhotoError(
            f"Photo {name} has far too many pixels; make it smaller, 2,000 pixels a side are plenty."
        ) from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError) as error:
        raise PhotoError(
            f"Photo {name} cannot be opened; it is damaged or no picture: convert it to JPEG or PNG."
        ) from error
    upright.thumbnail((KEPT_SIDE, KEPT_SIDE), Image.Resampling.LANCZOS)
    blurred = (f"Photo {name} is a little blurred.",) if sharpness(upright) < BLUR_LIMIT else ()
    return Photo(name, upright, blurred)


def square_box(image: Image.Image) -> tuple[int, int, int, int]:
    """The largest square (left, top, right, bottom) that holds most of the subject.

    The subject is where colors differ from those along the photo's border; half of the say has the middle.
    """
    width, height = image.size
    side = min(width, height)
    if width == height:
        return 0, 0, side, side
    scale = 64 / side
    small = image.resize((round(width * scale), round(height * scale)), Image.Resampling.BOX)
    pixels = numpy.asarray(small, dtype=numpy.float32)
    border = numpy.concatenate(
        [
            pixels[:2].reshape(-1, 3),
            pixels[-2:].reshape(-1, 3),
            pixels[:, :2].reshape(-1, 3),
            pixels[:, -2:].reshape(-1, 3),
        ]
    )
    distance = numpy.linalg.norm(pixels - numpy.median(border, axis=0), axis=2)
    along = distance.sum(axis=0 if width > height else 1)
    windows = numpy.convolve(along, numpy.ones(64), mode="valid")
    offsets = numpy.arange(len(windows))
    middle = 1 - abs(offsets - offsets[-1] / 2) / max(1, len(along))
    start = (
        round(int(numpy.argmax(windows / windows.max() + middle)) / scale)
        if windows.max() > 0
        else (max(width, height) - side) // 2
    )
    start = min(start, max(width, height) - side)
    return (start, 0, start + side, side) if width > height else (0, start, side, start + side)


def sharpness(image: Image.Image) -> float:
    """Variance of the Laplacian of the gray picture at 256 px: low where nothing has an edge."""
    gray = image.convert("L")
    gray.thumbnail((BLUR_SIDE, BLUR_SIDE), Image.Resampling.BOX)
    values = numpy.asarray(gray, dtype=numpy.float32)
    center = values[1:-1, 1:-1]
    laplacian = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:] - 4 * center
    return float(laplacian.var())


def _check_size(name: str, size: tuple[int, int]) -> None:
    """Judge by the header, before anything is decoded: a small file may claim any size."""
    width, height = size
    if width * height > MAXIMUM_PIXELS:
        megapixels = width * height / 1e6
        raise PhotoError(
            f"Photo {name} has {megapixels:.0f} megapixels; make it smaller, 2,000 pixels a side are plenty."
        )
    if min(size) < SMALLEST_SIDE:
        raise PhotoError(
            f"Photo {name} is too small ({width} x {height} pixels); bring one of at least 512 pixels a side."
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of whatever mode, decoded whole; the EXIF orientation is kept for later."""
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        rgb = _eight_bits(image).convert("RGB")
    elif image.has_transparency_data:
        layer = image.convert("RGBA")
        rgb = Image.new("RGB", image.size, GREY)
        rgb.paste(layer, mask=layer.getchannel("A"))
    else:
        rgb = _to_srgb(image).convert("RGB")
    if orientation := image.getexif().get(ExifTags.Base.Orientation):
        rgb.getexif()[ExifTags.Base.Orientation] = orientation
    return rgb


def _eight_bits(image: Image.Image) -> Image.Image:
    """Gray of 16 bits, 32 bits or floats brought to 8: Pillow's own conversion cuts off at 255 and turns it white."""
    values = numpy.asarray(image, dtype=numpy.float64)
    full = 65535 if image.mode.startswith("I") and values.max() > 255 else 1 if values.max() <= 1 else 255
    return Image.fromarray((values / full * 255).clip(0, 255).round().astype(numpy.uint8))


def _to_srgb(image: Image.Image) -> Image.Image:
    """Colors of a wide-gamut photo (most phones) as sRGB; an unreadable profile is as good as none."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode != "RGB":
        return image
    try:
        source = ImageCms.getOpenProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"))
    except ImageCms.PyCMSError:
        return image
    return converted or image


def _twins(photos: Sequence[Photo]) -> list[str]:
    """A sentence for each photo that looks nearly like an earlier one."""
    thumbnails = [
        numpy.asarray(photo.image.convert("L").resize((16, 16), Image.Resampling.BOX), dtype=numpy.float32)
        for photo in photos
    ]
    found = []
    for later in range(len(photos)):
        for earlier in range(later):
            if abs(thumbnails[later] - thumbnails[earlier]).mean() < TWIN_LIMIT:
                found.append(f"Photo {photos[later].name} is nearly the same as {photos[earlier].name}; leave one out.")
                break
    return found
