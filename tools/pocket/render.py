"""Renders solid objects with Mitsuba: a sprite with alpha, or a photo of the object standing somewhere."""

import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tools.pocket.furniture import Model, Part, load_parts
from tools.pocket.panoramas import read_panorama, tone_map
from tools.pocket.sources import MissingSourceError

try:
    import mitsuba as mi
except ImportError as error:
    raise MissingSourceError("mitsuba is missing; run: pip install -r tools/pocket/requirements.txt") from error

mi.set_variant("scalar_rgb")
_FIELD_OF_VIEW = 28.0
_CAMERA_FIELD_OF_VIEW = 48.0  # a phone's; the place behind the object is still recognised


class Stage:
    """One object, ready to be looked at from any side in any light.

    Args:
        model: The object.
        hue_shift: Turns the colors of the surface round the color circle, 0 to 1.
    """

    def __init__(self, model: Model, hue_shift: float = 0.0) -> None:
        """Builds the shapes once; views are rendered from them."""
        self._folder = tempfile.TemporaryDirectory()
        with zipfile.ZipFile(model.archive) as archive:
            parts = load_parts(model)
            self._shapes = {
                f"part-{index}": _make_shape(archive, part, Path(self._folder.name) / f"{index}.ply", hue_shift)
                for index, part in enumerate(parts)
            }
        corners = np.concatenate([part.corners for part in parts])
        self.height = float(corners[:, 1].max())
        self.radius = float(np.linalg.norm(corners - [0, self.height / 2, 0], axis=1).max())

    def sprite(
        self, panorama: Path, *, yaw: float, elevation: float, light_yaw: float, size: int, samples: int
    ) -> Image.Image:
        """The object alone, RGBA, cropped to what is visible."""
        film = self._render(panorama, yaw, elevation, light_yaw, size, samples, background=False, margin=1.05)
        alpha = np.clip(film[..., 3:4], 0, 1)
        color = tone_map(np.where(alpha > 1e-3, film[..., :3] / np.maximum(alpha, 1e-3), 0).astype(np.float32))
        pixels = (np.concatenate([color, alpha], -1) * 255 + 0.5).astype(np.uint8)
        picture = Image.fromarray(pixels, "RGBA")
        return picture.crop(picture.getchannel("A").point([0] * 25 + [255] * 231).getbbox())

    def photo(
        self,
        panorama: Path,
        ground: Image.Image,
        *,
        yaw: float,
        elevation: float,
        light_yaw: float,
        size: int,
        samples: int,
        margin: float,
        shift: tuple[float, float] = (0.0, 0.0),
    ) -> Image.Image:
        """The object on a ground in a place, RGB: what somebody's camera would have seen.

        Args:
            panorama: The place, which lights the object too.
            ground: The picture of the ground it stands on.
            yaw: Degrees the object is turned by.
            elevation: Degrees the camera stands above it.
            light_yaw: Degrees the place is turned by.
            size: Side in pixels.
            samples: Paths a pixel.
            margin: How much of the frame's half the object's sphere needs; below 1 it is cropped.
            shift: Where the object stands off the middle, in its own sizes: right and up.
        """
        film = self._render(
            panorama,
            yaw,
            elevation,
            light_yaw,
            size,
            samples,
            background=True,
            margin=margin,
            ground=ground,
            shift=shift,
        )
        balanced = film[..., :3] * white_balance(read_panorama(panorama))
        return Image.fromarray((tone_map(balanced.astype(np.float32)) * 255 + 0.5).astype(np.uint8))

    def _render(
        self,
        panorama: Path,
        yaw: float,
        elevation: float,
        light_yaw: float,
        size: int,
        samples: int,
        *,
        background: bool,
        margin: float,
        ground: Image.Image | None = None,
        shift: tuple[float, float] = (0.0, 0.0),
    ) -> NDArray[np.float32]:
        transform = mi.ScalarTransform4f
        angle, up = np.radians(yaw), np.radians(elevation)
        field_of_view = _CAMERA_FIELD_OF_VIEW if background else _FIELD_OF_VIEW
        distance = self.radius * margin / np.sin(np.radians(field_of_view / 2))
        target = np.array([0, self.height * 0.5, 0])
        direction = np.array([np.sin(angle) * np.cos(up), np.sin(up), np.cos(angle) * np.cos(up)])
        right = np.array([np.cos(angle), 0, -np.sin(angle)])
        target = target - right * shift[0] * self.radius - np.array([0, shift[1] * self.radius, 0])
        scene: dict[str, Any] = {
            "type": "scene",
            "integrator": {"type": "path", "max_depth": 6, "hide_emitters": not background},
            "sensor": {
                "type": "perspective",
                "fov": field_of_view,
                "to_world": transform().look_at(
                    origin=list(target + direction * distance), target=list(target), up=[0, 1, 0]
                ),
                "film": {"type": "hdrfilm", "width": size, "height": size, "pixel_format": "rgba"},
                "sampler": {"type": "independent", "sample_count": samples},
            },
            "light": {
                "type": "envmap",
                "bitmap": mi.Bitmap(read_panorama(panorama).copy()),
                "to_world": transform().rotate([0, 1, 0], yaw + light_yaw),
            },
            **self._shapes,
        }
        if ground is not None:
            scene["ground"] = {
                "type": "rectangle",
                "to_world": transform().rotate([0, 1, 0], yaw + 15).rotate([1, 0, 0], -90).scale(self.radius * 6.0),
                "bsdf": {"type": "twosided", "bsdf": {"type": "diffuse", "reflectance": _texture(ground, tiles=4.0)}},
            }
        film = np.array(mi.render(mi.load_dict(scene)), np.float32)
        return np.nan_to_num(film, nan=0.0, posinf=8.0, neginf=0.0)


