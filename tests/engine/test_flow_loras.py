"""Others' LoRA files for FLUX.2 klein and Z-Image, by the names of ai-toolkit, ComfyUI and musubi: applied exactly, or refused.

klein           diffusion_model.double_blocks.0.img_attn.qkv.lora_A.weight (ai-toolkit, ComfyUI), one layer for q, k and v
                lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight with .alpha (musubi)
Z-Image         diffusion_model.layers.0.attention.to_q.lora_A.weight (ai-toolkit)
                lora_unet_layers_0_attention_to_q.lora_down.weight with .alpha (musubi)
both            transformer.<name in diffusers>.lora_A.weight (diffusers)
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from apt_engine.bases.base import BaseModel
from tests.foreign_loras import Layer, Row, check
from tests.klein import toy_klein
from tests.z_image import toy_z_image

BASES: dict[str, BaseModel] = {"klein": toy_klein(), "z-image": toy_z_image()}
RANK, ALPHA = 4, 2.0
# Of klein's layers here, the names of one file's layer for each.
ORIGINAL = {
    "double_blocks.1.img_attn.qkv": [f"transformer_blocks.1.attn.to_{part}" for part in "qkv"],
    "double_blocks.1.txt_attn.qkv": [f"transformer_blocks.1.attn.add_{part}_proj" for part in "qkv"],
    "double_blocks.1.img_attn.proj": ["transformer_blocks.1.attn.to_out.0"],
    "double_blocks.1.txt_attn.proj": ["transformer_blocks.1.attn.to_add_out"],
    "double_blocks.1.img_mlp.0": ["transformer_blocks.1.ff.linear_in"],
    "double_blocks.1.txt_mlp.2": ["transformer_blocks.1.ff_context.linear_out"],
    "single_blocks.0.linear1": ["single_transformer_blocks.0.attn.to_qkv_mlp_proj"],
    "single_blocks.0.linear2": ["single_transformer_blocks.0.attn.to_out"],
}
OWN = {
    name: [name]
    for name in (
        "layers.0.attention.to_q",
        "layers.3.attention.to_out.0",
        "noise_refiner.0.attention.to_v",
        "context_refiner.0.attention.to_k",
        "layers.1.feed_forward.w2",
    )
}
DIFFUSERS = {name: [name] for names in ORIGINAL.values() for name in names}
Pair = tuple[Tensor, Tensor]


def weight_of(family: str, name: str) -> Tensor:
    return BASES[family].denoiser.get_parameter(f"{name}.weight")


def dotted(prefix: str) -> Callable[[str, Pair], dict[str, Tensor]]:
    return lambda name, pair: dict(
        zip((f"{prefix}{name}.lora_A.weight", f"{prefix}{name}.lora_B.weight"), pair, strict=True)
    )


def kohya(name: str, pair: Pair) -> dict[str, Tensor]:
    stem = f"lora_unet_{name.replace('.', '_')}"
    tensors = zip((f"{stem}.lora_down.weight", f"{stem}.lora_up.weight"), pair, strict=True)
    return {**dict(tensors), f"{stem}.alpha": torch.tensor(ALPHA)}


def row_of(family: str, name: str, names: dict[str, list[str]], write: Callable[[str, Pair], dict[str, Tensor]]) -> Row:
    generator = torch.Generator().manual_seed(0)
    tensors: dict[str, Tensor] = {}
    layers: list[Layer] = []
    for theirs, ours in names.items():
        weights = [weight_of(family, own) for own in ours]
        down = torch.randn(RANK, weights[0].shape[1], generator=generator)
        ups = [torch.randn(len(weight), RANK, generator=generator) for weight in weights]
        tensors |= write(theirs, (down, torch.cat(ups)))
        alpha = ALPHA if write is kohya else float(RANK)
        layers += [
            Layer(part="transformer", name=own, down=down, up=up, alpha=alpha)
            for own, up in zip(ours, ups, strict=True)
        ]
    return Row(name=f"{family} {name}", family=family, tensors=tensors, layers=layers)


ROWS = [
    row_of("klein", "ai-toolkit", ORIGINAL, dotted("diffusion_model.")),
    row_of("klein", "PEFT, original names", ORIGINAL, dotted("base_model.model.")),
    row_of("klein", "musubi", ORIGINAL, kohya),
    row_of("klein", "diffusers", DIFFUSERS, dotted("transformer.")),
    row_of("klein", "diffusers names in ComfyUI's prefix", DIFFUSERS, dotted("diffusion_model.")),
    row_of("z-image", "ai-toolkit", OWN, dotted("diffusion_model.")),
    row_of("z-image", "musubi", OWN, kohya),
    row_of("z-image", "diffusers", OWN, dotted("transformer.")),
]


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_file_is_applied_exactly(row: Row, tmp_path: Path) -> None:
    assert check(row, BASES[row.family], tmp_path / "lora.safetensors") == ""


@pytest.mark.parametrize("family", BASES)
def test_a_layer_that_the_base_does_not_have_is_named(family: str, tmp_path: Path) -> None:
    """diffusers drops one in kohya's layout without a word."""
    row = next(row for row in ROWS if row.name == f"{family} musubi")
    foreign = kohya("double_blocks.1.img_head" if family == "klein" else "layers.99.attention.to_q", _pair(16, 16))
    with_more = Row(
        name=row.name,
        family=family,
        tensors=row.tensors | foreign,
        layers=row.layers,
        words=f"1 of {len(row.layers) + 1} layers of lora.safetensors are not in",
    )
    assert check(with_more, BASES[family], tmp_path / "lora.safetensors") == ""


@pytest.mark.parametrize(
    ("family", "names", "write"),
    [
        ("klein", ORIGINAL, dotted("diffusion_model.")),
        ("klein", DIFFUSERS, dotted("transformer.")),
        ("z-image", OWN, kohya),
    ],
    ids=["klein ai-toolkit", "klein diffusers", "z-image musubi"],
)
def test_the_lora_of_a_larger_model_is_refused_in_a_sentence(
    family: str, names: dict[str, list[str]], write: Callable[[str, Pair], dict[str, Tensor]], tmp_path: Path
) -> None:
    """Such as one for klein's 9B given to the 4B: the same names, wider layers."""
    tensors: dict[str, Tensor] = {}
    for theirs, ours in names.items():
        outputs, inputs = weight_of(family, ours[0]).shape
        tensors |= write(theirs, _pair(2 * inputs, 2 * outputs * len(ours)))
    row = Row(name="wider", family=family, tensors=tensors, layers=[], words="was made for another base model")
    assert check(row, BASES[family], tmp_path / "lora.safetensors") == ""


@pytest.mark.parametrize(("family", "other"), [("klein", "z-image"), ("z-image", "klein")])
def test_the_lora_of_the_other_family_is_refused_in_a_sentence(family: str, other: str, tmp_path: Path) -> None:
    for row in ROWS:
        if row.family == other:
            wrong = Row(name=row.name, family=family, tensors=row.tensors, layers=[], words="toy-")
            assert check(wrong, BASES[family], tmp_path / "lora.safetensors") == "", row.name


def _pair(inputs: int, outputs: int) -> Pair:
    return torch.ones(RANK, inputs), torch.ones(outputs, RANK)
