"""LoRA files at the command line: one sentence for each that cannot be used, or not whole."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from apt_engine.bases.registry import load_base
from apt_engine.errors import LoraError
from apt_engine.lora import adapter, files, tensors
from apt_engine.lora.about import ExportInfo
from apt_engine.reading import tensor_files
from tests.terminal import generate, sentence


def lora(folder: Path, base: Path) -> Path:
    """A LoRA file for a toy, in kohya's layout, that changes its pictures."""
    loaded = load_base(str(base), device="cpu")
    adapter.attach(loaded.denoiser, 4, 4.0, loaded.lora.attention, seed=1)
    for name, parameter in adapter.trainable_parameters(loaded.denoiser).items():
        if name.endswith(".lora_B.weight"):
            parameter.data += 0.05
    path = folder / "wool.safetensors"
    files.export_kohya(loaded, path, ExportInfo(name="wool", resolution=32, trigger_phrase="wool"))
    return path


def cut_in_two(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_in_its_header(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:200])


def made_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def made_a_pickle(path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (cut_in_two, "is damaged or not a LoRA"),
        (cut_in_its_header, "is damaged or not a LoRA (it ends within its header); choose another file."),
        (made_a_pickle, "is a PyTorch file, which can run code; get the LoRA as .safetensors."),
        (made_a_folder, "wool.safetensors is not a file; give the .safetensors file of the LoRA."),
        (Path.unlink, "The LoRA file wool.safetensors is not there any more"),
    ],
)
def test_a_lora_that_cannot_be_used_is_one_sentence(
    data_dir: Path,
    tmp_path: Path,
    toy_base: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], None],
    words: str,
) -> None:
    path = lora(tmp_path, toy_base)
    change(path)
    assert generate(data_dir, tmp_path / "out", "--base", str(toy_base), "--lora", f"{path}:1", prompt="a car") == 1
    assert words in sentence(capsys)
    assert not (tmp_path / "out").exists()


def test_a_lora_of_another_family_is_named_as_such(
    data_dir: Path, tmp_path: Path, toy_base: Path, toy_xl_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "xl").mkdir()
    ours, theirs = lora(tmp_path, toy_base), lora(tmp_path / "xl", toy_xl_base)
    for base, path, family in (
        (toy_base, theirs, "Stable Diffusion XL"),
        (toy_xl_base, ours, "Stable Diffusion 1.x"),
    ):
        assert generate(data_dir, tmp_path / "out", "--base", str(base), "--lora", str(path), prompt="a car") == 1
        assert f"was made for {family}, not for {base}" in sentence(capsys)
    assert generate(data_dir, tmp_path / "out", "--base", str(ours), prompt="a car") == 1
    assert f"{ours} is a LoRA; choose a whole Stable Diffusion" in sentence(capsys)


def test_a_checkpoint_of_pytorch_is_no_run(
    data_dir: Path, tmp_path: Path, toy_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = lora(tmp_path, toy_base).rename(tmp_path / "wool.ckpt")
    assert generate(data_dir, tmp_path / "out", "--base", str(toy_base), "--lora", f"{path}:0.5", prompt="a car") == 1
    assert "wool.ckpt is a PyTorch file, which can run code; get the LoRA as .safetensors." in sentence(capsys)


def truncated(path: Path, _other: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(100)


def replaced(path: Path, other: Path) -> None:
    shutil.copy(other, path)


@pytest.mark.parametrize("change", [truncated, replaced])
def test_a_lora_that_changes_while_it_is_read_is_one_sentence(
    data_dir: Path,
    tmp_path: Path,
    toy_base: Path,
    toy_xl_base: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[Path, Path], None],
) -> None:
    (tmp_path / "xl").mkdir()
    path, other = lora(tmp_path, toy_base), lora(tmp_path / "xl", toy_xl_base)
    read_header = tensor_files.read_header

    def read_then_change(path: Path) -> Any:
        found = read_header(path)
        change(path, other)
        return found

    monkeypatch.setattr(tensors, "read_header", read_then_change)
    whole = path.read_bytes()
    with pytest.raises(LoraError, match="changed while it was read"):
        tensors.read(path)
    path.write_bytes(whole)
    assert generate(data_dir, tmp_path / "out", "--base", str(toy_base), "--lora", str(path), prompt="a car") == 1
    assert "The LoRA file" in sentence(capsys)


def test_what_of_a_lora_is_not_applied_is_said(
    data_dir: Path, tmp_path: Path, toy_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = lora(tmp_path, toy_base)
    save_file({**load_file(path), "lora_unet_time_embed_0.diff": torch.zeros(4)}, path)
    assert generate(data_dir, tmp_path / "out", "--base", str(toy_base), "--lora", str(path), prompt="a car") == 0
    assert "Left out of wool.safetensors, being no LoRA, 1 of its tensors: lora_unet_time_embed_0.diff." in (
        capsys.readouterr().out.splitlines()
    )
