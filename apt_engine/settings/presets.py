"""Presets: named partial overrides of the training config, one JSON file each in `presets/`.

A preset of kind `base` fits one family of base models and lists the ids it is known for. The other kinds are a person's
choices, made apart: `training`, `augmentation`, `regularization`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apt_engine.errors import ConfigError
from apt_engine.settings.training import TrainingConfig

PRESETS_DIR = Path(__file__).resolve().parents[2] / "presets"
FOLDERS_OF_MODELS = ("model", "models", "checkpoints", "weights")
WEIGHTS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
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


def presets_within(config: TrainingConfig, presets: dict[str, Preset]) -> list[str]:
    """The keys of those presets, but for base models', that a config agrees with in all they set."""
    return [
        key
        for key, preset in presets.items()
        if preset.kind != "base" and all(getattr(config, name) == value for name, value in preset.overrides.items())
    ]


def is_hub_id(name: str) -> bool:
    """Whether a name is of the form owner/model and no path."""
    return name.count("/") == 1 and not looks_like_path(name) and not Path(name).exists()


def looks_like_path(name: str) -> bool:
    """Whether a name means something on this computer, there or not."""
    is_written_so = name.startswith(("/", ".", "~")) or "\\" in name or name.lower().endswith(WEIGHTS)
    first = name.split("/", maxsplit=1)[0]
    return is_written_so or ("/" in name and (first.lower() in FOLDERS_OF_MODELS or Path(first).is_dir()))


def at_home(typed: str) -> Path:
    """A path as somebody typed it, `~` being their own folder; as it stands where there is nobody of that name."""
    try:
        return Path(typed).expanduser()
    except RuntimeError:
        return Path(typed)


def _load(path: Path) -> Preset:
    try:
        preset = Preset(key=path.stem, **json.loads(path.read_text(encoding="utf-8")))
        TrainingConfig.from_dict({"subject": "thing", **preset.overrides})
    except (ValueError, TypeError, ConfigError) as error:
        raise ConfigError(f"The preset {path.name} cannot be used ({error}); mend or delete the file.") from error
    return preset
