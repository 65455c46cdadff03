"""Files that are either whole or absent: written beside their place, flushed, then renamed over it."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls `write` on a temporary path in the same folder, then puts the result in place of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    write(temporary)
    with temporary.open("rb+") as handle:
        os.fsync(handle.fileno())
    temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically."""
    write_atomically(path, lambda target: _write_text(target, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def save_checkpoint(
    path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer | None, state: dict[str, Any]
) -> None:
    """Saves the weights, the optimizer's moments and a small JSON state as one safetensors file."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors |= {f"{name}/{key}": value for key, value in module.state_dict().items()}
    for index, moments in (optimizer.state_dict()["state"] if optimizer else {}).items():
        tensors |= {f"optimizer/{index}/{key}": value for key, value in moments.items()}
    tensors = {key: value.detach().clone(memory_format=torch.contiguous_format) for key, value in tensors.items()}
    write_atomically(path, lambda target: save_file(tensors, target, metadata={"state": json.dumps(state)}))


def load_checkpoint(
    path: Path, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer | None = None
) -> dict[str, Any] | None:
    """Fills the modules and the optimizer from a checkpoint; returns its JSON state, or None where there is none."""
    if not path.exists():
        return None
    with safe_open(path, "pt") as handle:
        tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118 (not a mapping)
        state = json.loads(handle.metadata()["state"])
    for name, module in modules.items():
        module.load_state_dict(_below(tensors, name))
    if optimizer:
        _load_moments(optimizer, _below(tensors, "optimizer"))
    return state


def _below(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    prefix = f"{name}/"
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _load_moments(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split("/")
        moments.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
