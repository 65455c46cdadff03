"""ComfyUI takes the files of flow transformers: its table of names, rebuilt from what it does with diffusers' names.

It keeps the three projections of an attention in one weight, q, k and v under each other, and knows a LoRA's layer as
`transformer.` and diffusers' name. The rules were read off `flux_to_diffusers`, `z_image_to_diffusers` and
`model_lora_keys_unet` as of 2026-01; nothing of them is copied.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from apt_engine.lora import adapter, files
from apt_engine.lora.adapter import trainable_parameters
from tests.laws import bare_base
from tests.loras import ABOUT

# Diffusers' name of a layer, ComfyUI's, and which of three equal parts of its rows it is.
KLEIN = (
    (r"transformer_blocks\.(\d+)\.attn\.to_q", r"double_blocks.\1.img_attn.qkv", 0),
    (r"transformer_blocks\.(\d+)\.attn\.to_k", r"double_blocks.\1.img_attn.qkv", 1),
    (r"transformer_blocks\.(\d+)\.attn\.to_v", r"double_blocks.\1.img_attn.qkv", 2),
    (r"transformer_blocks\.(\d+)\.attn\.to_out\.0", r"double_blocks.\1.img_attn.proj", None),
    (r"transformer_blocks\.(\d+)\.ff\.linear_in", r"double_blocks.\1.img_mlp.0", None),
    (r"transformer_blocks\.(\d+)\.ff\.linear_out", r"double_blocks.\1.img_mlp.2", None),
    (r"single_transformer_blocks\.(\d+)\.attn\.to_qkv_mlp_proj", r"single_blocks.\1.linear1", None),
    (r"single_transformer_blocks\.(\d+)\.attn\.to_out", r"single_blocks.\1.linear2", None),
)
BLOCK = r"((?:layers|noise_refiner|context_refiner)\.\d+)"
Z_IMAGE = (
    (BLOCK + r"\.attention\.to_q", r"\1.attention.qkv", 0),
    (BLOCK + r"\.attention\.to_k", r"\1.attention.qkv", 1),
    (BLOCK + r"\.attention\.to_v", r"\1.attention.qkv", 2),
    (BLOCK + r"\.attention\.to_out\.0", r"\1.attention.out", None),
    (BLOCK + r"\.feed_forward\.(w[123])", r"\1.feed_forward.\2", None),
)
Rules = tuple[tuple[str, str, int | None], ...]


def theirs(rules: Rules, layer: str) -> tuple[str, int | None] | None:
    """ComfyUI's name of a layer, and the part of it; None where it has none."""
    found = ((re.fullmatch(ours, layer), name, part) for ours, name, part in rules)
    return next(((match.expand(name), part) for match, name, part in found if match), None)


def fused(rules: Rules, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights (rows, columns) by diffusers' names as ComfyUI keeps them."""
    parts: dict[str, dict[int, Tensor]] = {}
    for layer, weight in weights.items():
        name, part = theirs(rules, layer) or (layer, None)
        parts.setdefault(name, {})[part or 0] = weight
    return {name: torch.cat([own[index] for index in sorted(own)]).detach() for name, own in parts.items()}


@pytest.mark.parametrize(("kind", "rules"), [("klein", KLEIN), ("z-image", Z_IMAGE)])
@pytest.mark.parametrize("feed_forward", [False, True])
def test_every_layer_of_a_file_finds_its_place_and_does_there_what_it_does_here(
    kind: str, rules: Rules, feed_forward: bool, tmp_path: Path
) -> None:
    base = bare_base(kind)
    endings = base.lora.chosen(feed_forward=feed_forward, convolutions=False)
    adapter.attach(base.denoiser, 4, 8.0, endings, 0)
    generator = torch.Generator().manual_seed(1)
    for parameter in trainable_parameters(base.denoiser).values():
        parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    layers: dict[str, Any] = {
        name: module for name, module in base.denoiser.named_modules() if hasattr(module, "lora_A")
    }
    bare = fused(rules, {name: layer.base_layer.weight for name, layer in layers.items()})
    tuned = fused(
        rules, {name: layer.base_layer.weight + layer.get_delta_weight("default") for name, layer in layers.items()}
    )
    files.export_diffusers(base, tmp_path / "lora.safetensors", ABOUT)
    pairs = load_file(tmp_path / "lora.safetensors")
    named = {key.rpartition(".lora_")[0] for key in pairs}
    assert len(named) == len(layers)
    for key in named:
        layer = key.removeprefix("transformer.")
        place = theirs(rules, layer)
        assert key.startswith("transformer.") and place is not None, f"ComfyUI would drop {key}"
        name, part = place
        change = pairs[f"{key}.lora_B.weight"].float() @ pairs[f"{key}.lora_A.weight"].float()
        scale = pairs[f"{key}.alpha"] / 4 if f"{key}.alpha" in pairs else 1.0  # all that it knows of alpha
        rows = slice(None) if part is None else slice(part * len(change), (part + 1) * len(change))
        bare[name][rows] += scale * change
    for name, weight in tuned.items():
        torch.testing.assert_close(bare[name], weight, rtol=1e-3, atol=2e-3)
