"""Runs made by an earlier version go on: `data/run-0.1.0.zip` was made by it, four steps of the toy with all of the method on."""

import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from apt_engine.jobs.session import train
from apt_engine.runs.history import History
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.training.exports import export_checkpoint

OLDER = Path(__file__).parent / "data" / "run-0.1.0.zip"


@pytest.fixture
def store(data_dir: Path) -> RunStore:
    return RunStore(data_dir)


@pytest.fixture
def older(store: RunStore, toy_base: Path) -> Run:
    """The run as it was left, but for the place of its base model."""
    folder = store.runs_dir / "older"
    with zipfile.ZipFile(OLDER) as archive:
        archive.extractall(folder)
    run = Run(folder)
    run.replace_config(run.config.replace(base=str(toy_base)))
    return run


def test_it_is_told_as_it_was(older: Run) -> None:
    history = History.of(older)
    assert (history.state, history.step, history.last_step) == ("finished", 4, 4)
    assert [step for step, _ in history.losses] == [1, 2, 3, 4]
    assert [step for step, _ in history.drifts] == [0, 4]
    assert set(history.samples) == {(step, index) for step in (0, 4) for index in range(4)}
    assert set(history.exports) == {"kohya", "diffusers"}
    assert not history.notices


def test_it_is_not_measured_as_a_new_one_is_and_does_not_end_by_itself(older: Run) -> None:
    assert (older.config.check_every_steps, older.config.stop) == (0, "never")


def test_it_goes_on_from_its_last_step(store: RunStore, older: Run) -> None:
    for _ in train(store, older, lambda: False, steps=6):
        pass
    history = History.of(older)
    assert (history.state, history.step, history.message) == ("finished", 6, "All 6 steps are done.")
    assert [step for step, _ in history.losses] == [1, 2, 3, 4, 5, 6]
    assert older.checkpoint("6").is_intact()


def test_its_checkpoint_is_exported(older: Run, tmp_path: Path) -> None:
    made = {event.layout: event for event in export_checkpoint(older, older.checkpoint("4"), tmp_path)}
    assert set(made) == {"kohya", "diffusers"}
    first = older.path / "exports" / "zwx_car-000004.safetensors"
    old, new = load_file(first), load_file(tmp_path / first.name)
    assert old.keys() == new.keys()
    assert all(torch.equal(new[key], value) for key, value in old.items())
