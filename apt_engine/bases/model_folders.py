"""The models that lie in the folders of ComfyUI, Forge and AUTOMATIC1111, or in any other, and can be a base.

A folder is pointed at once; `runs/model_folders.py` remembers it. Imports no torch.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from apt_engine.bases import variants
from apt_engine.bases.checkpoints import inspect
from apt_engine.errors import BaseModelError
from apt_engine.reading.regular import is_named, read_json
from apt_engine.settings.presets import POCKET_DIR

# Where each program keeps whole models, below its own folder or below that of its models.
BELOW = ("checkpoints", "diffusers", "diffusion_models", "Stable-diffusion")
ENDINGS = (".safetensors", ".sft")
FAMILIES = {"sd15": "SD 1.x", "sd2": "SD 2.x", "sdxl": "SDXL", "klein": "FLUX.2 klein", "z-image": "Z-Image"}
DEEPEST = 4  # folders below the one that was pointed at
MOST_LOOKED_AT = 2_000  # files and folders; somebody may point at a whole disk


@dataclass(frozen=True)
class Found:
    """A model: its name for a person, and its path."""

    name: str
    path: Path


def models_in(folder: Path) -> tuple[list[Found], int]:
    """The models of a folder by name, and how many others lie there that cannot be a base."""
    found: list[Found] = []
    others = 0
    for path in _candidates(folder):
        try:
            if not is_named(path.relative_to(folder)):
                raise ValueError(path)
            found.append(_judged(path))
        except (BaseModelError, OSError, ValueError, KeyError, TypeError):
            others += 1
    return sorted(found, key=lambda model: model.name.lower()), others


def _candidates(folder: Path) -> Iterator[Path]:
    """Checkpoints and folders in diffusers layout; hidden folders and the VAEs beside checkpoints left out."""
    roots = [place / name for place in (folder, folder / "models") for name in BELOW if (place / name).is_dir()]
    looked = 0
    for root in roots or [folder]:
        for where, below, names in os.walk(root, followlinks=True):
            place = Path(where)
            looked += 1 + len(names)
            if looked > MOST_LOOKED_AT:
                return
            if "model_index.json" in names:
                below.clear()
                yield place
                continue
            if len(place.relative_to(root).parts) >= DEEPEST:
                below.clear()
            below[:] = sorted(name for name in below if not name.startswith("."))
            yield from (
                place / name
                for name in sorted(names)
                if name.endswith(ENDINGS) and not name.startswith(".") and ".vae." not in name
            )


def _judged(path: Path) -> Found:
    """A model that can be a base.

    Raises:
        BaseModelError, OSError, ValueError, KeyError, TypeError: it is none.
    """
    if path.is_file():
        return Found(f"{path.stem} ({FAMILIES[inspect(path).family]})", path)
    index = read_json(path / "model_index.json")
    if index["_class_name"] not in variants.PIPELINES or path == POCKET_DIR:
        raise ValueError(path)
    if "unet" in index:
        variants.refuse_others(path.name, path, index)
    return Found(f"{path.name} (folder)", path)
