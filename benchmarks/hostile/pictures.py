"""Pictures: whole ones of many kinds, which must come out right; lies about size, bombs, other files; mutants."""

import io
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
from PIL import Image, ImageCms, ImageFilter

from apt_engine.photos.photo_set import Photo, read_photo
from benchmarks.hostile import picture_bytes
from benchmarks.hostile.outcome import Outcome, judge

HEAVY = ("8000", " MB", "5000", "200,000", "1,000 profiles")  # in the names of what takes long
SIDES = ((120, 100), (100, 120), (333, 65))
SECRET = b"48.8583N 2.2944E"  # where a photo was taken
TOLERANCE = 14  # gray levels, mean: JPEG of 4:2:0, a palette of 256 colors
Wrong = Callable[[Any], str]
Make = Callable[[Path], tuple[Path, Wrong]]


def pictures(folder: Path, *, is_short: bool = False) -> Iterator[Outcome]:
    """Every kind, whole or not; without those that take a second or more if `is_short`."""
    for name, make in {**_whole(), **_lies(), **_others()}.items():
        if is_short and any(word in name for word in HEAVY):
            continue
        path, wrong = make(folder)
        yield judge(name, lambda path=path: read_photo(path), wrong)
        if path.is_file():
            path.unlink()


def mutants(folder: Path, count: int, seed: int = 0) -> Iterator[Outcome]:
    """Whole pictures with bytes changed, cut off, doubled or moved."""
    draw = random.Random(seed)
    originals = [
        (f"{suffix}-{mode}", suffix, _saved(base(*SIDES[0], mode), suffix))
        for suffix, mode in _kinds()
        if suffix != "gif"
    ]
    for number in range(count):
        name, suffix, content = originals[number % len(originals)]
        path = folder / f"mutant.{suffix}"
        path.write_bytes(_mutated(content, draw))
        yield judge(f"mutant {number} of {name}", lambda path=path: read_photo(path), _wrong_shape)


