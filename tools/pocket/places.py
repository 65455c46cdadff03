"""The drawn places: a gradient, a ground and a few shapes each, with random detail; CANVAS pixels square."""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tools.pocket.vocabulary import COLORS

CANVAS = 128
Color = tuple[float, float, float]
Painter = Callable[[np.random.Generator], Image.Image]


def draw_place(place: str, rng: np.random.Generator) -> Image.Image:
    """Draws one of vocabulary.PLACE_NAMES."""
    if place in PAINTERS:
        return PAINTERS[place](rng).filter(ImageFilter.GaussianBlur(1.2))
    color = _vary(COLORS[place.removesuffix(" background")], rng, 8)
    return _gradient(_shade(color, rng.uniform(0.98, 1.04)), _shade(color, rng.uniform(0.88, 0.98)))


def _gradient(top: Color, bottom: Color) -> Image.Image:
    ramp = np.linspace(0, 1, CANVAS)[:, None, None]
    rows = np.array(top) * (1 - ramp) + np.array(bottom) * ramp
    return Image.fromarray(np.broadcast_to(np.clip(rows, 0, 255), (CANVAS, CANVAS, 3)).astype(np.uint8))


def _shade(color: Color, factor: float) -> Color:
    return (color[0] * factor, color[1] * factor, color[2] * factor)


def _vary(color: Color, rng: np.random.Generator, amount: float) -> Color:
    shift = rng.uniform(-amount, amount) + rng.uniform(-amount / 2, amount / 2, 3)
    return (color[0] + shift[0], color[1] + shift[1], color[2] + shift[2])


def _ink(color: Color) -> tuple[int, int, int]:
    red, green, blue = (int(np.clip(channel, 0, 255)) for channel in color)
    return (red, green, blue)


def _ground(picture: Image.Image, top: float, near: Color, far: Color) -> ImageDraw.ImageDraw:
    """Lays a ground from row `top` down, `far` at its upper edge and `near` at the bottom."""
    row = int(top)
    picture.paste(_gradient(far, near).resize((CANVAS, CANVAS - row)), (0, row))
    return ImageDraw.Draw(picture)


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, color: Color) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_ink(color))


def _hills(draw: ImageDraw.ImageDraw, rng: np.random.Generator, base: float, height: float, color: Color) -> None:
    x = np.arange(-2, CANVAS + 3)
    waves = sum((np.sin(x * rng.uniform(0.02, 0.06) + rng.uniform(0, 7)) for _ in range(2)), np.zeros(len(x)))
    points = [(float(px), base - height * (float(wave) + 2) / 4) for px, wave in zip(x, waves, strict=True)]
    draw.polygon([(-2, CANVAS), *points, (CANVAS + 2, CANVAS)], fill=_ink(color))


def _beach(rng: np.random.Generator) -> Image.Image:
    picture = _gradient(_vary((96, 178, 240), rng, 12), (205, 235, 250))
    horizon, shore = rng.uniform(36, 50), rng.uniform(62, 76)
    draw = _ground(picture, horizon, (70, 190, 205), _vary((30, 120, 190), rng, 10))
    if rng.random() < 0.5:
        _disc(draw, rng.uniform(10, 118), rng.uniform(8, 24), 8, (255, 240, 150))
    _hills(draw, rng, shore + 3, 8, (245, 250, 250))
    _hills(draw, rng, shore + 8, 8, _vary((240, 215, 150), rng, 8))
    return picture


def _snow(rng: np.random.Generator) -> Image.Image:
    picture = _gradient(_vary((165, 190, 220), rng, 12), (215, 226, 238))
    draw = ImageDraw.Draw(picture)
    horizon = rng.uniform(56, 74)
    for x in rng.uniform(0, CANVAS, int(rng.integers(2, 6))):
        _pine(draw, x, horizon + 4, rng.uniform(24, 44), _vary((92, 128, 128), rng, 10))
    _hills(draw, rng, horizon + 6, 10, (240, 245, 252))
    _hills(draw, rng, horizon + 34, 12, (250, 252, 255))
    for x, y in rng.uniform(0, CANVAS, (22, 2)):
        _disc(draw, x, y, rng.uniform(1.2, 2.4), (255, 255, 255))
    return picture


def _pine(draw: ImageDraw.ImageDraw, x: float, base: float, height: float, color: Color) -> None:
    for level in range(3):
        top, width = base - height + level * height * 0.25, height * (0.16 + 0.1 * level)
        draw.polygon([(x, top), (x - width, top + height * 0.45), (x + width, top + height * 0.45)], fill=_ink(color))


