"""Presets: named partial overrides of the training config, one JSON file each in `presets/`.

A preset of kind `base` fits one family of base models and lists the ids it is known for. The other kinds are a person's
choices, made apart: `training`, `augmentation`, `regularization`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apt_engine.errors import ConfigError
from apt_engine.settings.training import TrainingConfig

PRESETS_DIR = Path(__file__).resolve().parents[2] / "presets"
POCKET_DIR = Path(__file__).resolve().parents[2] / "assets" / "pocket"


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Some settings with a name; `key` is the file's name without its ending."""

    key: str
    name: str
    kind: str
    description: str
    overrides: dict[str, Any]
    bases: tuple[str, ...] = field(default=())


def load_presets(folder: Path = PRESETS_DIR) -> dict[str, Preset]:
    """All presets by key, each checked against the config's fields.

    Raises:
        ConfigError: a file is no preset, or sets something that does not exist.
    """
    return {path.stem: _load(path) for path in sorted(folder.glob("*.json"))}


def profile_of(base: str, presets: dict[str, Preset]) -> Preset:
    """The preset of kind `base` that fits a base model, by id or, for a folder, by what its files say."""
    for preset in presets.values():
        if base in preset.bases:
            return preset
    return presets[_family_key(Path(base))]


def is_hub_id(name: str) -> bool:
    """Whether a name is of the form owner/model and no folder here."""
    is_path = name.startswith(("/", ".", "~")) or "\\" in name or Path(name).exists()
    return name.count("/") == 1 and not is_path


def build_config(presets: dict[str, Preset], chosen: Sequence[str], values: dict[str, Any]) -> TrainingConfig:
    """A config from, in rising precedence: defaults, the base's profile, the chosen presets in their order, `values`.

    Raises:
        ConfigError: a preset does not exist, or a value is not allowed.
    """
    merged = dict(profile_of(str(values.get("base", "pocket")), presets).overrides)
    for key in chosen:
        if key not in presets or presets[key].kind == "base":
            known = ", ".join(key for key, preset in presets.items() if preset.kind != "base")
            raise ConfigError(f"There is no preset {key!r}; choose one of {known}.")
        merged |= presets[key].overrides
    return TrainingConfig.from_dict({**merged, **values})


def _family_key(folder: Path) -> str:
    """SDXL also conditions on sizes; SD 2.x on 1024 numbers a token, SD 1.x on 768. The rest is treated like SD 1.5."""
    try:
        unet = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "base-sd15"
    if unet.get("addition_embed_type") == "text_time":
        return "base-sdxl"
    return "base-sd2" if unet.get("cross_attention_dim") == 1024 else "base-sd15"


def _load(path: Path) -> Preset:
    try:
        preset = Preset(key=path.stem, **json.loads(path.read_text(encoding="utf-8")))
        TrainingConfig.from_dict({"subject": "thing", **preset.overrides})
    except (ValueError, TypeError, ConfigError) as error:
        raise ConfigError(f"The preset {path.name} cannot be used ({error}); mend or delete the file.") from error
    return preset
