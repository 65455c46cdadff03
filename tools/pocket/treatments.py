"""The treatments: what a medium does to a picture. Each takes and returns an RGB picture of places.CANVAS pixels."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps

Treatment = Callable[[Image.Image, np.random.Generator], Image.Image]


def _photo(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.92, 1.08))
    return ImageEnhance.Color(picture).enhance(rng.uniform(0.85, 1.1))


def _pencil_sketch(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    gray = ImageOps.autocontrast(ImageOps.grayscale(picture), cutoff=1)
    blurred = ImageOps.invert(gray).filter(ImageFilter.GaussianBlur(rng.uniform(4.5, 6)))
    dodge = np.minimum(255, np.asarray(gray, np.float32) * 255 / np.maximum(1, 255 - np.asarray(blurred, np.float32)))
    tone = 0.72 * dodge + 0.28 * (150 + 0.42 * np.asarray(gray, np.float32))
    paper = np.clip(tone[..., None] * np.array((0.985, 0.975, 0.95)), 0, 255).astype(np.uint8)
    return Image.fromarray(paper)


def _pixel_art(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    small = picture.resize((26, 26), Image.Resampling.BOX)
    small = ImageEnhance.Contrast(ImageEnhance.Color(small).enhance(1.35)).enhance(1.1)
    palette = small.quantize(int(rng.integers(10, 17)), dither=Image.Dither.NONE).convert("RGB")
    return palette.resize((130, 130), Image.Resampling.NEAREST).crop((1, 1, 129, 129))


def _watercolor(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    wash = picture.filter(ImageFilter.ModeFilter(5)).filter(ImageFilter.GaussianBlur(0.9))
    pale = Image.blend(ImageEnhance.Color(wash).enhance(1.15), Image.new("RGB", wash.size, (252, 250, 244)), 0.26)
    blot = Image.fromarray(rng.integers(225, 256, (6, 6), dtype=np.uint8)).resize(wash.size, Image.Resampling.BICUBIC)
    pale = ImageChops.multiply(pale, Image.merge("RGB", (blot, blot, blot)))
    margin = int(rng.integers(6, 11))
    mask = Image.new("L", wash.size, 0)
    mask.paste(255, (margin, margin, wash.width - margin, wash.height - margin))
    paper = Image.new("RGB", wash.size, (250, 248, 242))
    return Image.composite(pale, paper, mask.filter(ImageFilter.GaussianBlur(4)))


def _black_and_white(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    gray = ImageEnhance.Contrast(ImageOps.grayscale(picture)).enhance(rng.uniform(1.0, 1.25))
    return gray.convert("RGB")


TREATMENTS: dict[str, Treatment] = {
    "photo": _photo,
    "pencil sketch": _pencil_sketch,
    "pixel art": _pixel_art,
    "watercolor": _watercolor,
    "black and white": _black_and_white,
}
