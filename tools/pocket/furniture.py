"""The solid objects' shapes: reads the furniture libraries of Sweet Home 3D (Debian's package sweethome3d-furniture)."""

import re
import zipfile
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tools.pocket.sources import MissingSourceError

CREASE_DEGREES = 40.0
_INSTALL = (
    "the furniture library {} is missing; run: apt-get download sweethome3d-furniture && "
    "dpkg-deb -x sweethome3d-furniture_*.deb .pocket/furniture"
)


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a surface looks like: sRGB color and shares from 0 to 1, and the path of its picture in the archive."""

    color: tuple[float, float, float] = (0.7, 0.7, 0.7)
    specular: float = 0.0
    opacity: float = 1.0
    picture: str | None = None


@dataclass(frozen=True, kw_only=True)
class Part:
    """The triangles of one material: corners (n, 3), normals (n, 3), picture coordinates (n, 2); three corners a face."""

    corners: NDArray[np.float32]
    normals: NDArray[np.float32]
    coordinates: NDArray[np.float32]
    material: Material


@dataclass(frozen=True, kw_only=True)
class Model:
    """One entry of a library: `name` is "library:number"."""

    name: str
    title: str
    creator: str
    path: str
    archive: Path
    size: tuple[float, float, float]
    rotation: NDArray[np.float64] = field(default_factory=lambda: np.eye(3))


def read_model(folder: Path, name: str) -> Model:
    """Finds "library:number" in the unpacked package.

    Raises:
        MissingSourceError: The package is not unpacked; the sentence says how.
    """
    library, number = name.split(":")
    archive = folder / "usr/share/sweethome3d/furniture" / f"{library}.sh3f"
    if not archive.exists():
        raise MissingSourceError(_INSTALL.format(library))
    entry = _read_catalogue(archive)[int(number)]
    rotation = np.array([float(value) for value in entry.get("modelRotation", "1 0 0 0 1 0 0 0 1").split()]).reshape(
        3, 3
    )
    return Model(
        name=name,
        title=entry["name"],
        creator=entry.get("creator", "unknown"),
        path=entry["model"].lstrip("/"),
        archive=archive,
        size=(float(entry["width"]), float(entry["height"]), float(entry["depth"])),
        rotation=rotation,
    )


def load_parts(model: Model) -> list[Part]:
    """Reads the shape: y up, standing on y = 0, centered, its longest side 1; stretched to the catalogue's size."""
    with zipfile.ZipFile(model.archive) as archive:
        lines = archive.read(model.path).decode("latin-1").splitlines()
        positions, coordinates, groups, libraries = _read_shape(lines)
        folder = model.path.rpartition("/")[0]
        materials = {}
        for library in libraries:
            materials |= _read_materials(archive, f"{folder}/{library}", folder)
    positions = _fit(positions @ model.rotation.T, groups, model.size)
    normals = _smooth_normals(positions, groups)
    parts = []
    for (name, faces), part_normals in zip(groups.items(), normals, strict=True):
        corners = positions[faces[:, :, 0]].reshape(-1, 3)
        finite = np.isfinite(corners).all(1).reshape(-1, 3).all(1).repeat(3)
        uv = np.where(faces[:, :, 1:2] >= 0, coordinates[faces[:, :, 1]], 0).reshape(-1, 2) * (1, -1) + (0, 1)
        material = materials.get(name, Material())
        parts.append(
            Part(
                corners=corners[finite].astype(np.float32),
                normals=part_normals[finite].astype(np.float32),
                coordinates=uv[finite].astype(np.float32),
                material=material,
            )
        )
    return [part for part in parts if len(part.corners)]


@cache
def _read_catalogue(archive: Path) -> dict[int, dict[str, str]]:
    with zipfile.ZipFile(archive) as package:
        text = package.read("PluginFurnitureCatalog.properties").decode("latin-1")
    entries: dict[int, dict[str, str]] = defaultdict(dict)
    for key, number, value in re.findall(r"^(\w+)#(\d+)=(.*)$", text, re.MULTILINE):
        entries[int(number)][key] = value.strip()
    return entries


