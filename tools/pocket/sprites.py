"""The objects with their alpha: icons of free packs, rasterised, and views of solid shapes."""

import io
import json
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from tools.pocket.settings import Workplace
from tools.pocket.solids import load_solid
from tools.pocket.sources import MissingSourceError
from tools.pocket.vocabulary import FLAT, OBJECTS, SOLID

SPRITE_SIZE = 144
PACK_VERSIONS = {"fluent-emoji": "1.2.7", "noto": "1.2.9", "noto-v1": "1.2.5", "twemoji": "1.2.5"}


def load_sprites(workplace: Workplace) -> dict[str, list[list[Image.Image]]]:
    """Returns every view of each object's renditions, cropped to what is visible; an icon has one view."""
    return {
        name: [[_rasterise(workplace.packs, icon)] for icon in FLAT.get(name, ())]
        + [load_solid(workplace, solid) for solid in SOLID.get(name, ())]
        for name in OBJECTS
    }


def other_words(packs: Path) -> list[str]:
    """Names of icons the world does not draw: plain English words for the tokenizer and for rare words."""
    drawn = {word for name in OBJECTS for word in name.split()}
    names = {word for name in _read_pack(packs, "fluent-emoji")["icons"] for word in name.split("-")}
    return sorted(word for word in names if word.isascii() and word.isalpha() and len(word) > 2 and word not in drawn)


def _rasterise(packs: Path, icon: str) -> Image.Image:
    try:
        import resvg_py
    except ImportError as error:
        raise MissingSourceError("resvg-py is missing; run: pip install -r tools/pocket/requirements.txt") from error
    pack_name, name = icon.split(":")
    pack = _read_pack(packs, pack_name)
    entry = pack["icons"][name]
    width, height = entry.get("width", pack["width"]), entry.get("height", pack["height"])
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{SPRITE_SIZE * 2}" '
        f'height="{SPRITE_SIZE * 2}" viewBox="{entry.get("left", 0)} {entry.get("top", 0)} {width} {height}">'
        f"{entry['body']}</svg>"
    )
    picture = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
    picture = picture.crop(picture.getchannel("A").point([0] * 25 + [255] * 231).getbbox())
    scale = SPRITE_SIZE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


@cache
def _read_pack(packs: Path, name: str) -> dict[str, Any]:
    path = packs / name / "icons.json"
    if not path.exists():
        wanted = " ".join(f"@iconify-json/{pack}@{version}" for pack, version in PACK_VERSIONS.items())
        raise MissingSourceError(f"the icon pack {name} is missing; run: npm install --prefix .pocket/npm {wanted}")
    pack = json.loads(path.read_text(encoding="utf-8"))
    return {"width": 16, "height": 16} | pack
