"""LoRA files that other programs wrote, read by diffusers, with every layer of the file accounted for.

sd-scripts and OneTrainer write kohya's layout, diffusers' own scripts PEFT's, older ones two of their own; text encoders and
convolutions may be in it, ranks and alphas may differ from layer to layer. What cannot be applied is named; what is no LoRA is
called what it is.
"""

import math
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError
from torch import Tensor, nn

from apt_engine.bases.base import BaseModel
from apt_engine.bases.layer_names import ENDING, layer_of
from apt_engine.errors import LoraError, is_out_of_memory
from apt_engine.lora import adapter, lycoris
from apt_engine.lora.adapter import ADAPTER
from apt_engine.lora.tensors import read
from apt_engine.reading.tensor_files import read_header

# By a part of a key: formats that change a layer otherwise than by B A. OFT has no place in PEFT: that of sd-scripts and LyCORIS
# turns what a layer puts out, PEFT's own what it takes in; and PEFT's files do not say by which series they were turned.
FORMATS = {
    ".oft_blocks": "OFT",
    ".oft_diag": "OFT",
    ".oft_R.": "OFT",
    ".oft_r": "OFT",
    ".boft_": "BOFT",
    ".a1.weight": "GLoRA",
    ".on_input": "IA3",
    ".ia3_l.": "IA3",
    ".vera_lambda_": "VeRA",
    ".lora_mid.": "LoCon with Tucker decomposition",
    "emb_params": "textual inversion",
    "model.diffusion_model.input_blocks.0.0.weight": "whole checkpoint",
}
# What a LoRA may have beside its pairs, and such a file has alone.
WITHOUT_PAIRS = {".diff": "full differences of weights"}
MANY_TURNS = 4  # dimensions of a BOFT's blocks, which turn again and again; an OFT's have three
# By sd-scripts' name of the base model in the header.
FAMILIES = {"sd_v1": "Stable Diffusion 1.x", "sd_v2": "Stable Diffusion 2.x", "sdxl": "Stable Diffusion XL"}
STRANGERS = {
    "double_blocks": "FLUX",
    "single_transformer_blocks": "FLUX",
    "joint_blocks": "Stable Diffusion 3",
    "context_refiner": "Z-Image",
}
_NOT_APPLIED = re.compile(
    r"\.(?:dora_scale|lora_magnitude_vector(?:\.\w+)?(?:\.weight)?|diff|diff_b|[wb]_norm|lora_[AB]\.bias)$"
)

# Of diffusers, and of the file, which it reads once more: it may be changed or taken away meanwhile.
_FAILURES = (ValueError, KeyError, TypeError, RuntimeError, IndexError, AttributeError, OSError, SafetensorError)


def load(base: BaseModel, path: Path) -> list[str]:
    """Give a base the LoRA of a file, text encoders included, at full strength, in place of the one it has.

    Returns:
        Sentences: what of the file is not applied.

    Raises:
        LoraError: the file cannot be read, is no LoRA, or belongs to another base model; the base is then without a LoRA.
    """
    remove(base)
    return add(base, path, ADAPTER)


def add(base: BaseModel, path: Path, adapter_name: str) -> list[str]:
    """The same beside the LoRAs that the base has; `adapter_name` names it. What it raises leaves the base without any."""
    try:
        return _add(base, path, adapter_name)
    except LoraError:
        remove(base)
        raise


def _add(base: BaseModel, path: Path, adapter_name: str) -> list[str]:
    _refuse_other_formats(path)  # first: what their alpha says is no LoRA's
    tensors, header = read(path)
    _refuse_other_families(base, path, tensors, header)
    if lycoris.is_lycoris(tensors):
        told = lycoris.load(base, path, tensors, adapter_name)
        _forget_prompts(base)
        return told
    ignored = {key for key in tensors if _NOT_APPLIED.search(key)}
    wanted = lycoris.with_kernels(base, {key: value for key, value in tensors.items() if key not in ignored})
    try:
        alphas = _load_with_diffusers(base, path, wanted, header, adapter_name)
    except _FAILURES as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise LoraError(
            f"The LoRA file {path} does not fit {base.name} ({reason}); choose the base it was trained on."
        ) from error
    for _, part in _named_parts(base):
        adapter.to_fp32(part)
    _forget_prompts(base)
    magnitudes = {key: tensors[key] for key in ignored if key.endswith(lycoris.MAGNITUDE)}
    told = _account(base, path, alphas, ignored - magnitudes.keys(), adapter_name)
    return told + lycoris.apply_magnitudes(base, path, magnitudes, adapter_name)


