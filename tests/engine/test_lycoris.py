"""LoHa, LoKr and DoRA of other programs: applied by their formulas, scaled, taken off, or refused by what they are."""

from pathlib import Path

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from apt_engine.bases.base import BaseModel
from apt_engine.errors import LoraError
from apt_engine.lora import adapter, foreign, kohya
from apt_engine.lora.adapter import ADAPTER
from tests.engine.test_bases import stable_diffusion, stable_diffusion_xl
from tests.foreign_loras import _kohya, draw_layers
from tests.loras import predict

QUERY = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
CONVOLUTION = "mid_block.resnets.0.conv1"
TEXT = "encoder.layers.0.mlp.fc1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lycoris.safetensors"


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + len(shape)))


def loha(weight: Tensor, rank: int, *, has_tucker: bool) -> tuple[dict[str, Tensor], Tensor]:
    """The tensors of a layer, and what they add to its weight, alpha 2."""
    outputs, inputs, *kernel = weight.shape
    if not has_tucker:
        flat = inputs * (kernel[0] * kernel[1] if kernel else 1)
        a, b, c, d = drawn(outputs, rank), drawn(rank, flat), drawn(outputs, rank) + 1, drawn(rank, flat) - 1
        tensors = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d}
        return tensors | {"alpha": torch.tensor(2.0)}, ((a @ b) * (c @ d)).view(weight.shape) * 2 / rank
    a, b, t = drawn(rank, outputs), drawn(rank, inputs), drawn(rank, rank, *kernel)
    one = torch.einsum("ijkl,jr,ip->prkl", t, b, a)
    tensors = {"hada_t1": t, "hada_w1_a": a, "hada_w1_b": b, "hada_t2": t + 1, "hada_w2_a": a + 1, "hada_w2_b": b - 1}
    other = torch.einsum("ijkl,jr,ip->prkl", t + 1, b - 1, a + 1)
    return tensors | {"alpha": torch.tensor(2.0)}, one * other * 2 / rank


