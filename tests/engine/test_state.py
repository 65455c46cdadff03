"""What a checkpoint keeps beside the LoRA: each number comes back to where it was."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from apt_engine.training import state


class Scaler:
    """Has the state of a loss scaler."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def state_dict(self) -> dict[str, float]:
        return {"scale": self.scale}

    def load_state_dict(self, values: dict[str, float]) -> None:
        self.scale = values["scale"]


def stepped(steps: int) -> tuple[dict[str, nn.Parameter], torch.optim.Optimizer]:
    """Parameters of one shape, so that they could be taken for each other, after so many steps with gradients of their own."""
    parameters = {f"layer{number}.lora_A.weight": nn.Parameter(torch.zeros(2, 3)) for number in range(3)}
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1)
    for step in range(steps):
        for number, parameter in enumerate(parameters.values()):
            parameter.grad = torch.full((2, 3), 1.0 + number + step)
        optimizer.step()
    return parameters, optimizer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "optimizer.safetensors"


def moments(parameters: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Tensor]]:
    return {name: dict(optimizer.state[parameter]) for name, parameter in parameters.items()}


def test_every_moment_comes_back_to_its_own_parameter(path: Path) -> None:
    saved, fresh = stepped(3), stepped(0)
    state.write(path, *saved, {}, None)
    state.read(path, *fresh, None)
    expected, found = moments(*saved), moments(*fresh)
    assert found.keys() == expected.keys()
    for name, entries in expected.items():
        assert found[name].keys() == entries.keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(found[name][entry], value) for entry, value in entries.items())
    assert len({float(entries["exp_avg"][0, 0]) for entries in found.values()}) == 3
    assert {float(entries["step"]) for entries in found.values()} == {3}


def test_the_steps_own_state_comes_back(path: Path) -> None:
    own = {"visits": torch.tensor([3.0, 1.0], dtype=torch.float64), "lambdas": torch.tensor([0.1, 1e-12]).double()}
    state.write(path, *stepped(1), own, None)
    found = state.read(path, *stepped(0), None)
    assert found.keys() == own.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == torch.float64 for name, value in own.items())


def test_the_loss_scale_comes_back(path: Path) -> None:
    scaler = Scaler(1.0)
    state.write(path, *stepped(1), {}, Scaler(512.0))
    state.read(path, *stepped(0), scaler)
    assert scaler.scale == 512
    state.read(path, *stepped(0), None)
    state.write(path, *stepped(1), {}, None)
    state.read(path, *stepped(0), scaler)
    assert scaler.scale == 512
