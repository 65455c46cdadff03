"""LoHa, LoKr, DoRA and DyLoRA of other programs, through PEFT's own layers where they map; each tensor is used or named.

    LoHa   (w1_a w1_b) * (w2_a w2_b), elementwise                       hada_w1_a ... hada_t2
    LoKr   w1 (x) w2, the Kronecker product, each whole or of a rank     lokr_w1, lokr_w1_a ... lokr_t2
    DoRA   a LoRA, and the length of each of the weight's rows           dora_scale
    DyLoRA a LoRA, of convolutions one or both halves flat               lora_down, lora_up

times alpha / rank, where there is a rank. Layers are named as in kohya's layout.
"""

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.tuners.lycoris_utils import LycorisConfig, LycorisLayer
from torch import Tensor, nn

from apt_engine.bases.base import BaseModel
from apt_engine.errors import LoraError
from apt_engine.lora import kohya
from apt_engine.lora.adapter import ADAPTER, bare, base_weight

LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
MAGNITUDE = ".dora_scale"
_RANKED = ("hada_w1_b", "lokr_w2_b", "lokr_w1_b")  # tensors whose first side is the rank, those that count first


@dataclass(eq=False)
class _Layer:
    """A layer of a file: the module it belongs to, and its tensors."""

    part: nn.Module
    name: str
    module: nn.Module
    tensors: dict[str, Tensor] = field(default_factory=dict)


def is_lycoris(keys: Iterable[str]) -> bool:
    """Whether a file with these keys is a LoHa or a LoKr."""
    return any(key.rpartition(".")[2] in LOHA + LOKR for key in keys)


def load(base: BaseModel, path: Path, tensors: dict[str, Tensor], adapter: str = ADAPTER) -> list[str]:
    """Put a LoHa or LoKr on a base, at full strength, around what it has; returns sentences on what was left out.

    Raises:
        LoraError: it is of another base model.
    """
    found, left = _layers_of(base, tensors)
    layers = [layer for layer in found if not layer.tensors.keys().isdisjoint(LOHA + LOKR)]
    left += [f"{layer.name}.{kind}" for layer in found if layer not in layers for kind in layer.tensors]
    if not layers:
        raise LoraError(f"The file {path} was made for another base model: none of its layers is in {base.name}.")
    kinds = {True: LoHaConfig(r=1, alpha=1), False: LoKrConfig(r=1, alpha=1)}
    for is_loha, config in kinds.items():
        chosen = [layer for layer in layers if (LOHA[0] in layer.tensors) is is_loha]
        for part in dict.fromkeys(layer.part for layer in chosen):
            _inject(part, config, [layer.name for layer in chosen if layer.part is part], adapter)
        for layer in chosen:
            left += _fill(base, path, layer, adapter)
    return _told(path, left)


