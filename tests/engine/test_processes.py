"""Several processes share the samples of a step."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from apt_engine.cli.main import main
from apt_engine.errors import ConfigError
from apt_engine.jobs.worker import ROOT
from apt_engine.runs.events import (
    Calibrated,
    SplitMeasured,
)
from apt_engine.runs.store import RunStore
from apt_engine.training.processes import ALONE, Processes
from tests.engine.test_trainer import steps_of


def test_samples_are_shared_out_and_means_are_of_all() -> None:
    """The other process has 4 where this one has 2."""
    first, second = (Processes(index, 2, add_up=lambda tensor: tensor + 4) for index in (0, 1))
    assert [list(one.samples(6)) for one in (first, second, ALONE)] == [[0, 1, 2], [3, 4, 5], [0, 1, 2, 3, 4, 5]]
    with pytest.raises(ConfigError, match="batch_size 5 cannot be shared by 2 processes; choose a multiple of it"):
        first.samples(5)
    assert first.mean(torch.tensor(2.0)) == 3
    assert ALONE.mean(torch.tensor(2.0)) == 2
    parameters = [torch.nn.Parameter(torch.zeros(shape)) for shape in ((2, 3), (4,), (1,))]
    for parameter in parameters[:2]:
        parameter.grad = torch.full(parameter.shape, 2.0)
    first.average_gradients(parameters)
    assert [None if parameter.grad is None else parameter.grad.unique().tolist() for parameter in parameters] == [
        [3.0],
        [3.0],
        None,
    ]


def test_what_process_0_found_is_known_to_all() -> None:
    """A sum over two, of which the other has .25 or nothing, or is not the first."""
    nothing = float("nan")
    first, second = Processes(0, 2, add_up=lambda own: own + 0.0), Processes(1, 2, add_up=lambda own: own + 0.25)
    assert (first.from_first(0.25), second.from_first(None), second.from_first(7.0)) == (0.25, 0.25, 0.25)
    assert Processes(1, 2, add_up=lambda own: own + nothing).from_first(None) is None
    assert first.from_first(None) is None
    assert (Processes().from_first(0.25), Processes().from_first(None)) == (0.25, None)


def test_two_processes_learn_what_one_learns_with_the_joint_batch(
    tmp_path: Path, toy_base: Path, photo_dir: Path
) -> None:
    settings = {
        "batch_size": 4,
        "resolution": 32,
        "rank": 4,
        "device": "cpu",
        "learning_rate": 1e-2,
        "sensitivity": 1e4,
        "calibration_step": 10,
        "warped_views": 2,
        "sample_every_steps": 0,
        "check_every_steps": 5,
        "sample_prompts": "a {subject}",
        "sample_steps": 2,
    }
    arguments = ["train", "--photos", str(photo_dir), "--subject", "car", "--base", str(toy_base), "--steps", "20"]
    arguments += [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "apt_engine"]
    assert main([*arguments, "--data-dir", str(tmp_path / "one")]) == 0
    command = [sys.executable, *launch, *arguments, "--data-dir", str(tmp_path / "two")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    runs = {name: RunStore(tmp_path / name).list()[0] for name in ("one", "two")}
    weights = {name: load_file(run.checkpoint().lora_path) for name, run in runs.items()}
    for key, tensor in weights["one"].items():
        torch.testing.assert_close(tensor, weights["two"][key], rtol=0, atol=1e-6)
    steps = {name: steps_of(run.events()[0]) for name, run in runs.items()}
    assert len(steps["two"]) == 20
    for one, two in zip(steps["one"], steps["two"], strict=True):
        assert two.timesteps == one.timesteps
        assert two.warped == one.warped
        assert two.visits == one.visits
        assert two.gamma == pytest.approx(one.gamma, abs=1e-4)
        assert two.loss == pytest.approx(one.loss, rel=1e-5)
    assert any(any(step.warped) for step in steps["one"])
    splits = {
        name: [event for event in run.events()[0] if isinstance(event, SplitMeasured)] for name, run in runs.items()
    }
    assert [split.step for split in splits["two"]] == [5, 10, 15, 20]
    for one, two in zip(splits["one"], splits["two"], strict=True):
        assert two.cells == one.cells
        assert two.gains == pytest.approx(one.gains, abs=1e-5)
    calibrated = {
        name: [event for event in run.events()[0] if isinstance(event, Calibrated)] for name, run in runs.items()
    }
    assert len(calibrated["one"]) == len(calibrated["two"]) == 1
    assert calibrated["two"][0].alignment_lambda == pytest.approx(calibrated["one"][0].alignment_lambda, rel=1e-4)