def remove(base: BaseModel) -> None:
    """Take all LoRAs off denoiser and text encoders."""
    adapter.detach(base.denoiser)
    for _, part in _named_parts(base):
        if any(isinstance(module, BaseTunerLayer) for module in part.modules()):
            base.pipeline.unload_lora_weights()
            base.forget_prompts()
            return


def layers_elsewhere(base: BaseModel) -> int:
    """How many layers that have a LoRA, or a relative of it, are not the denoiser's."""
    parts = (part for _, part in _named_parts(base) if part is not base.denoiser)
    return sum(isinstance(module, BaseTunerLayer) for part in parts for module in part.modules())


def _forget_prompts(base: BaseModel) -> None:
    """Where a text encoder says something else now; otherwise what it said is right for the next request too."""
    if layers_elsewhere(base):
        base.forget_prompts()


def set_strength(base: BaseModel, strength: float, adapter_name: str = ADAPTER) -> None:
    """Scale a LoRA's effect from now on, in the text encoders too."""
    for _, part in _named_parts(base):
        adapter.set_strength(part, strength, adapter_name)
        lycoris.set_magnitudes(part, strength, adapter_name)
    _forget_prompts(base)


def activate(base: BaseModel, adapter_names: list[str]) -> None:
    """Let these LoRAs act together, in this order, in the text encoders too."""
    for _, part in _named_parts(base):
        adapter.activate(part, adapter_names)
    _forget_prompts(base)


def _refuse_other_formats(path: Path) -> None:
    """By the header alone; of one that cannot be read `read` says why."""
    try:
        tensors, _ = read_header(path)
    except (OSError, ValueError):
        return
    is_pair = lycoris.is_lycoris(tensors) or any(ENDING.search(key) for key in tensors)
    for part, name in FORMATS.items() if is_pair else (FORMATS | WITHOUT_PAIRS).items():
        found = [tensor for key, tensor in tensors.items() if part in key]
        if found:
            kind = "BOFT" if part == ".oft_blocks" and len(found[0].shape) == MANY_TURNS else name
            raise LoraError(f"{path} is a file of the kind {kind}, which this app cannot apply; choose a LoRA.")
    if not is_pair:
        raise LoraError(f"{path} is not a LoRA file; choose one.")