def with_kernels(base: BaseModel, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a LoRA, where DyLoRA flattened a convolution's A (r, in * h * w) and B (out, r) with their kernels."""
    found = dict(tensors)
    for name, _, _, module in _named(base):
        layer, down, up = bare(module), f"{name}.lora_down.weight", f"{name}.lora_up.weight"
        if not isinstance(layer, nn.Conv2d) or down not in found or up not in found:
            continue
        shape = layer.weight.shape[1:]
        if found[down].ndim == 2 and found[down].shape[1] == shape.numel():
            found[down] = found[down].view(-1, *shape)
        if found[up].ndim == 2:
            found[up] = found[up][..., None, None]
    return found


def apply_magnitudes(base: BaseModel, path: Path, tensors: dict[str, Tensor], adapter: str = ADAPTER) -> list[str]:
    """Make an attached LoRA a DoRA where a file says so; returns sentences on what was left out."""
    layers, left = _layers_of(base, {key: value for key, value in tensors.items() if key.endswith(MAGNITUDE)})
    for layer in layers:
        own, magnitude = layer.module, layer.tensors[MAGNITUDE.removeprefix(".")]
        # Some programs keep the length of columns, which PEFT has no place for.
        if not isinstance(own, LoraLayer) or adapter not in own.lora_A or magnitude.numel() != len(base_weight(own)):
            left.append(f"{layer.name}{MAGNITUDE}")
            continue
        holder, weight = _made_dora(own, adapter), base_weight(own)
        shape = holder.weight.shape
        holder.register_buffer("trained", magnitude.float().to(weight.device).view(shape), persistent=False)
        holder.register_buffer("bare", weight.float().flatten(1).norm(dim=1).view(shape), persistent=False)
        holder.weight.requires_grad_(False).copy_(holder.trained)
    return _told(path, left)


def _made_dora(layer: LoraLayer, adapter: str) -> Any:
    """Give a LoRA the module that holds the lengths of rows, by PEFT's own way."""
    config, own = LoraConfig(use_dora=True), cast("Any", layer)
    variant = own.resolve_lora_variant(config=config)
    own.lora_variant[adapter] = variant
    variant.init(own, adapter, config=config)
    return own.lora_magnitude_vector[adapter]


def set_magnitudes(part: nn.Module, strength: float, adapter: str = ADAPTER) -> None:
    """Scale what DoRA does to the length of rows: 0 leaves them as the base model has them."""
    for layer in part.modules():
        if isinstance(layer, LoraLayer) and adapter in layer.lora_magnitude_vector:
            holder: Any = layer.lora_magnitude_vector[adapter]
            holder.weight.data.copy_(holder.bare + strength * (holder.trained - holder.bare))


def _layers_of(base: BaseModel, tensors: dict[str, Tensor]) -> tuple[list[_Layer], list[str]]:
    """The layers of a file, and the keys that belong to none."""
    known = {name: (part, layer, module) for name, part, layer, module in _named(base)}
    found: dict[str, _Layer] = {}
    left: list[str] = []
    for key, value in tensors.items():
        stem, _, kind = key.rpartition(".")
        if stem not in known:
            left.append(key)
            continue
        found.setdefault(stem, _Layer(*known[stem])).tensors[kind] = value
    return list(found.values()), left


def _named(base: BaseModel) -> Iterator[tuple[str, nn.Module, str, nn.Module]]:
    """Every layer by each name that files have for it: the name, its part, its own name there, the layer itself."""
    encoders = kohya.parts_beside(base)
    for number, encoder in enumerate(encoders, 1):
        prefix = kohya.text_prefix(number, len(encoders))
        for name, module in _outermost(encoder):
            yield f"{prefix}text_model_{name.removeprefix('text_model.').replace('.', '_')}", encoder, name, module
    for name, module in _outermost(base.denoiser):
        for known in kohya.known_as(base.lora.kohya, name):
            yield known, base.denoiser, name, module


def _outermost(part: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers that can be changed; one with a LoRA as a whole."""
    for name, module in part.named_modules():
        is_inside = ".base_layer" in name or ".lora_" in name
        if isinstance(module, nn.Linear | nn.Conv2d | LoraLayer | LycorisLayer) and not is_inside:
            yield name, module


def _inject(part: nn.Module, config: LycorisConfig, names: list[str], adapter: str) -> None:
    config.target_modules = names  # pyright: ignore[reportAttributeAccessIssue]  # whole names, each of one layer
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore"):  # that another LoRA is there
        inject_adapter_in_model(config, part, adapter)


def _fill(base: BaseModel, path: Path, layer: _Layer, adapter: str) -> list[str]:
    """Give an injected layer the tensors of a file in place of those drawn; returns the keys that have no place."""
    own = layer.part.get_submodule(layer.name)
    assert isinstance(own, LycorisLayer)
    tensors = dict(layer.tensors)
    ranked = next((tensors[name] for name in _RANKED if name in tensors), None)
    rank = float(len(ranked)) if ranked is not None else 1.0
    alpha = float(tensors.pop("alpha", torch.tensor(rank))) if ranked is not None else 1.0
    tensors.pop("alpha", None)  # of a layer without a rank it says nothing
    own.r[adapter], own.alpha[adapter], own.scaling[adapter] = rank, alpha, alpha / rank
    for name in (*LOHA, *LOKR):
        holder = getattr(own, name, None)
        if isinstance(holder, nn.ParameterDict):
            if adapter in holder:
                del holder[adapter]
            if name in tensors:
                value = tensors.pop(name).float().to(base_weight(own).device)
                holder[adapter] = nn.Parameter(value, requires_grad=False)
    try:
        with torch.no_grad():
            is_right = own.get_delta_weight(adapter).shape == base_weight(own).shape
    except (RuntimeError, KeyError):
        is_right = False
    if not is_right:
        raise LoraError(
            f"The file {path} was made for another base model than {base.name} or is damaged ({layer.name} has another size); "
            "choose the base it was trained on."
        )
    return [f"{layer.name}.{name}" for name in tensors]


def _told(path: Path, left: list[str]) -> list[str]:
    if not left:
        return []
    some = ", ".join(sorted(left)[:3]) + (" and others" if len(left) > 3 else "")
    return [f"Tensors of {path.name} that have no place in this base model were left out ({len(left)}): {some}."]
