"""Base models found in the folders of other programs."""

import os
import shutil
from pathlib import Path

import pytest

from apt_engine.bases import model_folders
from apt_engine.bases.model_folders import models_in
from apt_engine.errors import ConfigError
from apt_engine.runs.model_folders import REMEMBERED, remember, remembered
from benchmarks.original_layout import real_tensors, write_empty


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty file with the keys of SD 1.5."""
    return write_empty(tmp_path_factory.mktemp("model") / "real.safetensors", real_tensors("sd15"))


@pytest.mark.parametrize(
    ("pointed_at", "place"),
    [
        ("ComfyUI", "ComfyUI/models/checkpoints"),
        ("ComfyUI/models", "ComfyUI/models/checkpoints"),
        ("webui", "webui/models/Stable-diffusion/anime"),
        ("forge/models/Stable-diffusion", "forge/models/Stable-diffusion"),
        ("mine", "mine/a/b"),
    ],
)
def test_the_models_of_each_program_are_found_and_named(
    tmp_path: Path, checkpoint: Path, toy_base: Path, pointed_at: str, place: str
) -> None:
    folder = tmp_path / place
    folder.mkdir(parents=True)
    (folder / "dream.safetensors").symlink_to(checkpoint)
    (folder / "dream.vae.safetensors").symlink_to(checkpoint)
    (folder / ".hidden.safetensors").symlink_to(checkpoint)
    shutil.copytree(toy_base, folder / "toy", ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "lora.safetensors").write_bytes(b"no model")
    found, others = models_in(tmp_path / pointed_at)
    assert [(model.name, model.path) for model in found] == [
        ("dream (SD 1.x)", folder / "dream.safetensors"),
        ("toy (folder)", folder / "toy"),
    ]
    assert others == 1


def test_loras_beside_the_checkpoints_are_not_looked_at(tmp_path: Path, checkpoint: Path) -> None:
    for name in ("checkpoints", "loras", "vae"):
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / f"{name}.safetensors").symlink_to(checkpoint)
    found, others = models_in(tmp_path)
    assert ([model.path.stem for model in found], others) == (["checkpoints"], 0)


def test_a_whole_disk_is_not_searched(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a" / "b" / "c" / "d" / "e").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c" / "d" / "near.safetensors").symlink_to(checkpoint)
    (tmp_path / "a" / "b" / "c" / "d" / "e" / "far.safetensors").symlink_to(checkpoint)
    assert [model.path.stem for model in models_in(tmp_path)[0]] == ["near"]
    monkeypatch.setattr(model_folders, "MOST_LOOKED_AT", 3)
    assert models_in(tmp_path) == ([], 0)


def test_folders_are_remembered_and_one_that_is_not_there_is_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert remembered(data) == []
    place = tmp_path / 'it\'s "mine"'
    place.mkdir()
    remember(data, [f" {place} ", ""])
    assert remembered(data) == [place]
    with pytest.raises(ConfigError, match="gone is not there"):
        remember(data, [str(tmp_path / "gone")])
    for typed in ("a" * 5000, "~nobody-of-this-name/models", "\0"):
        with pytest.raises(ConfigError, match="is not there"):
            remember(data, [typed])
    assert remembered(data) == [place]
    (data / REMEMBERED).write_text("{", encoding="utf-8")
    assert remembered(data) == []


@pytest.mark.skipif(os.name == "nt", reason="names are no bytes there")
def test_a_name_that_cannot_be_shown_hides_no_other_model(tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "near.safetensors").symlink_to(checkpoint)
    for name in (b"\xff.safetensors", b"a\nb.safetensors", b"\xff/far.safetensors"):
        path = tmp_path / os.fsdecode(name)
        path.parent.mkdir(exist_ok=True)
        path.symlink_to(checkpoint)
    found, others = models_in(tmp_path)
    assert ([model.path.stem for model in found], others) == (["near"], 3)
