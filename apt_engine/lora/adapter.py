"""The LoRA on a denoiser: attach it, scale it, switch it off for a pass, set it aside, take it off.

A LoRA adds alpha / r * B A to a layer's weight (out, in): A (r, in) is `lora_A`, B (out, r) is `lora_B`; of a convolution A is
(r, in, height, width) and B (out, r, 1, 1). Layers and parameters are named as the bare denoiser names them.
"""

import contextlib
import math
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from diffusers.loaders.peft import PeftAdapterMixin
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from apt_engine.bases import random
from apt_engine.bases.quantized import PackedLinear
from apt_engine.errors import LoraError

ADAPTER = "default"


def attach(denoiser: nn.Module, rank: int, alpha: float, endings: tuple[str, ...], seed: int) -> None:
    """Freeze a bare denoiser and give some of its layers a LoRA in fp32 that changes nothing yet: A random, B zero.

    A layer's A depends on the seed and the layer's name alone, not on the global random stream.

    Args:
        denoiser: without a LoRA.
        rank: of all layers alike.
        alpha: of all layers alike.
        endings: how the names of the layers end, or whole names; see `LoraLayers`.
        seed: of A.

    Raises:
        LoraError: no layer can take a LoRA, or the rank is larger than a layer's smaller side.
    """
    layers = layers_of(denoiser, endings)
    if not layers:
        raise LoraError("This base model has no layers that a LoRA could train; choose another.")
    _check_rank(layers, rank)
    inject(denoiser, rank, alpha, endings)
    for name, parameter in trainable_parameters(denoiser).items():
        if name.endswith(".lora_A.weight"):
            drawn = torch.empty(parameter.shape)
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=random.generator(seed, 0, 0, name))
            parameter.data.copy_(drawn)


def trainable_parameters(denoiser: nn.Module, adapter: str = ADAPTER) -> dict[str, nn.Parameter]:
    """A and B of every layer by name, `<layer>.lora_A.weight`, in the denoiser's own order; empty without a LoRA."""
    return {
        name.replace(f".{adapter}.", "."): parameter
        for name, parameter in denoiser.named_parameters()
        if name.endswith((f".lora_A.{adapter}.weight", f".lora_B.{adapter}.weight"))
    }


@contextlib.contextmanager
def reference_pass(denoiser: nn.Module) -> Iterator[None]:
    """The base model as it was: adapter off inside, on again after, also after an exception. No gradients inside.

    PEFT's public `disable_adapters` walks through all layers and flips `requires_grad`, 33 ms a step on SDXL's 560 layers;
    the layers' own flag costs 1 ms and leaves gradients alone.
    """
    layers = [module for module in denoiser.modules() if isinstance(module, BaseTunerLayer)]
    before = [layer._disable_adapters for layer in layers]
    try:
        for layer in layers:
            layer._disable_adapters = True
        with torch.no_grad():
            yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer._disable_adapters = was


def set_strength(denoiser: nn.Module, strength: float, adapter: str = ADAPTER) -> None:
    """Scale a LoRA's effect from now on: 0 is the base model, 1 as trained, 2 twice that. Files stay as trained."""
    for layer in _changed_layers(denoiser):
        layer.set_scale(adapter, strength)  # pyright: ignore[reportAttributeAccessIssue]  # of its subclasses


def activate(part: nn.Module, adapters: list[str]) -> None:
    """Let these LoRAs act together, in this order; none of them is trained."""
    for layer in _changed_layers(part):
        layer.set_adapter(adapters, inference_mode=True)


def detach(denoiser: nn.Module) -> None:
    """Take the LoRA off, if there is one; the denoiser's own modules and weights are back in place."""
    if isinstance(denoiser, PeftAdapterMixin) and hasattr(denoiser, "peft_config"):
        denoiser.unload_lora()


@contextlib.contextmanager
def set_aside(denoiser: nn.Module) -> Iterator[None]:
    """The bare denoiser inside, free to take another LoRA; afterwards, also after an exception, it has its own again.

    The same modules and parameters come back, so an optimizer that holds them goes on with them. A second base model would
    cost its whole size again; this costs nothing.
    """
    layers = {name: module for name, module in denoiser.named_modules() if isinstance(module, LoraLayer)}
    said = {name: value for name, value in vars(denoiser).items() if name in ("peft_config", "_hf_peft_config_loaded")}
    detach(denoiser)
    try:
        yield
    finally:
        detach(denoiser)
        for name, layer in layers.items():
            parent, _, own = name.rpartition(".")
            setattr(denoiser.get_submodule(parent), own, layer)
        for name, value in said.items():
            setattr(denoiser, name, value)