def _meadow(rng: np.random.Generator) -> Image.Image:
    picture = _gradient(_vary((110, 185, 245), rng, 12), (205, 232, 250))
    horizon = rng.uniform(50, 68)
    _hills(ImageDraw.Draw(picture), rng, horizon + 4, 16, (125, 190, 105))
    draw = _ground(picture, horizon, (70, 150, 48), _vary((112, 190, 75), rng, 10))
    for x, y in rng.uniform((0, horizon + 4), (CANVAS, CANVAS), (26, 2)):
        draw.line((x, y, x + rng.uniform(-2, 2), y - 5), fill=(60, 132, 42), width=2)
    for x, y in rng.uniform((0, horizon + 8), (CANVAS, CANVAS), (6, 2)):
        _disc(draw, x, y, 2.2, (250, 245, 160))
    return picture


def _desert(rng: np.random.Generator) -> Image.Image:
    picture = _gradient(_vary((250, 205, 130), rng, 10), (253, 236, 195))
    draw = ImageDraw.Draw(picture)
    horizon = rng.uniform(54, 70)
    if rng.random() < 0.6:
        _disc(draw, rng.uniform(10, 118), rng.uniform(10, 32), 9, (255, 250, 215))
    _hills(draw, rng, horizon, 20, (214, 146, 78))
    _hills(draw, rng, horizon + 20, 18, (226, 162, 88))
    _hills(draw, rng, horizon + 44, 16, _vary((236, 176, 100), rng, 8))
    return picture


def _night(rng: np.random.Generator) -> Image.Image:
    picture = _gradient(_vary((12, 18, 52), rng, 5), (42, 56, 108))
    draw = ImageDraw.Draw(picture)
    for x, y in rng.uniform(0, (CANVAS, 80), (18, 2)):
        _disc(draw, x, y, rng.uniform(0.9, 1.7), (240, 240, 215))
    x, y = rng.uniform(16, 112), rng.uniform(14, 30)
    _disc(draw, x, y, 11, (250, 245, 205))
    _hills(draw, rng, rng.uniform(78, 92), 18, (20, 32, 46))
    return picture


def _under_water(rng: np.random.Generator) -> Image.Image:
    picture = _gradient(_vary((60, 190, 210), rng, 12), (8, 68, 122))
    draw = ImageDraw.Draw(picture)
    for x in rng.uniform(0, CANVAS, 3):
        draw.polygon([(x, 0), (x + 12, 0), (x - 16, 70), (x - 34, 70)], fill=(88, 200, 216))
    picture = picture.filter(ImageFilter.GaussianBlur(5))
    draw = ImageDraw.Draw(picture)
    _hills(draw, rng, rng.uniform(108, 118), 10, (120, 138, 128))
    for x in rng.uniform(0, CANVAS, int(rng.integers(2, 5))):
        height = rng.uniform(20, 44)
        points = [(x + 4 * np.sin(step / 2.0), CANVAS - height * step / 8) for step in range(9)]
        draw.line(points, fill=(28, 130, 90), width=5)
    for x, y in rng.uniform(0, (CANVAS, 110), (8, 2)):
        radius = rng.uniform(2, 4.5)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=(200, 240, 245), width=2)
    return picture


def _space(rng: np.random.Generator) -> Image.Image:
    picture = _gradient(_vary((22, 12, 48), rng, 6), _vary((14, 10, 30), rng, 5))
    draw = ImageDraw.Draw(picture)
    for x, y in rng.uniform(0, CANVAS, (3, 2)):
        _disc(draw, x, y, rng.uniform(14, 26), _vary((66, 32, 102), rng, 10))
    picture = picture.filter(ImageFilter.GaussianBlur(10))
    draw = ImageDraw.Draw(picture)
    for x, y in rng.uniform(0, CANVAS, (30, 2)):
        _disc(draw, x, y, rng.uniform(0.8, 1.8), (250, 250, 255))
    hue = _vary(((206, 130, 82), (110, 160, 205), (190, 110, 170))[int(rng.integers(3))], rng, 12)
    x, y, radius = rng.uniform(8, 120), rng.uniform(6, 44), rng.uniform(10, 18)
    _disc(draw, x, y, radius, hue)
    draw.line((x - radius * 1.6, y + 5, x + radius * 1.6, y - 5), fill=(225, 205, 180), width=3)
    return picture


