"""What is known of a base model without loading it: the preset that fits it, and what it needs. Imports no torch."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apt_engine.bases import hub, variants
from apt_engine.bases.checkpoints import ASSETS, inspect
from apt_engine.errors import BaseModelError, ConfigError
from apt_engine.reading.regular import is_folder, is_regular, read_json
from apt_engine.settings.presets import POCKET_DIR, Preset, at_home, is_hub_id
from apt_engine.settings.training import TrainingConfig


@dataclass(frozen=True)
class Needs:
    """Of a family of base models, in bytes.

    Attributes:
        memory: to train, where it cannot be told from shapes.
        download: of the base model.
        lora: of a LoRA of rank 16 in fp32: its attention, its feed-forward layers, its convolutions.
    """

    memory: int
    download: int
    lora: tuple[int, int, int]


# By the key of a family's preset. Pocket: measured. The others: half-precision weights, LoRA and activations at the preset's
# size; sizes of the files.
NEEDS = {
    "base-pocket": Needs(700_000_000, 0, (1_200_000, 1_000_000, 2_400_000)),
    "base-sd15": Needs(6_000_000_000, 4_300_000_000, (12_800_000, 11_200_000, 31_300_000)),
    "base-sd2": Needs(7_000_000_000, 5_200_000_000, (13_400_000, 11_200_000, 31_300_000)),
    "base-sd2-base": Needs(6_000_000_000, 5_200_000_000, (13_400_000, 11_200_000, 31_300_000)),
    "base-sdxl": Needs(12_000_000_000, 13_900_000_000, (92_900_000, 74_600_000, 20_900_000)),
    # Their language models included.
    "base-klein": Needs(20_000_000_000, 16_000_000_000, (66_800_000, 10_800_000, 0)),
    "base-z-image": Needs(25_000_000_000, 21_000_000_000, (66_800_000, 91_900_000, 0)),
}
BY_PIPELINE = {"Flux2KleinPipeline": "base-klein", "ZImagePipeline": "base-z-image"}


def profile_of(base: str, presets: dict[str, Preset]) -> Preset:
    """The preset of kind `base` that fits a base model, by id or, for a folder, by what its files say; else an empty one."""
    for preset in presets.values():
        if base in preset.bases:
            return preset
    key = _family_key(Path(base))
    return presets.get(key) or Preset(key=key, name=base, kind="base", description="", overrides={})


def needs_of(base: str, presets: dict[str, Preset]) -> Needs | None:
    """What a base model needs; None where its preset is a person's own and no file says what family it is."""
    key = profile_of(base, presets).key
    folder = Path(base)
    return NEEDS.get(key) or (NEEDS.get(_family_key(folder)) if is_folder(folder) or is_regular(folder) else None)


def denoiser_config(base: str, presets: dict[str, Preset]) -> dict[str, Any]:
    """The config of a base model's denoiser: its own, or that of its family; empty where nothing is known of it."""
    return _config_of("unet", base, presets) or _config_of("transformer", base, presets)


def text_configs(base: str, presets: dict[str, Preset]) -> list[dict[str, Any]]:
    """Those of its text encoders, found likewise; none where they are of a kind that is not known."""
    found = [_config_of(part, base, presets) for part in ("text_encoder", "text_encoder_2")]
    return [config for config in found if config.get("model_type") in ("clip_text_model", "qwen3")]


def folder_of(base: str) -> Path:
    """Where a base model lies, if it does."""
    return POCKET_DIR if base == "pocket" else (hub.folder_of(base) if is_hub_id(base) else None) or Path(base)


def _config_of(part: str, base: str, presets: dict[str, Preset]) -> dict[str, Any]:
    own = _read_json(folder_of(base) / part / "config.json")
    return own or _read_json(ASSETS / profile_of(base, presets).key.removeprefix("base-") / part / "config.json")


def warning_of(base: str) -> str:
    """A sentence on a base that seems to be distilled, see `variants.warning_of`; empty on any other."""
    path = at_home(base)
    return variants.warning_of(base, path if is_folder(path) else hub.folder_of(base) if is_hub_id(base) else None)


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
    """Of a file what its keys say, of a folder what its configs say.

    SDXL also conditions on sizes; SD 2.x on 1024 numbers a token, SD 1.x on 768. SD 2.x comes for 768 and, as "base", for 512 px,
    latents of 64 cells. The rest is treated like SD 1.5.
    """
    if is_regular(folder):
        with contextlib.suppress(BaseModelError):  # loading will say it
            return f"base-{inspect(folder).family}"
    by_pipeline = BY_PIPELINE.get(str(_read_json(folder / "model_index.json").get("_class_name")))
    if by_pipeline:
        return by_pipeline
    unet = _read_json(folder / "unet" / "config.json")
    if unet.get("addition_embed_type") == "text_time":
        return "base-sdxl"
    second = "base-sd2-base" if unet.get("sample_size") == 64 else "base-sd2"
    return second if unet.get("cross_attention_dim") == 1024 else "base-sd15"


def _read_json(path: Path) -> dict[str, Any]:
    """What a file of a model says; nothing where there is none, or it is no such file."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