@contextlib.contextmanager
def fused(denoiser: nn.Module) -> Iterator[None]:
    """The LoRA inside the weights, at the strength it has now, so that a pass costs what the bare denoiser's does.

    Afterwards, also after an exception, weights and LoRA are as they were, to the bit; what the weights were waits on the host
    meanwhile. In bf16 the LoRA stays beside: of so coarse numbers a small change would leave nothing; of packed ones likewise.
    """
    kept: list[tuple[BaseTunerLayer, Tensor]] = []
    try:
        # One inside another first: a DoRA measures the weight that it finds, which must be the base's own.
        for layer in reversed(_changed_layers(denoiser)):
            if isinstance(layer.get_base_layer(), PackedLinear):
                continue
            weight = base_weight(layer)
            if weight.dtype == torch.bfloat16:
                continue
            kept.append((layer, weight.data.cpu()))  # on a CPU the very tensor
            weight.data = weight.data.clone()
            layer.merge(adapter_names=list(layer.active_adapters))
        yield
    finally:
        for layer, original in reversed(kept):
            weight = base_weight(layer)
            weight.data = original.to(weight.device)
            layer.merged_adapters.clear()


def inject(denoiser: nn.Module, rank: int, alpha: float, endings: tuple[str, ...], adapter: str = ADAPTER) -> None:
    """A LoRA whose weights are still to be set; PEFT freezes the rest, and its draws must not move the global stream."""
    assert isinstance(denoiser, PeftAdapterMixin)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(endings))  # pyright: ignore[reportArgumentType]
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings(action="ignore"):  # that another LoRA is there
        denoiser.add_adapter(config, adapter)
    to_fp32(denoiser)


def layers_of(denoiser: nn.Module, endings: Iterable[str]) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers of a denoiser whose names end so and that can take a LoRA, whether they have one or not."""
    wanted = tuple(f".{ending}" for ending in endings)
    return {
        name: layer
        for name, module in denoiser.named_modules()
        if f".{name}".endswith(wanted) and isinstance(layer := bare(module), nn.Linear | nn.Conv2d)
    }


def bare(module: nn.Module) -> nn.Module:
    """A layer without the LoRAs around it; any other module as it is."""
    return module.get_base_layer() if isinstance(module, BaseTunerLayer) else module


def base_weight(layer: BaseTunerLayer) -> nn.Parameter:
    """The frozen weight that a layer's LoRA adds to."""
    found: Any = layer.get_base_layer()
    return found.weight


def factors(layer: LoraLayer) -> tuple[nn.Parameter, nn.Parameter, float]:
    """A, B and the scale of their product."""
    found: Any = layer
    return found.lora_A[ADAPTER].weight, found.lora_B[ADAPTER].weight, float(found.scaling[ADAPTER])


def lora_layers(denoiser: nn.Module) -> list[LoraLayer]:
    """The layers that have a LoRA."""
    return [module for module in denoiser.modules() if isinstance(module, LoraLayer)]


def _changed_layers(denoiser: nn.Module) -> list[BaseTunerLayer]:
    """The layers that have a LoRA, or one of its relatives in other programs' files."""
    return [module for module in denoiser.modules() if isinstance(module, BaseTunerLayer)]


def copy_weights(weights: dict[str, Tensor], denoiser: nn.Module, adapter: str = ADAPTER) -> None:
    """Set an attached LoRA, in place, to weights named as in `trainable_parameters`."""
    for name, parameter in trainable_parameters(denoiser, adapter).items():
        parameter.data.copy_(weights[name])


def to_fp32(denoiser: nn.Module) -> None:
    """PEFT gives the LoRA the base's format; in half precision most of AdamW's steps would round to nothing."""
    for layer in lora_layers(denoiser):
        layer.lora_A.float()
        layer.lora_B.float()


def _check_rank(layers: dict[str, nn.Linear | nn.Conv2d], rank: int) -> None:
    sides = {name: min(layer.weight.flatten(1).shape) for name, layer in layers.items()}
    name = min(sides, key=sides.__getitem__)
    if rank > sides[name]:
        raise LoraError(
            f"rank cannot be {rank}: layer {name} of this base model allows at most {sides[name]}; set rank to that or less."
        )
