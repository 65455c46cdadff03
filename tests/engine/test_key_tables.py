"""Every key we write is one that ComfyUI, AUTOMATIC1111 and sd-scripts look for, by tables built from those programs' rules.

The rules, not the code, as they stood in 2024 to 2026:

ComfyUI       `lora_unet_` and the name of a weight in the original checkpoint or in diffusers, dots made underscores; texts
              `lora_te_` or `lora_te1_`, XL's second `lora_te2_`, and CLIP's names as transformers has them
AUTOMATIC1111 modules are called as in the original checkpoint; diffusers' names are translated by the numbers of their blocks,
              names that are no such are taken as the original's; text encoders of 2.x and XL's second are OpenCLIP's
sd-scripts    1.x and 2.x: diffusers' names of what is linear or a convolution in transformers, residual blocks and resizers;
              XL: the original's names of the same
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from apt_engine.bases.base import BaseModel
from apt_engine.bases.checkpoints import ASSETS
from apt_engine.lora import adapter, kohya
from benchmarks.original_layout import real_tensors
from tests.engine.test_bases import stable_diffusion, stable_diffusion_xl

FAMILIES = ("sd15", "sd2", "sdxl")
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
RESIDUAL = {
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
TEXT = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")
OPEN_CLIP = {"mlp_fc1": "mlp_c_fc", "mlp_fc2": "mlp_c_proj", "self_attn": "attn"}


@dataclass(frozen=True)
class Shape:
    """Of a U-Net in the original program's words: transformers in each level, and in the middle; 0 for none."""

    depths: tuple[int, ...]
    middle: int


SHAPES = {"sd15": Shape((1, 1, 1, 0), 1), "sd2": Shape((1, 1, 1, 0), 1), "sdxl": Shape((0, 2, 10), 10)}


def layers_of(shape: Shape) -> Iterator[tuple[str, str]]:
    """Names in the original checkpoint and in diffusers, of all that is linear or a convolution in the blocks."""
    last = len(shape.depths) - 1
    number = 1  # behind the first convolution
    for level, depth in enumerate(shape.depths):
        for layer in range(2):
            yield from _residual(f"input_blocks.{number}.0", f"down_blocks.{level}.resnets.{layer}")
            yield from _transformer(f"input_blocks.{number}.1", f"down_blocks.{level}.attentions.{layer}", depth)
            number += 1
        if level < last:
            yield f"input_blocks.{number}.0.op", f"down_blocks.{level}.downsamplers.0.conv"
            number += 1
    yield from _residual("middle_block.0", "mid_block.resnets.0")
    yield from _transformer("middle_block.1", "mid_block.attentions.0", shape.middle)
    yield from _residual("middle_block.2", "mid_block.resnets.1")
    for level, depth in enumerate(reversed(shape.depths)):
        for layer in range(3):
            number = 3 * level + layer
            yield from _residual(f"output_blocks.{number}.0", f"up_blocks.{level}.resnets.{layer}")
            yield from _transformer(f"output_blocks.{number}.1", f"up_blocks.{level}.attentions.{layer}", depth)
        if level < last:
            place = 2 if depth else 1
            yield f"output_blocks.{number}.{place}.conv", f"up_blocks.{level}.upsamplers.0.conv"


def _residual(original: str, diffusers: str) -> Iterator[tuple[str, str]]:
    yield from ((f"{original}.{name}", f"{diffusers}.{other}") for name, other in RESIDUAL.items())


def _transformer(original: str, diffusers: str, depth: int) -> Iterator[tuple[str, str]]:
    """Names inside a transformer are the same in both."""
    inside = [f"{attention}.{layer}" for attention in ("attn1", "attn2") for layer in ATTENTION]
    inside += ["ff.net.0.proj", "ff.net.2"]
    names = [f"transformer_blocks.{block}.{layer}" for block in range(depth) for layer in inside]
    yield from (
        (f"{original}.{name}", f"{diffusers}.{name}") for name in (["proj_in", "proj_out", *names] if depth else [])
    )


def comfyui(family: str) -> set[str]:
    unet = {f"lora_unet_{_flat(name)}" for pair in layers_of(SHAPES[family]) for name in pair}
    first, second = _text_layers(family)
    texts = {f"{start}_{name}" for start in ("lora_te", "lora_te1") for name in first}
    return unet | texts | {f"lora_te2_{name}" for name in second}


def automatic1111(family: str, key: str) -> bool:
    """Whether the program finds a module for the name of a layer in a file."""
    modules = {f"diffusion_model_{_flat(name)}" for name, _ in layers_of(SHAPES[family])}
    first, second = _text_layers(family)
    if family == "sd15":
        modules |= {f"transformer_{name}" for name in first}
    elif family == "sd2":
        modules |= {f"model_{_open_clip(name)}" for name in first}
    else:
        modules |= {f"0_transformer_{name}" for name in first} | {f"1_model_{_open_clip(name)}" for name in second}
    return _translated(family, key) in modules


