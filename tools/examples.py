"""Makes the example subjects in `assets/examples/`: two real ones, and one drawn in the pocket model's world.

    python -m tools.examples --photos FOLDER

FOLDER holds `backpack_dog/` and `robot_toy/` of the DreamBooth dataset (CC-BY 4.0); the drawn subject needs what the
`world` stage of `tools/pocket` needs. The sentences and licenses in `assets/examples/` are written by hand.
"""

import argparse
import io
import json
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image, ImageFilter

from tools.pocket.places import draw_place
from tools.pocket.settings import REPOSITORY, Workplace

SIDE = 512
JPEG_QUALITY = 88
SEED = 5
EXAMPLES = REPOSITORY / "assets" / "examples"
REAL_SUBJECTS = ("backpack_dog", "robot_toy")

# A rendition the pocket model never saw, in colors of its own: what is learned of it came from the photos.
DRAWN_SUBJECT = "purple_robot"
ICON = "robot"
RECOLORED = {
    "#78a3ad": "#8f5fd6",
    "#64878e": "#7442bd",
    "#546e7a": "#3d2270",
    "#e06055": "#ffb92e",
    "#ce453e": "#ee9010",
    "#eda29b": "#ffe7a0",
    "#b8e9f4": "#b9f55a",
}
# Place, then as parts of the picture: the robot's width, its middle, the line it stands on; last its tilt in degrees.
# The beach and the forest are left to the prompts.
SCENES = (
    ("wooden table", 0.62, 0.48, 0.90, -2.0),
    ("meadow", 0.54, 0.58, 0.92, 4.0),
    ("city", 0.66, 0.45, 0.94, 0.0),
    ("snow", 0.50, 0.40, 0.88, -5.0),
    ("gray background", 0.70, 0.52, 0.92, 2.0),
)


def reduce_photos(source: Path, target: Path) -> None:
    """Writes the square photos of `source` as 01.jpg, 02.jpg ... of SIDE pixels, without metadata.

    Raises:
        FileNotFoundError: `source` holds no photos.
    """
    paths = sorted(source.glob("*.jpg"))
    if not paths:
        raise FileNotFoundError(f"there are no .jpg photos in {source}; --photos takes the folder above it")
    target.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(paths, 1):
        with Image.open(path) as photo:
            small = photo.convert("RGB").resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        small.save(target / f"{number:02d}.jpg", quality=JPEG_QUALITY, optimize=True)


def draw_photos(packs: Path, target: Path) -> None:
    """Writes the drawn subject in each of SCENES as 01.png, 02.png ... of SIDE pixels."""
    target.mkdir(parents=True, exist_ok=True)
    sprite = _rasterise(packs)
    for number, (place, width, middle, bottom, tilt) in enumerate(SCENES, 1):
        picture = draw_place(place, np.random.default_rng((SEED, number))).resize(
            (SIDE, SIDE), Image.Resampling.BICUBIC
        )
        turned = sprite.rotate(tilt, Image.Resampling.BICUBIC, expand=True)
        size = (round(SIDE * width), round(SIDE * width * turned.height / turned.width))
        posed = turned.resize(size, Image.Resampling.LANCZOS)
        left, top = round(SIDE * middle - posed.width / 2), round(SIDE * bottom - posed.height)
        _cast_shadow(picture, left, top + posed.height, posed.width)
        picture.paste(posed, (left, top), posed)
        picture.save(target / f"{number:02d}.png", optimize=True)


def _rasterise(packs: Path) -> Image.Image:
    """The recolored icon, cropped to what is visible."""
    pack = json.loads((packs / "noto-v1" / "icons.json").read_text(encoding="utf-8"))
    body = pack["icons"][ICON]["body"]
    for old, new in RECOLORED.items():
        body = body.replace(old, new)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{SIDE * 2}" '
        f'height="{SIDE * 2}" viewBox="0 0 {pack["width"]} {pack["height"]}">{body}</svg>'
    )
    picture = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
    return picture.crop(picture.getchannel("A").getbbox())


def _cast_shadow(picture: Image.Image, left: int, ground: int, width: int) -> None:
    shadow = Image.new("L", (width + 64, 96), 0)
    shadow.paste(105, (64, 36, width, 60))
    shadow = shadow.filter(ImageFilter.GaussianBlur(16))
    picture.paste((20, 20, 28), (left - 32, ground - 60), shadow)


def main() -> None:
    """Makes all example pictures anew."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, metavar="FOLDER")
    photos: Path = parser.parse_args().photos
    draw_photos(Workplace().packs, EXAMPLES / DRAWN_SUBJECT)
    for subject in REAL_SUBJECTS:
        reduce_photos(photos / subject, EXAMPLES / subject)


if __name__ == "__main__":
    main()
