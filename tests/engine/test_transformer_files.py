"""Flow transformers alone in a file: told by their keys, loaded with the rest of their model, or refused in a sentence."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from apt_engine.bases import hub
from apt_engine.bases.checkpoints import inspect
from apt_engine.bases.model_folders import models_in
from apt_engine.bases.profiles import profile_of
from apt_engine.bases.registry import load_base
from apt_engine.errors import BaseModelError
from apt_engine.settings.presets import load_presets
from tests.klein import save_toy_klein, toy_klein
from tests.laws import output
from tests.z_image import save_toy_z_image, toy_z_image

FAMILIES = pytest.mark.parametrize("family", ["klein", "z-image"])
KLEIN_NAMES = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "time_guidance_embed.timestep_embedder.linear_1": "time_in.in_layer",
    "time_guidance_embed.timestep_embedder.linear_2": "time_in.out_layer",
    "modulation_img.linear": "modulation_img.lin",
    "modulation_txt.linear": "modulation_txt.lin",
    "stream_modulation.linear": "stream_modulation.lin",
    "norm_out.linear": "final_layer.adaLN_modulation.1",
    "proj_out": "final_layer.linear",
    "single_transformer_blocks": "single_blocks",
    "transformer_blocks": "double_blocks",
    "attn.to_qkv_mlp_proj": "linear1",
    "attn.to_out.0": "img_attn.proj",
    "attn.to_out": "linear2",
    "attn.to_add_out": "txt_attn.proj",
    "attn.norm_added_q.weight": "txt_attn.norm.query_norm.scale",
    "attn.norm_added_k.weight": "txt_attn.norm.key_norm.scale",
    "ff.linear_in": "img_mlp.0",
    "ff.linear_out": "img_mlp.2",
    "ff_context.linear_in": "txt_mlp.0",
    "ff_context.linear_out": "txt_mlp.2",
}
Z_IMAGE_NAMES = {
    "all_final_layer.2-1.": "final_layer.",
    "all_x_embedder.2-1.": "x_embedder.",
    "attention.to_out.0": "attention.out",
    "attention.norm_q": "attention.q_norm",
    "attention.norm_k": "attention.k_norm",
}


def original_names(family: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """As Black Forest Labs' and Tongyi's own programs name and join them."""
    made: dict[str, Tensor] = {}
    for key, value in weights.items():
        name = key
        for own, theirs in (KLEIN_NAMES if family == "klein" else Z_IMAGE_NAMES).items():
            name = name.replace(own, theirs)
        norms = "norm" if "single" in name else "img_attn.norm"
        for letter, whole in (("q", "query"), ("k", "key")):
            name = name.replace(f"attn.norm_{letter}.weight", f"{norms}.{whole}_norm.scale")
        made[name] = value
    joined = {"to_q": ("to_k", "to_v", "img_attn.qkv"), "add_q_proj": ("add_k_proj", "add_v_proj", "txt_attn.qkv")}
    for name in list(made):
        for first, (second, third, whole) in joined.items():
            if f".{first}." in name:
                parts = [made.pop(name.replace(first, part)) for part in (first, second, third)]
                own = "attention.qkv" if family == "z-image" else whole
                made[name.replace(f"attn.{first}", own).replace(f"attention.{first}", own)] = torch.cat(parts)
    last = "final_layer.adaLN_modulation.1.weight"
    if family == "klein":  # theirs is shift and scale, diffusers' scale and shift
        made[last] = torch.cat(made[last].chunk(2)[::-1])
    return made


def save_toy(
    folder: Path, family: str, prefix: str = "", change: Callable[[dict[str, Tensor]], None] | None = None
) -> Path:
    """A toy's transformer in a file, beside the rest of it, whose transformer has a config alone; the path of the file."""
    rest = (save_toy_klein if family == "klein" else save_toy_z_image)(folder / "rest")
    (weights,) = (rest / "transformer").glob("*.safetensors")
    tensors = {f"{prefix}{name}": value for name, value in original_names(family, load_file(weights)).items()}
    weights.unlink()
    if change:
        change(tensors)
    save_file(tensors, folder / "toy-base.safetensors")
    return folder / "toy-base.safetensors"


@FAMILIES
@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_a_toy_in_a_file_is_the_toy_to_the_bit(tmp_path: Path, family: str, prefix: str) -> None:
    path = save_toy(tmp_path, family, prefix)
    base: Any = load_base(str(path), device="cpu")
    expected = toy_klein() if family == "klein" else toy_z_image()
    assert base.name == str(path)
    weights, own = (one.denoiser.state_dict() for one in (expected, base))
    assert weights.keys() == own.keys()
    assert all(torch.equal(weights[name], own[name]) for name in weights)
    assert torch.equal(output(base), output(expected))
    assert profile_of(str(path), load_presets()).key == f"base-{family}"
    (found, folder), _ = models_in(tmp_path)
    assert (folder.path, found.path) == (tmp_path / "rest", path) or (found.path, folder.path) == (
        tmp_path / "rest",
        path,
    )