def lokr(weight: Tensor, rank: int, kind: str) -> tuple[dict[str, Tensor], Tensor]:
    """The same; the first factor is 2 x 2. Without a rank alpha says nothing."""
    outputs, inputs, *kernel = weight.shape
    flat = inputs // 2 * (kernel[0] * kernel[1] if kernel else 1)
    one, tensors, scale = drawn(2, 2), {"lokr_w1": drawn(2, 2)}, 2 / rank
    if kind == "both whole":
        other = drawn(outputs // 2, flat)
        tensors["lokr_w2"], scale = other.view(outputs // 2, inputs // 2, *kernel), 1.0
    else:
        a, b = drawn(outputs // 2, rank), drawn(rank, flat)
        other = a @ b
        tensors |= {"lokr_w2_a": a, "lokr_w2_b": b}
    if kind == "both of a rank":
        c, d = drawn(2, rank), drawn(rank, 2)
        one = c @ d
        tensors = {key: value for key, value in tensors.items() if key != "lokr_w1"} | {"lokr_w1_a": c, "lokr_w1_b": d}
    return tensors | {"alpha": torch.tensor(2.0)}, torch.kron(one, other).view(weight.shape) * scale


def weight_of(base: BaseModel, part: str, name: str) -> Tensor:
    module = getattr(base.pipeline, part).get_submodule(name)
    return module.weight


def stem_of(base: BaseModel, part: str, name: str) -> str:
    if part == "text_encoder":
        return f"{kohya.text_prefix(1, len(kohya.parts_beside(base)))}text_model_{name.replace('.', '_')}"
    return kohya.known_as(base.lora.kohya, name)[-1]  # of XL the original's name


def deltas(base: BaseModel) -> dict[str, Tensor]:
    parts = {"unet": base.denoiser, "text_encoder": base.pipeline.text_encoder}
    return {
        f"{part}.{name.removeprefix('text_model.')}": module.get_delta_weight(ADAPTER).detach()  # pyright: ignore[reportAttributeAccessIssue]
        for part, whole in parts.items()
        for name, module in whole.named_modules()
        if isinstance(module, BaseTunerLayer)
    }


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize("kind", ["LoHa", "LoHa, Tucker", "both whole", "second of a rank", "both of a rank"])
def test_each_layer_is_changed_by_its_formula_and_comes_off(path: Path, family: str, kind: str) -> None:
    base = stable_diffusion() if family == "sd" else stable_diffusion_xl()
    encoder = base.pipeline.text_encoder
    text = f"text_model.{TEXT}" if any(name.startswith("text_model.") for name, _ in encoder.named_modules()) else TEXT
    tensors: dict[str, Tensor] = {}
    wanted: dict[str, Tensor] = {}
    for part, name in (("unet", QUERY), ("unet", CONVOLUTION), ("text_encoder", text)):
        weight = weight_of(base, part, name)
        has_tucker = "Tucker" in kind and weight.ndim == 4
        own, delta = loha(weight, 3, has_tucker=has_tucker) if "LoHa" in kind else lokr(weight, 3, kind)
        short = name.removeprefix("text_model.")
        tensors |= {f"{stem_of(base, part, short)}.{key}": value for key, value in own.items()}
        wanted[f"{part}.{short}"] = delta
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, path)
    bare = {key: value.clone() for key, value in base.denoiser.state_dict().items()}
    assert foreign.load(base, path) == []
    found = deltas(base)
    assert found.keys() == wanted.keys()
    assert all(torch.allclose(found[name], delta, atol=1e-4) for name, delta in wanted.items())
    foreign.set_strength(base, 0.5)
    assert torch.allclose(deltas(base)[f"unet.{QUERY}"], wanted[f"unet.{QUERY}"] / 2, atol=1e-4)
    with adapter.fused(base.denoiser):
        weight = base.denoiser.get_submodule(QUERY).get_base_layer().weight  # pyright: ignore[reportCallIssue]
        assert torch.allclose(weight, bare[f"{QUERY}.weight"] + wanted[f"unet.{QUERY}"] / 2, atol=1e-4)
    foreign.remove(base)
    assert not deltas(base)
    assert all(torch.equal(value, bare[key]) for key, value in base.denoiser.state_dict().items())


def test_what_has_no_place_is_named_and_what_has_another_size_is_refused(path: Path) -> None:
    base = stable_diffusion()
    own, _ = loha(weight_of(base, "unet", QUERY), 3, has_tucker=False)
    stem = stem_of(base, "unet", QUERY)
    tensors = {f"{stem}.{key}": value for key, value in own.items()}
    plain = f"{stem_of(base, 'unet', CONVOLUTION)}.diff"
    save_file({**tensors, "lora_unet_elsewhere.hada_w1_a": drawn(2, 2), plain: drawn(3, 3)}, path)
    (told,) = foreign.load(base, path)
    assert "that have no place in this base model were left out (2)" in told
    assert deltas(base).keys() == {f"unet.{QUERY}"}
    save_file({**tensors, f"{stem}.hada_w1_a": drawn(6, 3)}, path)
    with pytest.raises(LoraError, match="another base model than .* or is damaged"):
        foreign.load(base, path)
    assert not deltas(base)
    save_file({"lora_unet_elsewhere.hada_w1_a": drawn(2, 2)}, path)
    with pytest.raises(LoraError, match="none of its layers"):
        foreign.load(base, path)


def test_a_dora_sets_the_length_of_each_row_and_at_strength_0_is_the_base_model(path: Path) -> None:
    base = stable_diffusion()
    before = predict(base)
    layers = draw_layers(base, ("unet",), "all", is_mixed=False, dtype=torch.float32)
    tensors = _kohya(base, layers)
    weights = {layer.name: weight_of(base, "unet", layer.name).clone() for layer in layers}
    scales = {layer.name: drawn(len(layer.up), 1).abs() + 1 for layer in layers}
    stems = {layer.name: f"lora_unet_{layer.name.replace('.', '_')}" for layer in layers}
    save_file(tensors | {f"{stems[name]}.dora_scale": scale for name, scale in scales.items()}, path)
    assert foreign.load(base, path) == []
    assert not torch.allclose(predict(base), before, atol=1e-3)
    foreign.set_strength(base, 0)
    assert torch.allclose(predict(base), before, atol=1e-5)
    foreign.set_strength(base, 1)
    with adapter.fused(base.denoiser):
        for layer in layers:
            moved = weights[layer.name].flatten(1) + layer.delta
            expected = moved * scales[layer.name] / moved.norm(dim=1, keepdim=True)
            found = base.denoiser.get_submodule(layer.name).get_base_layer().weight  # pyright: ignore[reportCallIssue]
            assert torch.allclose(found.flatten(1), expected, atol=1e-4)
    foreign.remove(base)
    assert torch.equal(predict(base), before)


def test_a_dora_of_columns_is_named_and_the_rest_applied(path: Path) -> None:
    base = stable_diffusion()
    layers = draw_layers(base, ("unet",), "attention", is_mixed=False, dtype=torch.float32)
    name = next(layer.name for layer in layers if layer.up.shape[0] != layer.down.shape[1])
    tensors = _kohya(base, layers)
    module = base.denoiser.get_submodule(name)
    assert isinstance(module, nn.Linear)
    save_file(tensors | {f"lora_unet_{name.replace('.', '_')}.dora_scale": torch.ones(1, module.in_features)}, path)
    (told,) = foreign.load(base, path)
    assert "dora_scale" in told