def _city(rng: np.random.Generator) -> Image.Image:
    picture = _gradient(_vary((150, 190, 225), rng, 12), (225, 232, 238))
    draw = ImageDraw.Draw(picture)
    street, x = rng.uniform(84, 96), -6.0
    while x < CANVAS:
        width, top = rng.uniform(18, 32), rng.uniform(8, 50)
        color = _vary(((150, 130, 122), (120, 135, 156), (172, 150, 128))[int(rng.integers(3))], rng, 16)
        draw.rectangle((x, top, x + width, street), fill=_ink(color))
        for row in np.arange(top + 5, street - 6, 10):
            for column in np.arange(x + 4, x + width - 5, 8):
                draw.rectangle((column, row, column + 4, row + 5), fill=(236, 226, 172))
        x += width + rng.uniform(0, 3)
    _ground(picture, street, (98, 100, 106), _vary((118, 120, 126), rng, 8))
    for x in np.arange(rng.uniform(-20, 0), CANVAS, 30):
        draw.rectangle((x, street + 15, x + 14, street + 18), fill=(232, 226, 190))
    return picture


def _forest(rng: np.random.Generator) -> Image.Image:
    picture = _gradient(_vary((58, 112, 66), rng, 8), (36, 82, 48))
    draw = ImageDraw.Draw(picture)
    for x, y in rng.uniform((0, -6), (CANVAS, 30), (12, 2)):
        _disc(draw, x, y, rng.uniform(9, 17), _vary((70, 138, 66), rng, 14))
    horizon = rng.uniform(76, 90)
    for x in rng.uniform(0, CANVAS, int(rng.integers(5, 8))):
        width = rng.uniform(5, 10)
        draw.rectangle((x, 18, x + width, horizon + 6), fill=_ink(_vary((92, 66, 44), rng, 10)))
    _hills(draw, rng, horizon + 8, 9, _vary((86, 104, 48), rng, 8))
    return picture


def _wooden_table(rng: np.random.Generator) -> Image.Image:
    wall = ((226, 214, 196), (190, 204, 206), (214, 190, 180))[int(rng.integers(3))]
    picture = _gradient(_vary(wall, rng, 10), _shade(wall, 0.9))
    edge = rng.uniform(58, 74)
    wood = _vary((176, 116, 64), rng, 12)
    draw = _ground(picture, edge, _shade(wood, 1.08), _shade(wood, 0.9))
    draw.rectangle((0, edge - 1, CANVAS, edge + 2), fill=_ink(_shade(wood, 0.6)))
    for row in np.arange(edge + rng.uniform(8, 14), CANVAS, 15):
        draw.rectangle((0, row, CANVAS, row + 1.5), fill=_ink(_shade(wood, 0.7)))
    return picture


def _sunset(rng: np.random.Generator) -> Image.Image:
    picture = _gradient(_vary((112, 54, 128), rng, 10), (255, 158, 66))
    horizon = rng.uniform(74, 86)
    picture = picture.resize((CANVAS, int(horizon))).crop((0, 0, CANVAS, CANVAS))
    draw = ImageDraw.Draw(picture)
    x = rng.uniform(20, 108)
    _disc(draw, x, horizon - 2, 17, (255, 226, 110))
    draw = _ground(picture, horizon, (66, 34, 70), _vary((150, 72, 84), rng, 8))
    for row in np.arange(horizon + 3, CANVAS, 7):
        width = rng.uniform(6, 18)
        draw.rectangle((x - width, row, x + width, row + 1.5), fill=(250, 176, 96))
    return picture


def _mountains(rng: np.random.Generator) -> Image.Image:
    picture = _gradient(_vary((120, 176, 230), rng, 12), (218, 232, 245))
    draw = ImageDraw.Draw(picture)
    base = rng.uniform(78, 92)
    for x in (rng.uniform(0, 40), rng.uniform(88, 128), rng.uniform(40, 88)):
        top, width = rng.uniform(10, 34), rng.uniform(40, 58)
        color = _vary((112, 116, 140), rng, 12)
        draw.polygon([(x, top), (x - width, base + 4), (x + width, base + 4)], fill=_ink(color))
        part = 0.32
        draw.polygon(
            [(x, top), (x - width * part, top + (base - top) * part), (x + width * part, top + (base - top) * part)],
            fill=(246, 249, 253),
        )
    _hills(draw, rng, base + 6, 10, _vary((98, 138, 88), rng, 8))
    return picture


PAINTERS: dict[str, Painter] = {
    "beach": _beach,
    "snow": _snow,
    "meadow": _meadow,
    "desert": _desert,
    "night": _night,
    "under water": _under_water,
    "space": _space,
    "city": _city,
    "forest": _forest,
    "wooden table": _wooden_table,
    "sunset": _sunset,
    "mountains": _mountains,
}
