"""A whole checkpoint in one file, the LoRA added to its base's weights: for programs, or people, that take no LoRA beside it.

It has the layout of the original programs, which is that of the base's own file where it came as one, and numbers in fp16. One
tensor after the other is merged and written, so that it takes no more memory than the base that is loaded.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from apt_engine.bases.base import BaseModel, KohyaNames
from apt_engine.bases.original_layout import Stack
from apt_engine.errors import LoraError
from apt_engine.lora import adapter
from apt_engine.lora.about import FOR_ALL, ExportInfo
from apt_engine.runs.files import write_atomically


def export_merged(base: BaseModel, path: Path, info: ExportInfo) -> int:
    """Write a checkpoint whose denoiser is that of the base with its LoRA at the strength it has now; returns its tensors.

    Raises:
        LoraError: other programs have no such base, or a weight is not finite in fp16.
        DiskError: it cannot be written.
    """
    names = base.lora.kohya
    if not names:
        raise LoraError(
            f"{base.name} cannot be written as one checkpoint, other programs have no such model; export the LoRA alone."
        )
    changes = _changes(base, names)
    with adapter.set_aside(base.denoiser):
        tensors = names.checkpoint(join=Stack)
        assert changes.keys() <= tensors.keys()
        about = info.header(base.lora.architecture, FOR_ALL, prediction=names.prediction)
        write_atomically(path, _pieces(tensors, changes, {"format": "pt", **about}))
    return len(tensors)


def _changes(base: BaseModel, names: KohyaNames) -> dict[str, tuple[Tensor, Tensor, float]]:
    """A, B and the scale of each layer of the LoRA, by the name of its weight in the file."""
    return {
        names.weight(name): adapter.factors(layer)
        for name, layer in base.denoiser.named_modules()
        if isinstance(layer, LoraLayer)
    }


def _pieces(
    tensors: dict[str, Tensor | Stack], changes: dict[str, tuple[Tensor, Tensor, float]], about: dict[str, str]
) -> Iterator[bytes | memoryview]:
    """The bytes of a safetensors file in fp16: its header, then tensor after tensor."""
    entries: dict[str, object] = {"__metadata__": about}
    place = 0
    for name, tensor in tensors.items():
        offsets = [place, place := place + 2 * tensor.numel()]
        entries[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": offsets}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    yield len(header).to_bytes(8, "little") + header
    for name, tensor in tensors.items():
        whole = tensor.made() if isinstance(tensor, Stack) else tensor
        yield _merged(name, whole, changes.get(name)).flatten().view(torch.uint8).numpy().data


def _merged(name: str, weight: Tensor, change: tuple[Tensor, Tensor, float] | None) -> Tensor:
    """A weight with B A times the scale added to it, computed in fp32, in fp16 on the host."""
    if change:
        down, up, scale = change
        delta = (up.detach().float().flatten(1) @ down.detach().float().flatten(1)).mul_(scale)
        weight = delta.view(weight.shape).add_(weight)
    half = weight.detach().to(torch.float16).cpu().contiguous()
    # Largest and smallest tell without a copy, and are NaN where one is.
    if half.numel() and not all(bool(extreme.isfinite()) for extreme in torch.aminmax(half)):
        raise LoraError(f"The checkpoint cannot be written, {name} is not finite in fp16; export the LoRA alone.")
    return half
