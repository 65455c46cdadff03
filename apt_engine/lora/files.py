"""LoRA files: keep the LoRA of a denoiser, write it for other programs, and read such files back.

    save               PEFT names under the base's prefix, fp32, rank and alpha in the header where diffusers looks for them
    export_diffusers   the same in fp16
    export_kohya       the names of `kohya`, fp16, an `.alpha` a layer, `ss_*` and `modelspec.*` in the header

The same weights always give the same bytes. A is `lora_A` or `lora_down` in a file, B is `lora_B` or `lora_up`; see `adapter`.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.loaders.peft import PeftAdapterMixin
from torch import Tensor

from apt_engine.bases.base import BaseModel
from apt_engine.errors import LoraError
from apt_engine.lora import kohya
from apt_engine.lora.about import FOR_COMFYUI, FOR_DIFFUSERS, NOT_FOR_OTHERS, ExportInfo
from apt_engine.lora.adapter import (
    ADAPTER,
    copy_weights,
    detach,
    inject,
    layers_of,
    lora_layers,
    to_fp32,
    trainable_parameters,
)
from apt_engine.lora.tensors import read
from apt_engine.runs.files import write_atomically


def save(base: BaseModel, path: Path) -> None:
    """Write the LoRA exactly as it is; a diffusers pipeline reads the file with `load_lora_weights`.

    Raises:
        DiskError: it cannot be written.
    """
    _write_diffusers(base, path, torch.float32, {})


def load(base: BaseModel, path: Path) -> None:
    """Give a base the LoRA of a file, at full strength, in place of the one it has.

    Raises:
        LoraError: the file cannot be read or does not fit; the base is then without a LoRA.
    """
    detach(base.denoiser)
    add(base, path, ADAPTER)


def add(base: BaseModel, path: Path, adapter: str) -> None:
    """Give a base the LoRA of a file, at full strength, beside those it has; `adapter` names it.

    Raises:
        LoraError: the file cannot be read or does not fit; the base is as it was.
    """
    stored = _read(base, path)
    inject(base.denoiser, stored.rank, stored.alpha, stored.endings, adapter)
    copy_weights(stored.weights, base.denoiser, adapter)


def load_weights(base: BaseModel, path: Path) -> None:
    """Set the attached LoRA, in place, to what `save` wrote; an optimizer that holds the parameters goes on with them.

    Raises:
        LoraError: the file cannot be read or holds another LoRA than the attached one; nothing has changed.
    """
    tensors, header = read(path)
    own = trainable_parameters(base.denoiser)
    _match(path, tensors, {base.lora.prefix + name: tuple(parameter.shape) for name, parameter in own.items()})
    _, alpha = _rank_and_alpha(base, path, header)
    wanted = lora_layers(base.denoiser)[0].lora_alpha[ADAPTER]
    if alpha != wanted:
        raise LoraError(
            f"The LoRA file {path} was trained with alpha {alpha:g}, not {wanted:g}; set alpha to {alpha:g}."
        )
    copy_weights({name: tensors[base.lora.prefix + name] for name in own}, base.denoiser)


def export_diffusers(base: BaseModel, path: Path, info: ExportInfo) -> None:
    """Write a file of half the size for diffusers' `load_lora_weights`, and for ComfyUI where kohya's layout has no names.

    There its strength is part of its weights, so that alpha is the rank: ComfyUI does not read the header that would say it.

    Args:
        base: with a LoRA.
        path: where to.
        info: what the file says about itself.

    Raises:
        LoraError: a weight is not finite in fp16.
        DiskError: it cannot be written.
    """
    if base.lora.kohya:
        hint, strength = f"{FOR_DIFFUSERS} {NOT_FOR_OTHERS}", 1.0
    else:
        layer = lora_layers(base.denoiser)[0]
        hint = FOR_COMFYUI if base.lora.is_known_elsewhere else FOR_DIFFUSERS
        strength = layer.lora_alpha[ADAPTER] / layer.r[ADAPTER]
    _write_diffusers(base, path, torch.float16, info.header(f"{base.lora.architecture}/lora", hint), strength)


def export_kohya(base: BaseModel, path: Path, info: ExportInfo) -> None:
    """Write a file for ComfyUI, Forge, AUTOMATIC1111 and whatever else reads kohya's layout.

    Args:
        base: one that other programs have names for.
        path: where to.
        info: what the file says about itself.

    Raises:
        LoraError: a weight is not finite in fp16.
        DiskError: it cannot be written.
    """
    names = base.lora.kohya
    assert names
    weights = _weights(base, torch.float16)
    layer = lora_layers(base.denoiser)[0]
    rank, alpha = layer.r[ADAPTER], layer.lora_alpha[ADAPTER]
    tensors: dict[str, Tensor] = {}
    for name in dict.fromkeys(key.rsplit(".lora_", 1)[0] for key in weights):
        values = weights[f"{name}.lora_A.weight"], weights[f"{name}.lora_B.weight"], torch.tensor(float(alpha))
        tensors |= zip(kohya.keys(names, name), values, strict=True)
    has_convolutions = not set(base.lora.convolutions).isdisjoint(_endings_in(base, weights))
    write_atomically(path, _serialize(tensors, kohya.header(base.lora, info, rank, alpha, has_convolutions)))


def load_exported(base: BaseModel, path: Path) -> int:
    """Load an exported file with diffusers' own reader, as another program would, and prove that all of it arrived.

    Returns:
        How many keys of the file were matched, which is all of them.

    Raises:
        LoraError: a key is missing or left over, or the reader made other numbers of it; the base is without a LoRA.
    """
    detach(base.denoiser)
    stored = _read(base, path)
    keys = _load_with_diffusers(base, path)
    if not _holds(base, stored):
        detach(base.denoiser)
        raise LoraError(f"diffusers reads the LoRA file {path} otherwise than it was written; please report this.")
    to_fp32(base.denoiser)
    copy_weights(stored.weights, base.denoiser)
    return keys


@dataclass(frozen=True)
class _Stored:
    """A LoRA as read from a file, known to fit. Weights by the names of `trainable_parameters`."""

    weights: dict[str, Tensor]
    rank: int
    alpha: float
    endings: tuple[str, ...]


def _load_with_diffusers(base: BaseModel, path: Path) -> int:
    """Leave it all to diffusers; returns how many keys the file has."""
    denoiser, prefix, names = base.denoiser, base.lora.prefix.rstrip("."), base.lora.kohya
    assert isinstance(denoiser, PeftAdapterMixin)
    tensors, header = read(path)
    with torch.random.fork_rng(devices=[]):
        if names and kohya.is_kohya(tensors):
            converted, alphas = names.read(tensors.copy())
            denoiser.load_lora_adapter(converted, prefix=prefix, network_alphas=alphas, adapter_name=ADAPTER)
        else:
            settings = json.loads(header[LORA_ADAPTER_METADATA_KEY])
            denoiser.load_lora_adapter(tensors, prefix=prefix, metadata=settings, adapter_name=ADAPTER)
    return len(tensors)


def _holds(base: BaseModel, stored: _Stored) -> bool:
    """Whether the attached LoRA is this one, to the last bit of the format the base is in."""
    own = trainable_parameters(base.denoiser)
    return (
        own.keys() == stored.weights.keys()
        and all(torch.equal(own[name].cpu(), weight.to(own[name].dtype)) for name, weight in stored.weights.items())
        and all(layer.scaling[ADAPTER] == stored.alpha / stored.rank for layer in lora_layers(base.denoiser))
    )


def _weights(base: BaseModel, dtype: torch.dtype, strength: float = 1.0) -> dict[str, Tensor]:
    """All of the LoRA in a format; `strength` goes into its second halves."""
    weights = {
        name: (value.detach() * strength if name.endswith(".lora_B.weight") else value.detach()).to("cpu", dtype)
        for name, value in trainable_parameters(base.denoiser).items()
    }
    broken = next((name for name, value in weights.items() if not value.isfinite().all()), None)
    if broken and dtype != torch.float32:
        raise LoraError(f"The LoRA cannot be exported, {broken} is not finite; lower learning_rate and train again.")
    return weights


def _endings_in(base: BaseModel, weights: Iterable[str]) -> list[str]:
    return [ending for ending in base.lora.all if any(f".{ending}.lora_" in f".{name}" for name in weights)]


def _write_diffusers(
    base: BaseModel, path: Path, dtype: torch.dtype, about: dict[str, str], strength: float = 1.0
) -> None:
    weights = _weights(base, dtype, strength)
    layer = lora_layers(base.denoiser)[0]
    settings = {
        "r": layer.r[ADAPTER],
        "lora_alpha": layer.lora_alpha[ADAPTER] / strength,
        "target_modules": _endings_in(base, weights),
    }
    settings = {base.lora.prefix + key: value for key, value in settings.items()}
    header = {"format": "pt", LORA_ADAPTER_METADATA_KEY: json.dumps(settings), **about}
    tensors = {base.lora.prefix + name: value for name, value in weights.items()}
    write_atomically(path, _serialize(tensors, header))


def _diffusers_keys(prefix: str, layer: str) -> tuple[str, str]:
    return f"{prefix}{layer}.lora_A.weight", f"{prefix}{layer}.lora_B.weight"


def _serialize(tensors: dict[str, Tensor], header: dict[str, str]) -> bytes:
    """A safetensors file whose header keeps its order: the library shuffles it anew at every call."""
    content = safetensors.torch.save(tensors)
    end = 8 + int.from_bytes(content[:8], "little")
    entries = {"__metadata__": header, **json.loads(content[8:end])}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


def _read(base: BaseModel, path: Path) -> _Stored:
    """The LoRA of a file of either layout, held against a base key by key."""
    tensors, header = read(path)
    names = base.lora.kohya if kohya.is_kohya(tensors) else None
    keys_of = partial(kohya.keys, names) if names else partial(_diffusers_keys, base.lora.prefix)
    rank, alpha = kohya.rank_and_alpha(path, tensors) if names else _rank_and_alpha(base, path, header)
    has = [
        any(keys_of(name)[0] in tensors for name in layers_of(base.denoiser, kind))
        for kind in (base.lora.feed_forward, base.lora.convolutions)
    ]
    endings = base.lora.chosen(feed_forward=has[0], convolutions=has[1])
    shapes: dict[str, tuple[int, ...]] = {}
    keys: dict[str, str] = {}
    for name, layer in layers_of(base.denoiser, endings).items():
        down, up, *alpha_key = keys_of(name)
        outputs, inputs, *kernel = layer.weight.shape
        shapes[down], shapes[up] = (rank, inputs, *kernel), (outputs, rank, *(1 for _ in kernel))
        shapes |= dict.fromkeys(alpha_key, ())
        keys |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    _match(path, tensors, shapes)
    return _Stored({name: tensors[key] for name, key in keys.items()}, rank, alpha, endings)


def _match(path: Path, tensors: dict[str, Tensor], shapes: dict[str, tuple[int, ...]]) -> None:
    """Every key on either side has its partner of the same shape."""
    for key in sorted(tensors.keys() | shapes.keys()):
        if key not in tensors:
            reason = f"it has no {key}"
        elif key not in shapes:
            reason = f"the model has no place for {key}"
        elif tuple(tensors[key].shape) != shapes[key]:
            reason = f"{key} is {tuple(tensors[key].shape)}, not {shapes[key]}"
        else:
            continue
        raise LoraError(
            f"The LoRA file {path} was made for another base model or is damaged ({reason}); choose the base it was trained on."
        )


def _rank_and_alpha(base: BaseModel, path: Path, header: dict[str, str]) -> tuple[int, float]:
    """What diffusers would take from the header; without it alpha is lost and the LoRA too strong or too weak."""
    try:
        settings = json.loads(header[LORA_ADAPTER_METADATA_KEY])
        return int(settings[f"{base.lora.prefix}r"]), float(settings[f"{base.lora.prefix}lora_alpha"])
    except (KeyError, ValueError, TypeError) as error:
        raise LoraError(
            f"The LoRA file {path} does not say its rank and alpha; choose a file this app wrote."
        ) from error
