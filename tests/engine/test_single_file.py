"""Checkpoints in one file: told by their keys, loaded offline. Those that are refused stand in `test_variants`."""

import functools
import json
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from apt_engine.bases import checkpoints, registry
from apt_engine.bases.checkpoints import TOKENIZER_DIR, SingleFile, inspect
from apt_engine.bases.profiles import profile_of
from apt_engine.bases.registry import load_base
from apt_engine.bases.sd import StableDiffusion
from apt_engine.bases.sdxl import StableDiffusionXL
from apt_engine.errors import BaseModelError
from apt_engine.settings.presets import load_presets
from benchmarks.original_layout import real_tensors as real_tensors_of
from benchmarks.original_layout import save_original, write_empty
from tests.toy import toy_pipeline, toy_xl_pipeline

real_tensors = functools.cache(real_tensors_of)
HOW: dict[str, Any] = {
    "name": "toy",
    "device": torch.device("cpu"),
    "dtype": torch.float32,
    "attention": "fused",
    "precision": "full",
}


def real_file(folder: Path, family: str, **changes: Any) -> Path:
    """An empty file with a real model's keys; a change gives a key another shape."""
    tensors = dict(real_tensors(family))
    for key, shape in changes.get("shapes", {}).items():
        tensors[key] = torch.empty(shape, device="meta")
    return write_empty(folder / "model.safetensors", tensors, changes.get("metadata"))


def narrow_text_encoder(encoder: Any) -> CLIPTextModelWithProjection:
    """Another width than the first encoder's, as in SDXL: by that they are told apart."""
    config = encoder.config.to_dict() | {"hidden_size": 16, "intermediate_size": 16}
    return CLIPTextModelWithProjection(CLIPTextConfig(**config)).eval()


@pytest.mark.parametrize(("family", "count"), [("sd15", 1130), ("sd2", 1214), ("sdxl", 2513)])
def test_each_family_is_told_by_its_keys(tmp_path: Path, family: str, count: int) -> None:
    """So many keys have the published files, less what no part needs: noise levels, position ids, a last text layer."""
    path = real_file(tmp_path, family)
    assert inspect(path) == SingleFile(path=path, family=family, vae=path, prediction_type="epsilon")
    assert len(real_tensors(family)) == count
    assert registry.kind_of(str(path), inspect(path)) in registry.FAMILIES
    assert profile_of(str(path), load_presets()).key == f"base-{family}"


def prediction_of(path: Path) -> str:
    file = inspect(path)
    assert isinstance(file, SingleFile)
    return file.prediction_type


def test_prediction_of_velocity_is_told_by_the_header_by_a_key_or_by_the_weights(tmp_path: Path) -> None:
    said = real_file(tmp_path, "sd2", metadata={"modelspec.prediction_type": "v"})
    assert prediction_of(said) == "v_prediction"
    assert prediction_of(real_file(tmp_path, "sdxl", shapes={"v_pred": (0,)})) == "v_prediction"
    path = real_file(tmp_path, "sd2")
    norm = checkpoints.read_header(path)[0][checkpoints.NORM_OF_SD2]
    for spread, expected in ((0.2, "v_prediction"), (0.02, "epsilon")):
        numbers = numpy.linspace(-spread, spread, (norm.end - norm.begin) // 2).astype("<f2")
        with path.open("r+b") as file:
            file.seek(norm.begin)
            file.write(numbers.tobytes())
        assert prediction_of(path) == expected


def test_a_file_that_is_cut_off_says_how_much_is_there(tmp_path: Path) -> None:
    path = real_file(tmp_path, "sd15")
    with path.open("r+b") as file:
        file.truncate(1_000_000_000)
    with pytest.raises(BaseModelError, match=r"cut off: 1\.00 of 2\.13 GB"):
        load_base(str(path))


def test_a_name_that_looks_like_a_path_is_a_missing_file_and_no_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for name in ("models/sd15", "mine/sd15", "a/b.safetensors", "b.ckpt"):
        with pytest.raises(BaseModelError, match="is not there"):
            load_base(name)


def test_a_toy_in_one_file_is_the_toy_to_the_bit(tmp_path: Path, toy_families: Path) -> None:
    path = save_original(tmp_path / "toy.safetensors", toy_pipeline())
    file = SingleFile(path=path, family="sd15", vae=path, prediction_type="v_prediction")
    base = StableDiffusion.load(file, **HOW)
    expected = toy_pipeline()
    for part in ("unet", "vae", "text_encoder"):
        weights, others = (getattr(pipeline, part).state_dict() for pipeline in (expected, base.pipeline))
        assert weights.keys() == others.keys()
        assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert base.prediction_type == "v_prediction"


def test_an_xl_toy_with_its_vae_in_another_file_is_the_toy_to_the_bit(tmp_path: Path, toy_families: Path) -> None:
    expected = toy_xl_pipeline()
    expected.text_encoder_2 = narrow_text_encoder(expected.text_encoder_2)
    expected.save_pretrained(toy_families / "sdxl")
    path = save_original(tmp_path / "toy.safetensors", expected, has_vae=False)
    vae = save_original(tmp_path / "toy.vae.safetensors", expected)
    file = SingleFile(path=path, family="sdxl", vae=vae, prediction_type="epsilon")
    base = StableDiffusionXL.load(file, **HOW)
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        weights, others = (getattr(pipeline, part).state_dict() for pipeline in (expected, base.pipeline))
        assert weights.keys() == others.keys()
        assert all(torch.equal(weights[name], others[name]) for name in weights)


def test_weights_that_are_missing_are_named(tmp_path: Path, toy_families: Path) -> None:
    from safetensors.torch import load_file

    path = save_original(tmp_path / "toy.safetensors", toy_pipeline())
    tensors = load_file(path)
    tensors.pop("model.diffusion_model.out.2.bias")
    save_file(tensors, path)
    file = SingleFile(path=path, family="sd15", vae=path, prediction_type="epsilon")
    with pytest.raises(BaseModelError, match="does not hold all weights"):
        StableDiffusion.load(file, **HOW)


def test_the_shipped_tokenizer_is_clips() -> None:
    """Numbers as the published models have them."""
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER_DIR)
    assert tokenizer("a photo of a cat").input_ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert len(json.loads((TOKENIZER_DIR / "vocab.json").read_text(encoding="utf-8"))) == 49408
