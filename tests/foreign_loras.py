"""LoRA files as other programs write them, at toy size, by their documented names; and files that are no LoRA of these bases.

kohya           sd-scripts, OneTrainer: lora_unet_down_blocks_..., lora_te_text_model_... (XL: lora_te1_, lora_te2_), with alphas
kohya original  sd-scripts for XL: lora_unet_input_blocks_...
PEFT            diffusers' training scripts since 0.22: unet....lora_A.weight
diffusers 0.20  unet....to_q.lora.down.weight, text_encoder....q_proj.lora_linear_layer.down.weight
diffusers 0.16  unet....processor.to_q_lora.down.weight
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from apt_engine.bases.base import BaseModel
from apt_engine.bases.original_layout import original_name_of
from apt_engine.errors import LoraError
from apt_engine.lora import foreign
from apt_engine.lora.adapter import ADAPTER

TOLERANCE = 1e-6
STEM = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
PEFT_STEM = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
TURNING = (  # weights by matrices: the kind, a tensor's name, its shape
    ("OFT", f"{STEM}.oft_blocks", (2, 4, 4)),
    ("OFT", f"{STEM.replace('lora', 'oft', 1)}.oft_blocks", (2, 4, 4)),
    ("OFT", f"{STEM}.oft_diag", (2, 4, 4)),
    ("OFT", f"{PEFT_STEM}.oft_R.weight", (4, 4)),
    ("OFT", f"{PEFT_STEM}.oft_r", (2, 4, 4)),
    ("BOFT", f"{STEM}.oft_blocks", (1, 2, 4, 4)),
    ("BOFT", f"{PEFT_STEM}.boft_R", (1, 2, 4, 4)),
)
KOHYA = ("lora_down.weight", "lora_up.weight")
OTHER_KINDS = {
    "GLoRA": ("a1.weight", "a2.weight", "b1.weight", "b2.weight"),
    "IA3": ("weight", "on_input"),
    "Tucker": ("lora_mid.weight", "lora_down.weight", "lora_up.weight"),
}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of a LoRA: its part of the pipeline, its name there, up and down, and alpha (the rank where there is none)."""

    part: str
    name: str
    down: Tensor
    up: Tensor
    alpha: float

    @property
    def delta(self) -> Tensor:
        """What it adds to the weight, flat but for the outputs."""
        return self.up.float().flatten(1) @ self.down.float().flatten(1) * (self.alpha / self.down.shape[0])