def _refuse_other_families(base: BaseModel, path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """By names that only other kinds of models have, or by what sd-scripts writes into the header."""
    stranger = next((family for part, family in STRANGERS.items() if any(part in key for key in tensors)), "")
    if any(stranger and part in name for part in STRANGERS for name, _ in base.denoiser.named_modules()):
        return
    own = base.lora.kohya.base_model_version if base.lora.kohya else ""
    said = next((start for start in FAMILIES if header.get("ss_base_model_version", "").startswith(start)), "")
    if said and not own.startswith(said):
        stranger = FAMILIES[said]
    if stranger:
        raise LoraError(f"The LoRA file {path} was made for {stranger}, not for {base.name}; choose its base model.")


def _load_with_diffusers(
    base: BaseModel, path: Path, tensors: dict[str, Tensor], header: dict[str, str], adapter_name: str
) -> dict[str, float]:
    """Load; returns the layers of the file by the model's names, each with its alpha, or NaN where the file says none."""
    read = base.lora.kohya.read if base.lora.kohya else base.pipeline.lora_state_dict
    converted = read(dict(tensors))
    weights, alphas = converted if isinstance(converted, tuple) else (converted, None)
    _refuse_other_layers(base, path, weights)
    # The header's settings hold rank and alpha of PEFT's layout, and diffusers reads them from a file alone.
    source = str(path) if LORA_ADAPTER_METADATA_KEY in header else dict(tensors)
    with warnings.catch_warnings(action="ignore"):  # what they say is said by `_account`
        base.pipeline.load_lora_weights(source, adapter_name=adapter_name)
    known = {layer_of(key): float(value) for key, value in (alphas or {}).items()}
    found = [*map(layer_of, weights), *([] if base.lora.kohya else _dropped(read, tensors))]
    return {layer: known.get(layer, math.nan) for layer in dict.fromkeys(found)}


def _dropped(read: Callable[[dict[str, Tensor]], Any], tensors: dict[str, Tensor]) -> list[str]:
    """The layers of a file that diffusers makes nothing of, by their names there.

    It leaves out without a word what it has no name for. Each is read alone, as one may become three.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        layers.setdefault(layer_of(key), {})[key] = value
    return [name for name, own in layers.items() if not read(own)]


def _refuse_other_layers(base: BaseModel, path: Path, weights: dict[str, Tensor]) -> None:
    """A layer that takes in another number of channels is another model's, and so are layers of which a text encoder has none."""
    own = {
        layer_of(f"{part}.{name}"): layer.weight
        for part, whole in _named_parts(base)
        for name, module in whole.named_modules()
        if isinstance(layer := adapter.bare(module), nn.Linear | nn.Conv2d)
    }
    for key, value in weights.items():
        layer = layer_of(key)
        is_down = re.search(r"lora_A|lora_down|\.down\.weight$", key)
        if is_down and layer in own and value.ndim > 1 and value.shape[1] != own[layer].shape[1]:
            raise LoraError(
                f"The LoRA file {path} was made for another base model than {base.name} (its {layer} takes {value.shape[1]} "
                f"numbers, here it is {own[layer].shape[1]}); choose the base it was trained on."
            )
    for part, whole in _named_parts(base):
        layers = [layer for layer in map(layer_of, weights) if layer.startswith(f"{part}.")]
        if whole is not base.denoiser and layers and own.keys().isdisjoint(layers):  # diffusers wants one at least
            layer = layers[0].removeprefix(f"{part}.")
            raise LoraError(
                f"The LoRA file {path} was made for another base model than {base.name}, whose {part} has none of the file's "
                f"layers for it, such as {layer}; choose the base it was trained on."
            )


def _account(base: BaseModel, path: Path, alphas: dict[str, float], ignored: set[str], adapter_name: str) -> list[str]:
    """Each layer of the file has become a layer of the model, with its own alpha, or is named.

    Raises:
        LoraError: none has.
    """
    applied = {
        layer_of(f"{part}.{name}"): layer
        for part, module in _named_parts(base)
        for name, layer in module.named_modules()
        if isinstance(layer, LoraLayer) and adapter_name in layer.lora_A
    }
    for name, layer in applied.items():
        alpha = alphas.get(name, math.nan)
        if math.isfinite(alpha):  # diffusers misses those of text encoders, whose layers transformers 5 renamed
            layer.lora_alpha[adapter_name] = alpha
            layer.set_scale(adapter_name, 1.0)
    left = sorted(alphas.keys() - applied.keys())
    if len(left) == len(alphas):
        raise LoraError(
            f"The LoRA file {path} was made for another base model: none of its {len(alphas)} layers is in {base.name}."
        )
    sentences: list[str] = []
    if left:
        sentences.append(
            f"{len(left)} of {len(alphas)} layers of {path.name} are not in {base.name} and were left out: {_some(left)}."
        )
    if ignored:
        sentences.append(
            f"Left out of {path.name}, being no LoRA, {len(ignored)} of its tensors: {_some(sorted(ignored))}."
        )
    return sentences


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" and others" if len(names) > 3 else "")


def _named_parts(base: BaseModel) -> Iterator[tuple[str, nn.Module]]:
    for name in getattr(base.pipeline, "_lora_loadable_modules", ()):
        part = getattr(base.pipeline, name, None)
        if isinstance(part, nn.Module):
            yield name, part