def _read_shape(
    lines: list[str],
) -> tuple[NDArray[np.float64], NDArray[np.float64], dict[str, NDArray[np.int64]], list[str]]:
    """Positions, picture coordinates, and for each material its triangles (n, 3 corners, position and coordinate)."""
    positions: list[list[float]] = []
    coordinates: list[list[float]] = []
    groups: dict[str, list[list[tuple[int, int]]]] = defaultdict(list)
    libraries: list[str] = []
    material = ""
    for line in lines:
        kind, _, rest = line.strip().partition(" ")
        if kind == "v":
            positions.append([float(value) for value in rest.split()[:3]])
        elif kind == "vt":
            coordinates.append([float(value) for value in rest.split()[:2]])
        elif kind == "usemtl":
            material = rest.strip()
        elif kind == "mtllib":
            libraries.append(rest.strip())
        elif kind == "f":
            corners = [_read_corner(corner, len(positions), len(coordinates)) for corner in rest.split()]
            groups[material] += [
                [corners[0], corners[index], corners[index + 1]] for index in range(1, len(corners) - 1)
            ]
    faces = {name: np.array(triangles, np.int64) for name, triangles in groups.items()}
    return np.array(positions), np.array(coordinates or [[0.0, 0.0]]), faces, libraries


def _read_corner(text: str, positions: int, coordinates: int) -> tuple[int, int]:
    numbers = [int(number) if number else 0 for number in text.split("/")]
    position = numbers[0] - 1 if numbers[0] > 0 else positions + numbers[0]
    coordinate = numbers[1] if len(numbers) > 1 else 0
    if coordinate < 0:
        coordinate += coordinates + 1
    return position, coordinate - 1


def _read_materials(archive: zipfile.ZipFile, path: str, folder: str) -> dict[str, Material]:
    if path not in archive.namelist():
        return {}
    facts: dict[str, dict[str, str]] = defaultdict(dict)
    name = ""
    for line in archive.read(path).decode("latin-1").splitlines():
        kind, _, rest = line.strip().partition(" ")
        if kind == "newmtl":
            name = rest.strip()
        elif rest:
            facts[name][kind] = rest.strip()
    return {name: _make_material(archive, entry, folder) for name, entry in facts.items()}


def _make_material(archive: zipfile.ZipFile, entry: dict[str, str], folder: str) -> Material:
    picture = f"{folder}/{entry['map_Kd'].split()[-1]}" if "map_Kd" in entry else None
    red, green, blue = (float(value) for value in entry.get("Kd", "0.7 0.7 0.7").split()[:3])
    return Material(
        color=(min(red, 1), min(green, 1), min(blue, 1)),
        specular=float(np.mean([float(value) for value in entry.get("Ks", "0").split()[:3]])),
        opacity=float(entry.get("d", "1").split()[-1]),
        picture=picture if picture in archive.namelist() else None,
    )


def _fit(
    positions: NDArray[np.float64], groups: dict[str, NDArray[np.int64]], size: tuple[float, float, float]
) -> NDArray[np.float64]:
    used = positions[np.unique(np.concatenate([faces[:, :, 0].ravel() for faces in groups.values()]))]
    low, high = np.nanmin(used, 0), np.nanmax(used, 0)
    scale = np.array(size) / np.maximum(high - low, 1e-9) / max(size)
    middle = (low + high) / 2
    return (positions - [middle[0], low[1], middle[2]]) * scale


def _smooth_normals(positions: NDArray[np.float64], groups: dict[str, NDArray[np.int64]]) -> list[NDArray[np.float64]]:
    """Each corner's normal: the mean over the faces at its vertex that bend from its own by less than the crease."""
    faces = np.concatenate([group[:, :, 0] for group in groups.values()])
    a, b, c = (positions[faces[:, corner]] for corner in range(3))
    areas = np.cross(b - a, c - a)
    directions = areas / np.maximum(np.linalg.norm(areas, axis=1, keepdims=True), 1e-12)
    vertices, owners = faces.ravel(), np.arange(len(faces)).repeat(3)
    order = np.argsort(vertices, kind="stable")
    counts = np.bincount(vertices, minlength=len(positions))
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    normals = np.zeros((len(vertices), 3))
    for step in range(int(min(counts.max(), 64))):
        here = counts[vertices] > step
        neighbor = owners[order[starts[vertices[here]] + step]]
        own = owners[here]
        near = (directions[own] * directions[neighbor]).sum(1) > np.cos(np.radians(CREASE_DEGREES))
        normals[here] += areas[neighbor] * near[:, None]
    lengths = np.linalg.norm(normals, axis=1, keepdims=True)
    normals = np.where(lengths > 1e-12, normals / np.maximum(lengths, 1e-12), directions[owners])
    ends = np.cumsum([len(group) * 3 for group in groups.values()])[:-1]
    return np.split(normals, ends)
