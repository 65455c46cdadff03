"""The photographed places: views into panoramas of Poly Haven (CC0, npm's @pmndrs/assets)."""

import base64
import re
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tools.pocket.sources import MissingSourceError

PACKAGE = "@pmndrs/assets@1.7.0"
# Place -> the panoramas that show it.
PANORAMAS: dict[str, tuple[str, ...]] = {
    "forest": ("forest",),
    "city": ("city",),
    "sunset": ("dawn", "sunrise"),
    "park": ("park",),
    "room": ("apartment",),
    "lobby": ("lobby", "esplanade"),
    "workshop": ("workshop", "lab"),
    "warehouse": ("warehouse",),
    "square": ("venice",),
}


def panorama_file(modules: Path, cache_folder: Path, name: str) -> Path:
    """Unpacks one panorama into an EXR file (512x256, linear); returns its path.

    Raises:
        MissingSourceError: The npm package is not installed; the sentence says how.
    """
    target = cache_folder / f"{name}.exr"
    if not target.exists():
        source = modules / "@pmndrs/assets/hdri" / f"{name}.exr.js"
        if not source.exists():
            raise MissingSourceError(f"the panoramas are missing; run: npm install --prefix .pocket/npm {PACKAGE}")
        match = re.search(r"base64,([A-Za-z0-9+/=]+)", source.read_text(encoding="ascii"))
        if match is None:
            raise MissingSourceError(f"{source} holds no panorama; install {PACKAGE}")
        cache_folder.mkdir(parents=True, exist_ok=True)
        target.write_bytes(base64.b64decode(match[1]))
    return target


@cache
def read_panorama(path: Path) -> NDArray[np.float32]:
    """A panorama's radiance (256, 512, 3) from 0 to 12, its median brightness .3; a cut sun renders without sparks."""
    import mitsuba as mi

    mi.set_variant("scalar_rgb")
    radiance = np.clip(np.array(mi.Bitmap(str(path)), np.float32)[..., :3], 0, None)
    return np.minimum(radiance * (0.3 / float(np.median(radiance.mean(-1)))), 12)


def look(panorama: NDArray[np.float32], size: int, yaw: float, pitch: float, field_of_view: float) -> Image.Image:
    """A square view into a panorama, in display colors.

    Args:
        panorama: (256, 512, 3) radiance.
        size: Side in pixels.
        yaw: Degrees round the horizon.
        pitch: Degrees; negative looks down.
        field_of_view: Degrees from edge to edge.
    """
    half = np.tan(np.radians(field_of_view) / 2)
    x, y = np.meshgrid(np.linspace(-half, half, size), np.linspace(half, -half, size))
    pitch_radians = np.radians(pitch)
    up = y * np.cos(pitch_radians) + np.sin(pitch_radians)
    forward = np.cos(pitch_radians) - y * np.sin(pitch_radians)
    column = (np.arctan2(x, forward) / (2 * np.pi) + yaw / 360) % 1 * panorama.shape[1] - 0.5
    row = (0.5 - np.arctan2(up, np.hypot(x, forward)) / np.pi) * panorama.shape[0] - 0.5
    return Image.fromarray((tone_map(_bilinear(panorama, column, row)) * 255).astype(np.uint8))


def tone_map(radiance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Radiance to display values from 0 to 1: Narkowicz's fit of the ACES film curve, then the sRGB curve's power."""
    curve = radiance * (2.51 * radiance + 0.03) / (radiance * (2.43 * radiance + 0.59) + 0.14)
    return (np.clip(curve, 0, 1) ** (1 / 2.2)).astype(np.float32)


def _bilinear(
    panorama: NDArray[np.float32], column: NDArray[np.float64], row: NDArray[np.float64]
) -> NDArray[np.float32]:
    height, width = panorama.shape[:2]
    row = np.clip(row, 0, height - 1.001)
    left, top = np.floor(column).astype(int), np.floor(row).astype(int)
    across, down = (column - left)[..., None], (row - top)[..., None]
    upper = panorama[top, left % width] * (1 - across) + panorama[top, (left + 1) % width] * across
    lower = panorama[top + 1, left % width] * (1 - across) + panorama[top + 1, (left + 1) % width] * across
    return (upper * (1 - down) + lower * down).astype(np.float32)