Writer = Callable[[BaseModel, list[Layer]], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One file.

    Attributes:
        name: says all of it.
        family: sd or sdxl.
        tensors: of the file.
        layers: what they are to become; empty where it is to be refused.
        words: that the refusal, or the sentence on what is left out, must have.
    """

    name: str
    family: str
    tensors: dict[str, Tensor]
    layers: list[Layer]
    words: str = ""
    header: dict[str, str] | None = None


def draw_layers(
    base: BaseModel, parts: tuple[str, ...], kinds: str, *, is_mixed: bool, dtype: torch.dtype
) -> list[Layer]:
    """Random weights for the layers of some parts.

    Args:
        base: without a LoRA.
        parts: of its pipeline.
        kinds: attention, transformer (with feed-forward and projections), or all (convolutions too).
        is_mixed: whether ranks and alphas differ from layer to layer.
        dtype: of the weights.
    """
    generator = torch.Generator().manual_seed(len(parts) + len(kinds))
    made: list[Layer] = []
    for part in parts:
        for name, module in getattr(base.pipeline, part).named_modules():
            if not _is_wanted(part, name, module, kinds):
                continue
            rank = 2 + len(made) % 3 if is_mixed else 4
            outputs, inputs, *kernel = module.weight.shape
            down = torch.randn(rank, inputs, *kernel, generator=generator).to(dtype)
            up = torch.randn(outputs, rank, *(1 for _ in kernel), generator=generator).to(dtype)
            made.append(Layer(part=part, name=name, down=down, up=up, alpha=1.0 + len(made) % 2 if is_mixed else 2.0))
    return made


def rows(bases: dict[str, BaseModel]) -> Iterator[Row]:
    """All files, for toys of both families."""
    for family, base in bases.items():
        for name, write in WRITERS.items():
            if name == "kohya original" and family == "sd":
                continue
            for has_text, kinds, is_mixed in COMBINATIONS:
                if kinds == "all" and name == "diffusers 0.16":
                    continue  # it trained attention alone
                parts = PARTS[family] if has_text else PARTS[family][:1]
                dtype = torch.float16 if is_mixed else torch.float32
                layers = draw_layers(base, parts, kinds, is_mixed=is_mixed, dtype=dtype)
                if "kohya" not in name:  # no alpha in the file means the rank
                    layers = [dataclasses.replace(layer, alpha=float(layer.down.shape[0])) for layer in layers]
                text = " with text encoders" if has_text else ""
                mixed = ", mixed ranks and alphas, fp16" if is_mixed else ""
                yield Row(
                    name=f"{family} {name} {kinds}{text}{mixed}",
                    family=family,
                    tensors=write(base, layers),
                    layers=layers,
                )
        yield from _dyloras(family, base)
    yield from _oddities(bases)


def check(row: Row, base: BaseModel, path: Path) -> str:
    """Empty if a file is applied exactly, or refused as it should be; else what is wrong."""
    save_file(row.tensors, path, row.header)
    try:
        told = " ".join(foreign.load(base, path))
    except LoraError as error:
        sentence = str(error)
        return "" if not row.layers and row.words in sentence and "\n" not in sentence else f"refused: {sentence}"
    if not row.layers:
        return "was loaded"
    if row.words not in told or (told and not row.words):
        return f"said: {told}"
    deltas = dict(_deltas(base))
    wanted = {f"{layer.part}.{layer.name}": layer.delta for layer in row.layers}
    if deltas.keys() != wanted.keys():
        return f"{len(deltas.keys() ^ wanted.keys())} layers are elsewhere"
    worst = max(float((deltas[name] - delta).abs().max()) for name, delta in wanted.items())
    return "" if worst < TOLERANCE else f"differs by {worst:.1e}"


def _kohya(base: BaseModel, layers: list[Layer], *, is_original: bool = False) -> dict[str, Tensor]:
    names = base.lora.kohya
    assert names
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        if layer.part == "unet":
            name = original_name_of(f"{layer.name}.weight", base.pipeline.unet.config.layers_per_block)
            stem = "lora_unet_" + (name.removesuffix(".weight") if is_original else layer.name)
        else:
            number = "" if names.base_model_version == "sd_v1" else "2" if layer.part.endswith("2") else "1"
            stem = f"lora_te{number}_text_model_{layer.name.removeprefix('text_model.')}"
        stem = stem.replace(".", "_")
        tensors |= {f"{stem}.lora_down.weight": layer.down, f"{stem}.lora_up.weight": layer.up}
        tensors[f"{stem}.alpha"] = torch.tensor(layer.alpha)
    return tensors


def _original(base: BaseModel, layers: list[Layer]) -> dict[str, Tensor]:
    return _kohya(base, layers, is_original=True)


def _in_diffusers(
    layers: list[Layer], unet_endings: tuple[str, str], text_endings: tuple[str, str]
) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for layer in layers:
        is_text = layer.part != "unet"
        name = f"text_model.{layer.name.removeprefix('text_model.')}" if is_text else layer.name
        for ending, value in zip(text_endings if is_text else unet_endings, (layer.down, layer.up), strict=True):
            tensors[f"{layer.part}.{name}{ending}"] = value
    return tensors


def _peft(_base: BaseModel, layers: list[Layer]) -> dict[str, Tensor]:
    endings = (".lora_A.weight", ".lora_B.weight")
    return _in_diffusers(layers, endings, endings)


def _diffusers_20(_base: BaseModel, layers: list[Layer]) -> dict[str, Tensor]:
    text = (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight")
    return _in_diffusers(layers, (".lora.down.weight", ".lora.up.weight"), text)


def _diffusers_16(_base: BaseModel, layers: list[Layer]) -> dict[str, Tensor]:
    text = (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight")
    tensors = _in_diffusers(layers, ("_lora.down.weight", "_lora.up.weight"), text)
    return {
        re.sub(r"(attn\d)\.(to_\w+?)(\.0)?_lora", r"\1.processor.\2_lora", key): value for key, value in tensors.items()
    }


def _dyloras(family: str, base: BaseModel) -> Iterator[Row]:
    """Convolutions as LyCORIS' DyLoRA writes them: B without a kernel, and of older versions A flat as well."""
    layers = draw_layers(base, PARTS[family], "all", is_mixed=False, dtype=torch.float32)
    written = _kohya(base, layers, is_original=family == "sdxl")
    flat = {"DyLoRA": (".lora_up.weight",), "DyLoRA of an older version": (".lora_up.weight", ".lora_down.weight")}
    for name, endings in list(flat.items())[: 1 if family == "sdxl" else 2]:
        tensors = {key: value.flatten(1) if key.endswith(endings) else value for key, value in written.items()}
        yield Row(name=f"{family} {name}", family=family, tensors=tensors, layers=layers)


def _oddities(bases: dict[str, BaseModel]) -> Iterator[Row]:
    """What is no LoRA of a base, and what is one with something beside it."""
    layers = {
        family: draw_layers(base, ("unet",), "attention", is_mixed=False, dtype=torch.float32)
        for family, base in bases.items()
    }
    for kind, name, shape in TURNING:
        tensors = {name: torch.zeros(shape)}
        yield _refused(f"{kind} {name.rpartition('.')[2]}", "sd", tensors, f"is a file of the kind {kind}, which")
    held = {f"{STEM}.oft_blocks": torch.zeros(2, 4, 4), f"{STEM}.alpha": torch.tensor(0.0)}  # LyCORIS' constraint
    yield _refused("OFT with an alpha of 0", "sd", held, "is a file of the kind OFT, which")
    whole = {f"{STEM}.diff": torch.zeros(8, 8), f"{STEM}.diff_b": torch.zeros(8)}
    yield _refused("LyCORIS full", "sd", whole, "is a file of the kind full differences of weights, which")
    for kind, keys in OTHER_KINDS.items():
        yield _refused(kind, "sd", _few(f"{STEM}.{key}" for key in keys), kind)
    yield _refused("textual inversion", "sd", _few(["emb_params"]), "textual inversion")
    yield _refused("no LoRA", "sd", _few(["weight"]), "is not a LoRA file")
    flux = _few(f"transformer.single_transformer_blocks.0.attn.to_q.lora_{side}.weight" for side in "AB")
    yield _refused("FLUX", "sdxl", flux, "made for FLUX")
    for family, other in (("sd", "sdxl"), ("sdxl", "sd")):
        for write in (_kohya, _peft):
            name = f"{other} on {family} {write.__name__}"
            yield _refused(name, family, write(bases[other], layers[other]), "another base")
    elsewhere = _few(f"lora_te_text_model_encoder_layers_9_mlp_fc1.{key}" for key in KOHYA)
    words = "whose text_encoder has none of the file's layers for it, such as encoder.layers.9.mlp.fc1; choose the base"
    yield _refused("a text encoder of another model", "sd", _kohya(bases["sd"], layers["sd"]) | elsewhere, words)
    yield from _beside(_kohya(bases["sd"], layers["sd"]), layers["sd"])


def _beside(tensors: dict[str, Tensor], layers: list[Layer]) -> Iterator[Row]:
    """A file of kohya's, its layers, and what is wrong with it or stands beside them."""
    header = {"ss_base_model_version": "sdxl_base_v1-0"}
    yield dataclasses.replace(_refused("header of XL", "sd", tensors, "Stable Diffusion XL"), header=header)
    half = {key: value for key, value in tensors.items() if not key.endswith("lora_up.weight")}
    yield _refused("half of each pair", "sd", half, "is damaged or not a LoRA")
    too_many = {
        **_few(f"{STEM}_7.{key}" for key in KOHYA),
        f"{STEM}_7.alpha": torch.tensor(1.0),
    }
    for name, more, words in (
        ("DoRA", {f"{STEM}.dora_scale": torch.zeros(1, 3)}, "dora_scale"),
        ("a bias beside it", {f"{STEM}.diff_b": torch.zeros(8)}, "being no LoRA, 1 of its tensors"),
        ("norms beside it", {f"{STEM}.w_norm": torch.zeros(8), f"{STEM}.b_norm": torch.zeros(8)}, "2 of its tensors"),
        ("a layer too many", too_many, "were left out"),
    ):
        yield Row(name=name, family="sd", tensors=tensors | more, layers=layers, words=words)


def _refused(name: str, family: str, tensors: dict[str, Tensor], words: str) -> Row:
    return Row(name=name, family=family, tensors=tensors, layers=[], words=words)


def _few(names: Iterable[str]) -> dict[str, Tensor]:
    return {name: torch.zeros(4, 4) for name in names}


def _is_wanted(part: str, name: str, module: nn.Module, kinds: str) -> bool:
    if not isinstance(module, nn.Linear | nn.Conv2d):
        return False
    if part != "unet":
        return ".layers." in name and (kinds == "all" or "self_attn" in name)
    is_attention = re.search(r"attn\d\.to_", name) is not None
    return is_attention or (kinds == "all" and ("attentions" in name or "resnets" in name or "downsamplers" in name))


def _deltas(base: BaseModel) -> Iterator[tuple[str, Tensor]]:
    for part in ("unet", "transformer", "text_encoder", "text_encoder_2"):
        for name, module in getattr(base.pipeline, part, nn.Module()).named_modules():
            if isinstance(module, LoraLayer):
                delta: Tensor = module.get_delta_weight(ADAPTER)  # pyright: ignore[reportAttributeAccessIssue]
                yield f"{part}.{name}", delta.detach().flatten(1)


PARTS = {"sd": ("unet", "text_encoder"), "sdxl": ("unet", "text_encoder", "text_encoder_2")}
COMBINATIONS = (
    (False, "attention", False),
    (True, "attention", True),
    (False, "all", False),
    (False, "all", True),
    (True, "all", True),
)
WRITERS: dict[str, Writer] = {
    "kohya": _kohya,
    "kohya original": _original,
    "PEFT": _peft,
    "diffusers 0.20": _diffusers_20,
    "diffusers 0.16": _diffusers_16,
}