def white_balance(panorama: NDArray[np.float32]) -> NDArray[np.float32]:
    """Gains of the three channels that make a place's mean color nearly gray, as a camera does."""
    mean = panorama.reshape(-1, 3).mean(0)
    return (mean.mean() / mean) ** 0.8


def _make_shape(archive: zipfile.ZipFile, part: Part, path: Path, hue_shift: float) -> Any:
    _write_ply(path, part)
    material = part.material
    color: Any = {"type": "rgb", "value": [channel**2.2 for channel in _turn_hue(material.color, hue_shift)]}
    opacity: Any = material.opacity
    if material.picture is not None:
        picture = Image.open(io.BytesIO(archive.read(material.picture)))
        transparent = picture.mode in ("RGBA", "LA") or "transparency" in picture.info
        picture = picture.convert("RGBA")
        picture.thumbnail((1024, 1024))
        color = _texture(_turn_picture_hue(picture.convert("RGB"), hue_shift))
        if transparent:
            opacity = _texture(picture.getchannel("A").convert("RGB"), raw=True)
    surface: dict[str, Any] = {
        "type": "principled",
        "base_color": color,
        "roughness": 0.5,
        "specular": min(0.2 + material.specular, 0.8),
    }
    bsdf: dict[str, Any] = {"type": "twosided", "bsdf": surface}
    if not isinstance(opacity, float) or opacity < 0.99:
        bsdf = {"type": "mask", "opacity": opacity, "bsdf": bsdf}
    return mi.load_dict({"type": "ply", "filename": str(path), "bsdf": bsdf})


def _texture(picture: Image.Image, tiles: float = 1.0, *, raw: bool = False) -> dict[str, Any]:
    return {
        "type": "bitmap",
        "bitmap": mi.Bitmap(np.array(picture)),
        "raw": raw,
        "to_uv": mi.ScalarTransform4f().scale([tiles, tiles, 1]),
    }


def _turn_hue(color: tuple[float, float, float], shift: float) -> list[float]:
    pixel = Image.new("RGB", (1, 1), tuple(round(channel * 255) for channel in color))
    turned = np.asarray(_turn_picture_hue(pixel, shift), np.float64)[0, 0] / 255
    return [float(channel) for channel in turned] if shift else list(color)


def _turn_picture_hue(picture: Image.Image, shift: float) -> Image.Image:
    if not shift:
        return picture
    hue, saturation, value = picture.convert("HSV").split()
    hue = hue.point([round(level + shift * 256) % 256 for level in range(256)])
    return Image.merge("HSV", (hue, saturation, value)).convert("RGB")


def _write_ply(path: Path, part: Part) -> None:
    count = len(part.corners)
    vertices = np.concatenate([part.corners, part.normals, part.coordinates], 1).astype("<f4")
    faces = np.empty(count // 3, dtype=[("count", "u1"), ("corners", "<i4", 3)])
    faces["count"], faces["corners"] = 3, np.arange(count).reshape(-1, 3)
    fields = "".join(f"property float {name}\n" for name in ("x", "y", "z", "nx", "ny", "nz", "u", "v"))
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {count}\n{fields}"
        f"element face {count // 3}\nproperty list uchar int vertex_indices\nend_header\n"
    )
    path.write_bytes(header.encode("ascii") + vertices.tobytes() + faces.tobytes())
