"""LoRA files: each is read back by a fresh model, ours and diffusers' own reader, and must draw the same."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from safetensors.torch import load_file, save_file
from torch import Tensor

from apt_engine.bases.base import BaseModel
from apt_engine.bases.registry import load_base
from apt_engine.errors import LoraError
from apt_engine.lora import adapter, files
from tests.engine.test_bases import stable_diffusion
from tests.loras import (
    ATTENTION,
    HALF_TOLERANCE,
    LAYOUTS,
    SHAPES_OF_SETTINGS,
    Write,
    difference,
    rewrite,
    trained,
    write_diffusers,
    write_kohya,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lora.safetensors"


@pytest.mark.parametrize(("write", "keys_a_layer"), [(files.save, 2), (write_diffusers, 2), (write_kohya, 3)])
@pytest.mark.parametrize(("rank", "alpha", "endings"), SHAPES_OF_SETTINGS)
def test_an_exported_file_arrives_whole(
    path: Path, write: Write, keys_a_layer: int, rank: int, alpha: float, endings: tuple[str, ...]
) -> None:
    base, fresh = trained(rank, alpha, endings), stable_diffusion()
    write(base, path)
    layers = len(adapter.trainable_parameters(base.denoiser)) // 2
    stream = torch.get_rng_state()
    assert files.load_exported(fresh, path) == keys_a_layer * layers == len(load_file(path))
    assert torch.equal(torch.get_rng_state(), stream)
    assert difference(fresh, base) < HALF_TOLERANCE
    files.load(fresh, path)
    assert difference(fresh, base) < HALF_TOLERANCE


def test_an_export_for_diffusers_is_half_precision_and_a_checkpoint_is_not(path: Path) -> None:
    for write, dtype in ((write_diffusers, torch.float16), (files.save, torch.float32)):
        write(trained(), path)
        assert {value.dtype for value in load_file(path).values()} == {dtype}


def first_key(tensors: dict[str, Tensor], ending: str) -> str:
    return next(key for key in sorted(tensors) if key.endswith(ending))


@pytest.mark.parametrize("load", [files.load, files.load_exported])
@pytest.mark.parametrize(
    ("write", "ending"),
    [
        (write_kohya, ".alpha"),
        (write_kohya, ".lora_up.weight"),
        (write_kohya, ".lora_down.weight"),
        (files.save, ".lora_A.weight"),
    ],
)
def test_a_key_that_is_missing_renamed_or_misshapen_is_named(
    path: Path, load: Callable[[BaseModel, Path], object], write: Write, ending: str
) -> None:
    def refused(change: Callable[[dict[str, Tensor]], object], words: str) -> None:
        write(trained(), path)
        rewrite(path, change)
        fresh = stable_diffusion()
        with pytest.raises(LoraError) as caught:
            load(fresh, path)
        assert words in str(caught.value)
        assert difference(fresh, stable_diffusion()) == 0

    write(trained(), path)
    key = first_key(load_file(path), ending)
    other = key.removesuffix(ending).replace("attentions", "resnets")

    def add_layer(tensors: dict[str, Tensor]) -> None:
        own = [name for name in tensors if name.startswith(f"{key.removesuffix(ending)}.")]
        tensors.update({name.replace("attentions", "resnets"): tensors[name].clone() for name in own})

    refused(lambda tensors: tensors.pop(key), f"it has no {key}")
    refused(add_layer, f"the model has no place for {other}")
    refused(lambda tensors: tensors.update({key: torch.zeros(3, 5)}), f"{key} is (3, 5), not (")


def test_a_whole_block_that_is_missing_is_noticed(path: Path) -> None:
    """diffusers takes the layers from the file, so it loads such a file without a word."""

    def drop(tensors: dict[str, Tensor]) -> None:
        for key in [key for key in tensors if "mid_block" in key]:
            del tensors[key]

    write_kohya(trained(), path)
    rewrite(path, drop)
    with pytest.raises(LoraError, match="it has no lora_unet_mid_block"):
        files.load_exported(stable_diffusion(), path)


def test_a_file_without_rank_and_alpha_is_refused(path: Path) -> None:
    files.save(trained(), path)
    save_file(load_file(path), path, {"format": "pt"})
    for load in (files.load, files.load_exported):
        with pytest.raises(LoraError, match="does not say its rank and alpha"):
            load(stable_diffusion(), path)


def test_alphas_that_differ_by_layer_are_refused(path: Path) -> None:
    write_kohya(trained(), path)
    rewrite(path, lambda tensors: tensors.update({first_key(tensors, ".alpha"): torch.tensor(3.0)}))
    with pytest.raises(LoraError, match="different alphas"):
        files.load_exported(stable_diffusion(), path)


def test_a_reader_that_makes_other_numbers_of_it_is_caught(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_kohya(trained(), path)
    read = StableDiffusionLoraLoaderMixin.lora_state_dict
    monkeypatch.setattr(StableDiffusionLoraLoaderMixin, "lora_state_dict", lambda tensors: (read(tensors)[0], None))
    fresh = stable_diffusion()
    with pytest.raises(LoraError, match="reads the LoRA file .* otherwise"):
        files.load_exported(fresh, path)
    assert difference(fresh, stable_diffusion()) == 0


@pytest.mark.parametrize("content", [None, b"", b"hello, this is no LoRA", b"\xff" * 64])
def test_what_is_no_lora_file_is_named(path: Path, content: bytes | None) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LoraError, match=r"lora\.safetensors (cannot be read|is damaged or not a LoRA)"):
        files.load(stable_diffusion(), path)


def test_a_truncated_file_is_named(path: Path) -> None:
    files.save(trained(), path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(LoraError, match=r"lora\.safetensors (cannot be read|is damaged or not a LoRA)"):
        files.load(stable_diffusion(), path)


@pytest.mark.parametrize("write", LAYOUTS)
def test_another_base_model_is_refused(path: Path, write: Write) -> None:
    write(trained(), path)
    other = stable_diffusion()
    config = {**other.pipeline.unet.config, "cross_attention_dim": 24}
    other.pipeline.unet = UNet2DConditionModel.from_config(config)
    with pytest.raises(LoraError, match=r"another base model or is damaged .*to_k.* is \(4, 32\), not \(4, 24\)"):
        files.load(other, path)


@pytest.mark.parametrize("value", [float("nan"), 1e5])
def test_what_fp16_cannot_hold_is_not_exported(path: Path, value: float) -> None:
    base = trained()
    next(iter(adapter.trainable_parameters(base.denoiser).values())).data[0, 0] = value
    for write in (write_diffusers, write_kohya):
        with pytest.raises(LoraError, match=r"lora_A.weight is not finite; lower learning_rate"):
            write(base, path)
        assert not path.exists()
    files.save(base, path)


@pytest.mark.parametrize("write", LAYOUTS)
def test_no_file_tells_where_it_was_made(tmp_path: Path, toy_base: Path, write: Write) -> None:
    base = load_base(str(toy_base), device="cpu")
    adapter.attach(base.denoiser, 4, 4.0, ATTENTION, seed=0)
    path = tmp_path / "my private folder" / "lora.safetensors"
    write(base, path)
    content = path.read_bytes()
    text = content[8 : 8 + int.from_bytes(content[:8], "little")].decode()
    assert json.loads(text)["__metadata__"]["format"] == "pt"
    for secret in (
        "private",
        "lora.safetensors",
        str(tmp_path),
        str(toy_base),
        toy_base.name,
        str(Path.home()),
        "\\\\",
    ):
        assert secret not in text
    assert text.replace("stable-diffusion-v1/lora", "").count("/") == 0
