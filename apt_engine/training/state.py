"""What training needs beside the LoRA to go on exactly: AdamW's moments, the step's own state, the loss scale."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from apt_engine.runs.files import write_atomically

STEP = "adaptive_step"  # prefix of the step's own tensors; parameters have their names


def write(
    path: Path,
    parameters: dict[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    step_state: dict[str, Tensor],
    scaler: Any,
) -> None:
    """Write the state as safetensors; the learning rate follows from the step and is not stored.

    Raises:
        DiskError: it cannot be written.
    """
    tensors = {
        f"{name}/{entry}": value
        for name, parameter in parameters.items()
        for entry, value in optimizer.state[parameter].items()
    }
    tensors |= {f"{STEP}/{name}": value for name, value in step_state.items()}
    write_atomically(path, save(tensors, {"scaler": json.dumps(scaler.state_dict())} if scaler else None))


def read(
    path: Path, parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, scaler: Any
) -> dict[str, Tensor]:
    """Put the moments and the loss scale back where they were; returns the step's own state."""
    step_state: dict[str, Tensor] = {}
    for key, value in load_file(path).items():
        name, entry = key.rsplit("/", 1)
        if name == STEP:
            step_state[entry] = value
        else:  # torch keeps its step counter on the CPU and wants it there
            parameter = parameters[name]
            optimizer.state[parameter][entry] = value if entry == "step" else value.to(parameter)
    with safe_open(path, "pt") as file:
        scale = (file.metadata() or {}).get("scaler")
    if scale and scaler:
        scaler.load_state_dict(json.loads(scale))
    return step_state
