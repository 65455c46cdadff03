"""One photo, decoded whole: any depth, color space and turn as upright 8-bit RGB. Runs in the child; sizes are in pixels."""

import importlib
import io
import struct
import warnings
from pathlib import Path
from typing import IO

from PIL import AvifImagePlugin, ExifTags, Image, ImageCms, ImageOps

from apt_engine.errors import PhotoError
from apt_engine.reading.regular import open_regular

LARGEST_FILE = 100_000_000  # bytes
MAXIMUM_PIXELS = 64_000_000
MAXIMUM_ANIMATED_PIXELS = 8_000_000  # an animation is held several times over before its size is known
SMALLEST_SIDE = 64
KEPT_SIDE = 2048  # larger photos are reduced: no base model is trained at more
LONGEST_SHAPE = KEPT_SIDE // SMALLEST_SIDE  # a longer one, reduced, would be too small on its shorter side
GREY = (128, 128, 128)
# What a photo may really be, whatever its ending. Left open, Pillow would also try formats that start other programs.
FORMATS = ["JPEG", "PNG", "WEBP", "AVIF", "BMP", "GIF", "TIFF"]
try:  # not among the app's needs; where it is installed, HEIC photos open
    importlib.import_module("pillow_heif").register_heif_opener()
    FORMATS.append("HEIF")
except ImportError:
    pass
AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # each further thread takes address space
# What decoders were seen to raise, each for a file that is damaged: AVIF's RuntimeError, TIFF's TypeError, and so on.
DAMAGED = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, OSError),
    *(RuntimeError, SyntaxError, TypeError, ValueError, struct.error),
)


def decode(name: str, path: Path) -> Image.Image:
    """The photo, upright, transparency on gray, at most KEPT_SIDE a side; nothing of its metadata is left.

    Args:
        name: what to call it in messages.
        path: the file.

    Raises:
        PhotoError: it is no picture, damaged, too large, too small or too long; says which and what to do.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata and many pixels; the size is judged here
            return _decode(name, path)
    except Image.DecompressionBombError as error:
        raise PhotoError(
            f"Photo {name} has far too many pixels; make it smaller, 2,000 pixels a side are plenty."
        ) from error
    except MemoryError as error:
        raise PhotoError(f"Photo {name} takes too much memory to open; make it smaller, or save it as JPEG.") from error
    except DAMAGED as error:
        raise PhotoError(
            f"Photo {name} cannot be opened; it is damaged or not a picture: copy it again, or convert it to JPEG or PNG."
        ) from error


def _decode(name: str, path: Path) -> Image.Image:
    with open_regular(path) as file:
        if file.seek(0, io.SEEK_END) > LARGEST_FILE:
            raise PhotoError(f"Photo {name} is larger than {LARGEST_FILE // 1_000_000} MB; bring a smaller one.")
        file.seek(0)
        _check_animation(name, file)
        with Image.open(file, formats=FORMATS) as image:
            _check_size(name, image.size)
            image.draft("RGB", (KEPT_SIDE, KEPT_SIDE))
            upright = ImageOps.exif_transpose(_to_rgb(image))
    upright.info.clear()
    return upright


def _check_animation(name: str, file: IO[bytes]) -> None:
    """Pillow makes room for two whole pictures of an animated WebP when it opens one: 184 bytes took 1.2 GB."""
    head = file.read(30)
    file.seek(0)
    if head[:4] != b"RIFF" or head[8:16] != b"WEBPVP8X" or len(head) < 30 or not head[20] & 2:
        return
    width, height = (1 + int.from_bytes(head[start : start + 3], "little") for start in (24, 27))
    if width * height > MAXIMUM_ANIMATED_PIXELS:
        raise PhotoError(f"Photo {name} is an animation of {width} x {height} pixels; bring a single picture.")


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
    if max(size) > LONGEST_SHAPE * min(size):
        raise PhotoError(f"Photo {name} is a long strip ({width} x {height} pixels); cut out the part with the thing.")


def _to_rgb(image: Image.Image) -> Image.Image:
    """8-bit RGB of whatever mode, decoded whole and reduced; the EXIF orientation is kept for later."""
    image.load()
    if image.mode.startswith("I") or image.mode == "F":
        rgb = _reduced(_eight_bits(image)).convert("RGB")
    elif image.has_transparency_data:
        layer = _reduced(image if image.mode == "RGBA" else image.convert("RGBA"))
        rgb = Image.new("RGB", layer.size, GREY)
        rgb.paste(layer, mask=layer.getchannel("A"))
    else:
        plain = image.convert("RGB") if image.mode in ("P", "1") else image
        rgb = _reduced(_to_srgb(_reduced(plain)).convert("RGB"))
    rgb.info.pop("exif", None)  # it may be damaged
    if orientation := _orientation(image):
        rgb.getexif()[ExifTags.Base.Orientation] = orientation
    return rgb


def _reduced(image: Image.Image) -> Image.Image:
    """As small as it will be kept; a mode that cannot be reduced stays as it is."""
    if max(image.size) > KEPT_SIDE and image.mode in ("L", "LA", "RGB", "RGBA", "CMYK", "YCbCr"):
        image = image.copy() if image.readonly else image
        image.thumbnail((KEPT_SIDE, KEPT_SIDE), Image.Resampling.LANCZOS)
    return image


def _orientation(image: Image.Image) -> int | None:
    """The camera's turn; a photo whose metadata is damaged is taken as it lies."""
    try:
        turn = image.getexif().get(ExifTags.Base.Orientation)
    except DAMAGED:
        return None
    return turn if isinstance(turn, int) else None


def _eight_bits(image: Image.Image) -> Image.Image:
    """Gray of 16 bits, 32 bits or floats brought to 8: Pillow's own conversion cuts off at 255 and turns it white."""
    import numpy

    values = numpy.asarray(image)
    if image.mode.startswith("I;16"):
        return Image.fromarray((values // 257).astype(numpy.uint8))
    peak = float(values.max())
    full = next((limit for limit in (1, 255, 65535) if peak <= limit), peak)
    eight = numpy.empty(values.shape, numpy.uint8)
    for row, line in enumerate(values):  # line by line: of a large picture there is no room for copies
        eight[row] = (line.astype(numpy.float32) * (255 / full)).clip(0, 255).round()
    return Image.fromarray(eight)


def _to_srgb(image: Image.Image) -> Image.Image:
    """Colors of a wide-gamut photo (most phones) or of a print as sRGB; an unreadable profile is as good as none."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "CMYK"):
        return image
    try:
        source = ImageCms.getOpenProfile(io.BytesIO(profile))
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except ImageCms.PyCMSError:
        return image
    return converted or image