def to_fp8(tensors: dict[str, Tensor]) -> None:
    name = next(name for name in tensors if ".0." in name and tensors[name].ndim == 2)
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)


def scale(tensors: dict[str, Tensor]) -> None:
    name = next(name for name in tensors if ".0." in name and tensors[name].ndim == 2)
    tensors[name.replace(".weight", ".scale_weight")] = torch.ones(1)


def shorten(tensors: dict[str, Tensor]) -> None:
    for name in [name for name in tensors if name.startswith(("single_blocks.1.", "layers.3."))]:
        tensors.pop(name)


def lose(tensors: dict[str, Tensor]) -> None:
    tensors.pop("final_layer.linear.weight")


def guide(tensors: dict[str, Tensor]) -> None:
    tensors["guidance_in.in_layer.weight"] = torch.ones(1, 1)


def widen(tensors: dict[str, Tensor]) -> None:
    tensors["img_in.weight"] = torch.ones(32, 16)


@pytest.mark.parametrize(
    ("family", "change", "said"),
    [
        ("klein", to_fp8, "has quantized weights ("),
        ("z-image", to_fp8, "in F8_E4M3); get it in bf16 or fp16, and set base_precision"),
        ("z-image", scale, "has quantized weights"),
        ("klein", shorten, "is a transformer of another size (width 16, text 24, double_blocks 3, single_blocks 1)"),
        ("z-image", shorten, "layers 3, noise_refiner 1, context_refiner 1); supported is Tongyi-MAI/Z-Image"),
        ("klein", guide, "is FLUX.2 dev, which is not supported; choose FLUX.2 klein base 4B"),
        ("klein", widen, "is FLUX.2 klein 9B or another large FLUX.2 (width 32"),
    ],
)  # fmt: skip
def test_another_transformer_is_refused_before_it_is_loaded(
    tmp_path: Path, family: str, change: Callable[[dict[str, Tensor]], None], said: str
) -> None:
    path = save_toy(tmp_path, family, change=change)
    with pytest.raises(BaseModelError) as caught:
        inspect(path)
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)


@FAMILIES
def test_a_file_that_lacks_a_weight_is_refused(tmp_path: Path, family: str) -> None:
    path = save_toy(tmp_path, family, change=lose)
    with pytest.raises(BaseModelError, match="does not hold all weights of such a model; get the file again"):
        load_base(str(path), device="cpu")


@FAMILIES
def test_the_rest_comes_from_the_hubs_cache_or_is_asked_for(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save_toy(tmp_path / "one", family)
    cached = shutil.move(tmp_path / "one" / "rest", tmp_path / "cached")
    config = tmp_path / "cached" / "transformer" / "config.json"
    monkeypatch.setattr("apt_engine.bases.checkpoints.ASSETS", tmp_path)
    (tmp_path / family / "transformer").mkdir(parents=True)
    shutil.copy(config, tmp_path / family / "transformer")
    monkeypatch.setattr(hub, "folder_of", lambda _name: None)
    with pytest.raises(
        BaseModelError, match=r"is a transformer alone, and the rest of its model is not here; put the folder"
    ):
        inspect(path)
    monkeypatch.setattr(hub, "folder_of", lambda _name: Path(cached))
    told: Any = inspect(path)
    assert told.parts == Path(cached)
    assert told.index["_class_name"] in ("Flux2KleinPipeline", "ZImagePipeline")


def test_a_distilled_klein_is_told_by_its_name(tmp_path: Path) -> None:
    """It draws with a LoRA, and is refused for training."""
    path = save_toy(tmp_path, "klein").rename(tmp_path / "flux-2-klein-4b.safetensors")
    base = load_base(str(path), device="cpu")
    with pytest.raises(BaseModelError, match="is distilled to draw in a few steps, and training would undo that"):
        base.prepare_training(32, gradient_checkpointing=False)
    load_base(str(path.rename(tmp_path / "flux-2-klein-base-4b.safetensors")), device="cpu").prepare_training(
        32, gradient_checkpointing=False
    )


def test_a_controlnet_of_z_image_is_none(tmp_path: Path) -> None:
    path = save_toy(tmp_path, "z-image", change=lambda tensors: tensors.update({"control_layers.0.a": torch.ones(1)}))
    with pytest.raises(BaseModelError, match="is a ControlNet; choose"):
        inspect(path)
