"""LoRA files: keep the LoRA of a denoiser, write it for other programs, and read such files back.

    save               PEFT names under `unet.`, fp32, rank and alpha in the header where diffusers looks for them
    export_diffusers   the same in fp16
    export_kohya       `lora_unet_*` names, fp16, an `.alpha` a layer, `ss_*` and `modelspec.*` in the header

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
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from apt_engine.errors import LoraError
from apt_engine.lora import kohya
from apt_engine.lora.adapter import (
    ADAPTER,
    ALL_LAYERS,
    ATTENTION_LAYERS,
    CONVOLUTION_LAYERS,
    OPTIONAL_LAYERS,
    copy_weights,
    detach,
    inject,
    layers_of,
    lora_layers,
    to_fp32,
    trainable_parameters,
)
from apt_engine.runs.files import write_atomically

DIFFUSERS_PREFIX = "unet."


def save(denoiser: nn.Module, path: Path) -> None:
    """Write the LoRA exactly as it is; a diffusers pipeline reads the file with `load_lora_weights`.

    Raises:
        DiskError: it cannot be written.
    """
    _write_diffusers(denoiser, path, torch.float32)


def load(denoiser: nn.Module, path: Path) -> None:
    """Give a denoiser the LoRA of a file, at full strength, in place of the one it has.

    Raises:
        LoraError: the file cannot be read or does not fit; the denoiser is then without a LoRA.
    """
    detach(denoiser)
    stored = _read(denoiser, path)
    inject(denoiser, stored.rank, stored.alpha, stored.kinds)
    copy_weights(stored.weights, denoiser)


def load_weights(denoiser: nn.Module, path: Path) -> None:
    """Set the attached LoRA, in place, to what `save` wrote; an optimizer that holds the parameters goes on with them.

    Raises:
        LoraError: the file cannot be read or holds another LoRA than the attached one; nothing has changed.
    """
    tensors, header = _open(path)
    own = trainable_parameters(denoiser)
    _match(path, tensors, {DIFFUSERS_PREFIX + name: tuple(parameter.shape) for name, parameter in own.items()})
    _, alpha = _rank_and_alpha(path, header)
    wanted = lora_layers(denoiser)[0].lora_alpha[ADAPTER]
    if alpha != wanted:
        raise LoraError(
            f"The LoRA file {path} was trained with alpha {alpha:g}, not {wanted:g}; set alpha to {alpha:g}."
        )
    copy_weights({name: tensors[DIFFUSERS_PREFIX + name] for name in own}, denoiser)


def export_diffusers(denoiser: nn.Module, path: Path) -> None:
    """Write a file of half the size for diffusers' `load_lora_weights`.

    Raises:
        LoraError: a weight is not finite in fp16.
        DiskError: it cannot be written.
    """
    _write_diffusers(denoiser, path, torch.float16)


def export_kohya(denoiser: nn.Module, path: Path, info: kohya.ExportInfo) -> None:
    """Write a file for ComfyUI, Forge, AUTOMATIC1111 and whatever else reads kohya's layout.

    Raises:
        LoraError: a weight is not finite in fp16, or other programs have no name for such a base model.
        DiskError: it cannot be written.
    """
    weights = _weights(denoiser, torch.float16)
    layer = lora_layers(denoiser)[0]
    rank, alpha = layer.r[ADAPTER], layer.lora_alpha[ADAPTER]
    tensors: dict[str, Tensor] = {}
    for name in dict.fromkeys(key.rsplit(".lora_", 1)[0] for key in weights):
        values = weights[f"{name}.lora_A.weight"], weights[f"{name}.lora_B.weight"], torch.tensor(float(alpha))
        tensors |= zip(kohya.keys(denoiser, name), values, strict=True)
    has_convolutions = not set(CONVOLUTION_LAYERS).isdisjoint(_kinds_in(weights))
    write_atomically(path, _serialize(tensors, kohya.header(info, rank, alpha, has_convolutions)))


def load_exported(denoiser: nn.Module, path: Path) -> int:
    """Load an exported file with diffusers' own reader, as another program would, and prove that all of it arrived.

    Returns:
        How many keys of the file were matched, which is all of them.

    Raises:
        LoraError: a key is missing or left over, or the reader made other numbers of it; the denoiser is without a LoRA.
    """
    detach(denoiser)
    stored = _read(denoiser, path)
    keys = _load_with_diffusers(denoiser, path)
    if not _holds(denoiser, stored):
        detach(denoiser)
        raise LoraError(f"diffusers reads the LoRA file {path} otherwise than it was written; please report this.")
    to_fp32(denoiser)
    copy_weights(stored.weights, denoiser)
    return keys


@dataclass(frozen=True)
class _Stored:
    """A LoRA as read from a file, known to fit. Weights by the names of `trainable_parameters`."""

    weights: dict[str, Tensor]
    rank: int
    alpha: float
    kinds: tuple[str, ...]


def _load_with_diffusers(denoiser: nn.Module, path: Path) -> int:
    """Leave it all to diffusers; returns how many keys the file has."""
    assert isinstance(denoiser, PeftAdapterMixin)
    tensors, header = _open(path)
    with torch.random.fork_rng(devices=[]):
        if kohya.is_kohya(tensors):
            converted, alphas = kohya.read_with_diffusers(denoiser, tensors)
            denoiser.load_lora_adapter(converted, prefix="unet", network_alphas=alphas, adapter_name=ADAPTER)
        else:
            settings = json.loads(header[LORA_ADAPTER_METADATA_KEY])
            denoiser.load_lora_adapter(tensors, prefix="unet", metadata=settings, adapter_name=ADAPTER)
    return len(tensors)


def _holds(denoiser: nn.Module, stored: _Stored) -> bool:
    """Whether the attached LoRA is this one, to the last bit of the format the base is in."""
    own = trainable_parameters(denoiser)
    return (
        own.keys() == stored.weights.keys()
        and all(torch.equal(own[name].cpu(), weight.to(own[name].dtype)) for name, weight in stored.weights.items())
        and all(layer.scaling[ADAPTER] == stored.alpha / stored.rank for layer in lora_layers(denoiser))
    )


def _weights(denoiser: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    weights = {name: value.detach().to("cpu", dtype) for name, value in trainable_parameters(denoiser).items()}
    broken = next((name for name, value in weights.items() if not value.isfinite().all()), None)
    if broken and dtype != torch.float32:
        raise LoraError(f"The LoRA cannot be exported, {broken} is not finite; lower learning_rate and train again.")
    return weights


def _kinds_in(weights: Iterable[str]) -> list[str]:
    return [kind for kind in ALL_LAYERS if any(f".{kind}." in name for name in weights)]


def _write_diffusers(denoiser: nn.Module, path: Path, dtype: torch.dtype) -> None:
    weights = _weights(denoiser, dtype)
    layer = lora_layers(denoiser)[0]
    settings = {"r": layer.r[ADAPTER], "lora_alpha": layer.lora_alpha[ADAPTER], "target_modules": _kinds_in(weights)}
    settings = {DIFFUSERS_PREFIX + key: value for key, value in settings.items()}
    header = {"format": "pt", LORA_ADAPTER_METADATA_KEY: json.dumps(settings)}
    tensors = {DIFFUSERS_PREFIX + name: value for name, value in weights.items()}
    write_atomically(path, _serialize(tensors, header))


def _diffusers_keys(layer: str) -> tuple[str, str]:
    return f"{DIFFUSERS_PREFIX}{layer}.lora_A.weight", f"{DIFFUSERS_PREFIX}{layer}.lora_B.weight"


def _serialize(tensors: dict[str, Tensor], header: dict[str, str]) -> bytes:
    """A safetensors file whose header keeps its order: the library shuffles it anew at every call."""
    content = safetensors.torch.save(tensors)
    end = 8 + int.from_bytes(content[:8], "little")
    entries = {"__metadata__": header, **json.loads(content[8:end])}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


def _open(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors and the header of a file."""
    try:
        with safe_open(path, "pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}  # noqa: SIM118  # no iterator
    except (OSError, SafetensorError) as error:
        raise LoraError(f"The LoRA file {path} cannot be read ({error}); choose another checkpoint.") from error


def _read(denoiser: nn.Module, path: Path) -> _Stored:
    """The LoRA of a file of either layout, held against a bare denoiser key by key."""
    tensors, header = _open(path)
    is_kohya = kohya.is_kohya(tensors)
    keys_of = partial(kohya.keys, denoiser) if is_kohya else _diffusers_keys
    rank, alpha = kohya.rank_and_alpha(path, tensors) if is_kohya else _rank_and_alpha(path, header)
    groups = (
        group for group in OPTIONAL_LAYERS if any(keys_of(name)[0] in tensors for name in layers_of(denoiser, group))
    )
    kinds = ATTENTION_LAYERS + tuple(kind for group in groups for kind in group)
    shapes: dict[str, tuple[int, ...]] = {}
    keys: dict[str, str] = {}
    for name, layer in layers_of(denoiser, kinds).items():
        down, up, *alpha_key = keys_of(name)
        outputs, inputs, *kernel = layer.weight.shape
        shapes[down], shapes[up] = (rank, inputs, *kernel), (outputs, rank, *(1 for _ in kernel))
        shapes |= dict.fromkeys(alpha_key, ())
        keys |= {f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}
    _match(path, tensors, shapes)
    return _Stored({name: tensors[key] for name, key in keys.items()}, rank, alpha, kinds)


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


def _rank_and_alpha(path: Path, header: dict[str, str]) -> tuple[int, float]:
    """What diffusers would take from the header; without it alpha is lost and the LoRA too strong or too weak."""
    try:
        settings = json.loads(header[LORA_ADAPTER_METADATA_KEY])
        return int(settings[f"{DIFFUSERS_PREFIX}r"]), float(settings[f"{DIFFUSERS_PREFIX}lora_alpha"])
    except (KeyError, ValueError, TypeError) as error:
        raise LoraError(
            f"The LoRA file {path} does not say its rank and alpha; choose a file this app wrote."
        ) from error