def _translated(family: str, key: str) -> str:
    if found := re.fullmatch(r"lora_unet_(down|up)_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)", key):
        direction, block, part, layer, rest = found.groups()
        number = 3 * int(block) + int(layer) + (direction == "down")
        place = "input" if direction == "down" else "output"
        rest = {_flat(other): _flat(name) for name, other in RESIDUAL.items()}.get(rest, rest)
        return f"diffusion_model_{place}_blocks_{number}_{int(part == 'attentions')}_{rest}"
    if found := re.fullmatch(r"lora_unet_mid_block_(attentions|resnets)_(\d+)_(.+)", key):
        part, layer, rest = found.groups()
        rest = {_flat(other): _flat(name) for name, other in RESIDUAL.items()}.get(rest, rest)
        return f"diffusion_model_middle_block_{1 if part == 'attentions' else 2 * int(layer)}_{rest}"
    if found := re.fullmatch(r"lora_te_(text_model_encoder_layers_\d+_.+)", key):
        return f"model_{_open_clip(found[1])}" if family == "sd2" else f"transformer_{found[1]}"
    if found := re.fullmatch(r"lora_te(\d)_(text_model_encoder_layers_\d+_.+)", key):
        return f"0_transformer_{found[2]}" if found[1] == "1" else f"1_model_{_open_clip(found[2])}"
    return key.replace("lora_unet", "diffusion_model")


def sd_scripts(family: str) -> set[str]:
    names = {f"lora_unet_{_flat(pair[0 if family == 'sdxl' else 1])}" for pair in layers_of(SHAPES[family])}
    first, second = _text_layers(family)
    start = "lora_te1" if family == "sdxl" else "lora_te"
    return names | {f"{start}_{name}" for name in first} | {f"lora_te2_{name}" for name in second}


def _text_layers(family: str) -> tuple[list[str], list[str]]:
    """Of the first and of the second text encoder, as transformers names them: 12 layers, 23 of 2.x, 32 of XL's second."""
    counts = {"sd15": (12, 0), "sd2": (23, 0), "sdxl": (12, 32)}[family]
    first, second = (
        [f"text_model_encoder_layers_{layer}_{_flat(name)}" for layer in range(count) for name in TEXT]
        for count in counts
    )
    return first, second


def _open_clip(name: str) -> str:
    name = name.replace("text_model_encoder_layers", "transformer_resblocks")
    for old, new in OPEN_CLIP.items():
        name = name.replace(old, new)
    return name


def _flat(name: str) -> str:
    return name.replace(".", "_")


def exported(family: str) -> set[str]:
    """The layers' names in a file of ours with all that can be trained, for a base of real shape."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(ASSETS / family / "unet"))
    base: BaseModel = stable_diffusion_xl() if family == "sdxl" else stable_diffusion()
    assert base.lora.kohya
    return {kohya.keys(base.lora.kohya, name)[0].partition(".")[0] for name in adapter.layers_of(unet, base.lora.all)}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_we_write_is_one_that_each_program_looks_for(family: str) -> None:
    ours = exported(family)
    assert len(ours) == {"sd15": 204, "sd2": 204, "sdxl": 734}[family]
    assert ours <= comfyui(family)
    assert ours <= sd_scripts(family)
    assert not [key for key in ours if not automatic1111(family, key)]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tables_are_those_of_the_published_models(family: str) -> None:
    """Each name of the original in the tables is a weight of the checkpoint and the other way round, but for both ends."""
    prefix = "model.diffusion_model."
    weights = {
        name.removeprefix(prefix).removesuffix(".weight")
        for name, tensor in real_tensors(family).items()
        if name.startswith(prefix)
        and tensor.ndim > 1
        and not re.search(r"time_embed|label_emb|out\.2|blocks\.0\.0\.weight", name)
    }
    named = {name for name, _ in layers_of(SHAPES[family])}
    assert weights - named == set()
    assert {name for name in named - weights if not name.endswith("skip_connection")} == set()


@pytest.mark.parametrize(
    ("family", "part", "start"),
    [
        ("sd15", "text_encoder", "lora_te"),
        ("sd2", "text_encoder", "lora_te"),
        ("sdxl", "text_encoder", "lora_te1"),
        ("sdxl", "text_encoder_2", "lora_te2"),
    ],
)
def test_names_of_text_encoders_that_we_read_are_the_programs(family: str, part: str, start: str) -> None:
    """Files of others name them so: of all layers of the real encoder that a LoRA can be on."""
    with torch.device("meta"):
        encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(ASSETS / family / part))
    layers = [
        f"{start}_text_model_{_flat(name.removeprefix('text_model.'))}"
        for name, module in encoder.named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    assert len(layers) == {"sd15": 72, "sd2": 138, "sdxl": 72 if part == "text_encoder" else 192}[family]
    assert set(layers) <= comfyui(family) & sd_scripts(family)
    assert all(automatic1111(family, name) for name in layers)