def base(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A soft colored surface that any format keeps, with an opaque alpha."""
    down, right = numpy.mgrid[0:height, 0:width]
    values = numpy.stack([255 * right / width, 255 * down / height, 127 + 0 * right], axis=-1)
    image = Image.fromarray(values.astype(numpy.uint8)).filter(ImageFilter.GaussianBlur(2))
    if mode == "I;16":
        return Image.fromarray(numpy.asarray(image.convert("L")).astype(numpy.uint16) * 257)
    return image.convert(mode)


def _kinds() -> list[tuple[str, str]]:
    modes = {
        "png": ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"),
        "jpg": ("RGB", "L", "CMYK"),
        "webp": ("RGB", "RGBA", "L"),
        "avif": ("RGB", "RGBA"),
        "bmp": ("RGB", "L", "P", "1"),
        "tiff": ("RGB", "RGBA", "L", "CMYK", "P", "I;16", "I", "F"),
        "gif": ("P", "L"),
    }
    return [(suffix, mode) for suffix, found in modes.items() for mode in found]


def _saved(image: Image.Image, suffix: str, **options: Any) -> bytes:
    content = io.BytesIO()
    image.save(content, format={"jpg": "JPEG"}.get(suffix, suffix.upper()), **options)
    return content.getvalue()


def _whole() -> dict[str, Make]:
    """Each kind and size; each turn of the camera; profiles, places and comments that must be gone."""
    found: dict[str, Make] = {}
    for suffix, mode in _kinds():
        for width, height in SIDES:
            image = base(width, height, mode)
            found[f"whole {suffix} {mode} {width} x {height}"] = _file(suffix, _saved(image, suffix), _unlike(image))
    for turn in range(10):
        for suffix in ("jpg", "png", "webp", "tiff", "avif"):
            exif = Image.Exif()
            exif[0x0112] = turn
            exif[0x010E] = SECRET.decode()
            exif.get_ifd(0x8825)[1] = "N"
            found[f"turn {turn} {suffix}"] = _file(suffix, _saved(base(120, 100), suffix, exif=exif), _tells_place)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, bytes_ in {"sRGB": profile, "no": b"x" * 200, "half a": profile[:100], "NULs as": b"\0" * 5000}.items():
        for suffix in ("jpg", "png", "webp", "tiff"):
            content = _saved(base(120, 100), suffix, icc_profile=bytes_)
            found[f"{name} profile {suffix}"] = _file(suffix, content, _unlike(base(120, 100)))
    for suffix in ("webp", "gif", "png", "tiff"):
        frames = [base(120, 100), base(120, 100).rotate(90, expand=False)]
        content = _saved(frames[0], suffix, save_all=True, append_images=frames[1:])
        found[f"animated {suffix}"] = _file(suffix, content, _unlike(frames[0]))
    for suffix, other in (("jpg", "png"), ("png", "jpg"), ("webp", "bmp"), ("bmp", "tiff"), ("heic", "png")):
        found[f"{other} called {suffix}"] = _file(suffix, _saved(base(120, 100), other), _unlike(base(120, 100)))
    found["5000 x 2500"] = _file("jpg", _saved(base(5000, 2500), "jpg"), _wrong_shape)
    found["8000 x 8000 RGBA"] = _file(
        "png", lambda: _saved(Image.new("RGBA", (8000, 8000), (9, 9, 9, 9)), "png"), _wrong_shape
    )
    found["8000 x 8000 of 16 bits"] = _file(
        "png", lambda: _saved(Image.new("I;16", (8000, 8000), 9), "png"), _wrong_shape
    )
    found["8000 x 8000 floats"] = _file(
        "tiff", lambda: _saved(Image.new("F", (8000, 8000), 9), "tiff", compression="tiff_deflate"), _wrong_shape
    )
    return found


def _lies() -> dict[str, Make]:
    """Files that claim what they do not hold, or unpack into far more than they are."""
    found: dict[str, Make] = {}
    for width, height in (
        (1, 1),
        (0, 0),
        (1, 1_000_000),
        (64, 1_000_000),
        (2_000_000, 64),
        (65_000, 65_000),
        (2**31 - 1, 1),
    ):
        found[f"png of {width} x {height}"] = _file("png", picture_bytes.png(width, height, b"\0" * 1000))
        found[f"bmp of {width} x {height}"] = _file("bmp", picture_bytes.bmp(width, height))
        found[f"gif of {width} x {height}"] = _file(
            "gif", b"GIF89a" + struct.pack("<HH", width & 65535, height & 65535)
        )
    for side in (4000, 8000, 16_383):
        found[f"animated webp of {side}"] = _file("webp", picture_bytes.animated_webp(side))
    found["png that unpacks to 800 MB"] = _file(
        "png", lambda: picture_bytes.png(8000, 8000, b"\0" * 200_000_000), _wrong_shape
    )
    found["png text that unpacks to 200 MB"] = _file(
        "png", lambda: picture_bytes.png_with(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 200_000_000)), _wrong_shape
    )
    found["png profile that unpacks to 200 MB"] = _file(
        "png", lambda: picture_bytes.png_with(b"iCCP", b"a\0\0" + zlib.compress(b"x" * 200_000_000)), _wrong_shape
    )
    found["png exif of 60 MB"] = _file(
        "png", lambda: picture_bytes.png_with(b"eXIf", picture_bytes.exif(5_000_000)), _wrong_shape
    )
    found["png of 200,000 chunks"] = _file(
        "png", lambda: picture_bytes.png_with(b"tEXt", b"a\0b", 200_000), _wrong_shape
    )
    found["jpeg of 65 MB exif"] = _file(
        "jpg", lambda: picture_bytes.jpeg_with(b"Exif\0\0" + b"x" * 65_000, 1000), _wrong_shape
    )
    found["jpeg of 1,000 profiles"] = _file(
        "jpg", lambda: picture_bytes.jpeg_with(b"ICC_PROFILE\0\1\1" + b"x" * 65_000, 255, marker=0xE2), _wrong_shape
    )
    found["tiff of an endless chain"] = _file("tiff", b"II*\0\x08\0\0\0\0\0\x08\0\0\0")
    found["tiff of 65,535 entries"] = _file("tiff", picture_bytes.exif(65_535))
    whole = _saved(base(120, 100), "jpg")
    for share in (0, 1, 2, 10, 50, 90, 99):
        found[f"{share} % of a jpeg"] = _file("jpg", whole[: len(whole) * share // 100])
    return found


def _others() -> dict[str, Make]:
    """What is no picture at all, and files that are no files."""
    touch = f"touch {os.environ.get('APT_HOSTILE_SENTINEL', '/dev/null')}"
    texts = {
        "eps": f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n(%pipe%{touch}) (w) file\n",
        "svg": f'<svg xmlns="http://www.w3.org/2000/svg" width="100" height="100"><script>{touch}</script></svg>',
        "pdf": "%PDF-1.4\n1 0 obj<</OpenAction<</S/Launch/F(touch)>>>>endobj",
        "mvg": f"push graphic-context\nimage over 0,0 0,0 '|{touch}'\npop graphic-context",
        "msl": f'<image><read filename="|{touch}"/></image>',
        "python": f"import os; os.system({touch!r})",
        "pickle": f"cos\nsystem\n(S{touch!r}\ntR.",
        "html": f"<script>{touch}</script>",
        "zip": "PK\3\4" + "x" * 100,
        "text": "no picture",
        "nothing": "",
        "xbm": "#define im_width 100\n#define im_height 100\nstatic char im_bits[] = {0};",
        "ppm": "P6 100 100 255\n" + "x" * 30_000,
    }
    found = {f"{name} called jpg": _file("jpg", text.encode("latin-1")) for name, text in texts.items()}
    places: dict[str, Callable[[Path], object]] = {
        "a folder": lambda path: path.mkdir(),
        "nothing there": lambda path: None,
        "a loop of links": lambda path: path.symlink_to(path),
        "an endless device": lambda path: path.symlink_to("/dev/zero"),
        "a terminal": lambda path: path.symlink_to("/dev/tty"),
        "a pipe": os.mkfifo,
        "a large hole": lambda path: (path.touch(), os.truncate(path, 10**10)),
    }
    for name, make in places.items():
        found[name] = _placed(name, make)
    return found


def _file(
    suffix: str, content: bytes | Callable[[], bytes], wrong: Wrong = lambda _: "accepted, and is no picture"
) -> Make:
    def make(folder: Path) -> tuple[Path, Wrong]:
        path = folder / f"hostile.{suffix}"
        path.write_bytes(content if isinstance(content, bytes) else content())
        return path, wrong

    return make


def _placed(name: str, place: Callable[[Path], object]) -> Make:
    def make(folder: Path) -> tuple[Path, Wrong]:
        path = folder / f"{name}.jpg"
        place(path)
        return path, lambda photo: "accepted, and is no file"

    return make


def _unlike(image: Image.Image) -> Wrong:
    """Wants the same picture, by its mean difference."""
    wanted = numpy.asarray(image.convert("L") if image.mode != "I;16" else base(*image.size, "L"), dtype=float)

    def wrong(photo: Photo) -> str:
        if photo.image.size != image.size:
            return f"is {photo.image.size}, not {image.size}"
        difference = float(numpy.abs(numpy.asarray(photo.image.convert("L"), dtype=float) - wanted).mean())
        return f"differs by {difference:.0f}" if difference > TOLERANCE else _wrong_shape(photo)

    return wrong


def _wrong_shape(photo: Photo) -> str:
    image = photo.image
    is_right = image.mode == "RGB" and min(image.size) >= 64 and max(image.size) <= 2048 and not image.info
    return "" if is_right else f"is {image.mode} {image.size} with {list(image.info)}"


def _tells_place(photo: Photo) -> str:
    """Written as a run's photo is, nothing but pixels may be left."""
    content = io.BytesIO()
    photo.image.save(content, format="PNG")
    with Image.open(content) as kept:
        left = [*kept.info, *kept.getexif()]
    return f"still tells {left}" if left or SECRET in content.getvalue() else _wrong_shape(photo)


def _mutated(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4, 16, 64))):
        at = draw.randrange(len(changed)) if draw.random() < 0.5 else draw.randrange(min(200, len(changed)))
        match draw.randrange(6):
            case 0 | 1:
                changed[at] = draw.randrange(256)
            case 2:
                changed[at : at + 4] = draw.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\0\0\0\1"))
            case 3:
                changed[at : at + draw.randrange(64)] = b""
            case 4:
                changed[at:at] = changed[at : at + draw.randrange(64)]
            case _:
                changed[at:at] = draw.randbytes(draw.randrange(16))
        if len(changed) < 8:
            break
    return bytes(changed[: draw.randrange(len(changed) + 1)] if draw.random() < 0.1 else changed)
