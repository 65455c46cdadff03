"""The running mean of the LoRA's weights: what checkpoints, checks and pictures take while the optimizer goes on with its own."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from apt_engine.jobs.session import train
from apt_engine.runs.events import CheckpointSaved, Event, StepFinished
from apt_engine.runs.history import summarize
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.training.averaging import Average, decay_at
from apt_engine.training.exports import export_checkpoint


def of(value: float) -> dict[str, nn.Parameter]:
    return {"a": nn.Parameter(torch.full((2,), value))}


def test_the_first_steps_are_forgotten_sooner() -> None:
    assert decay_at(1, 0.99) == pytest.approx(2 / 11)
    assert decay_at(90, 0.99) == pytest.approx(0.91)
    assert decay_at(2000, 0.99) == 0.99
    assert decay_at(2000, 0.0) == 0


def test_the_mean_is_worn_inside_and_the_weights_come_back_also_after_an_exception() -> None:
    parameters = of(0.0)
    average = Average(parameters, 0.5)
    for step, value in enumerate((1.0, 4.0, 2.0), 1):
        parameters["a"].data.fill_(value)
        average.update(step)
    mean = 0.0
    for step, value in enumerate((1.0, 4.0, 2.0), 1):
        decay = min(0.5, (1 + step) / (10 + step))
        mean = decay * mean + (1 - decay) * value

    def wear() -> None:
        with average.worn():
            assert parameters["a"].tolist() == pytest.approx([mean, mean])
            raise ValueError("here")

    with pytest.raises(ValueError, match="here"):
        wear()
    assert parameters["a"].tolist() == [2.0, 2.0]


def test_without_a_mean_nothing_is_kept() -> None:
    parameters = of(3.0)
    average = Average(parameters, 0.0)
    average.update(1)
    with average.worn():
        assert parameters["a"].tolist() == [3.0, 3.0]
    assert not average.state_dict()


def test_it_goes_on_from_a_checkpoint_of_the_mean_or_of_a_run_that_had_none() -> None:
    parameters = of(1.0)  # as the checkpoint's LoRA has them
    average = Average(parameters, 0.5)
    average.load_state_dict({"trained.a": torch.tensor([5.0, 5.0]), "visits": torch.zeros(10)})
    assert parameters["a"].tolist() == [5.0, 5.0]
    with average.worn():
        assert parameters["a"].tolist() == [1.0, 1.0]
    average.load_state_dict({})
    with average.worn():
        assert parameters["a"].tolist() == [5.0, 5.0]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return RunStore(tmp_path_factory.mktemp("data"))


@pytest.fixture
def make(new_run: Callable[..., Run]) -> Callable[..., Run]:
    def make(**settings: Any) -> Run:
        run = new_run(5)
        values = {"check_every_steps": 2, "drift_every_steps": 2, "drift_prompts": ["a cat"], "save_every_steps": 1}
        values |= {"learning_rate": 3e-2, "warmup_steps": 0, "rank": 4, "sample_every_steps": 4, "stop": "never"}
        run.replace_config(run.config.replace(**{**values, **settings}))
        return run

    return make


def finish(run: Run, stop_at: int = 0) -> list[Event]:
    events: list[Event] = []

    def should_stop() -> bool:
        return any(isinstance(event, StepFinished) and event.step == stop_at for event in events)

    events.extend(train(RunStore(run.path.parent.parent), run, should_stop))
    return events


def test_a_run_with_a_mean_trains_alike_and_its_checkpoints_are_the_mean(
    make: Callable[..., Run], tmp_path: Path
) -> None:
    plain, run = make(), make(ema_decay=0.9)
    steps = [[event.loss for event in finish(one) if isinstance(event, StepFinished)] for one in (plain, run)]
    assert steps[0] == steps[1]
    mean: dict[str, torch.Tensor] = {}
    for step in range(1, 6):
        weights = load_file(plain.checkpoint(str(step)).lora_path)
        decay = (1 + step) / (10 + step)
        if not mean:  # it begins with what was attached: of A the same, of B nothing
            mean = {
                key: value.clone() if "lora_A" in key else torch.zeros_like(value) for key, value in weights.items()
            }
            kept = {key: value for key, value in load_file(run.checkpoint("1").lora_path).items() if "lora_B" in key}
            for key, value in kept.items():
                torch.testing.assert_close(value, (1 - decay) * weights[key])
        mean = {key: decay * mean[key] + (1 - decay) * value for key, value in weights.items() if "lora_B" in key}
        stored = load_file(run.checkpoint(str(step)).lora_path)
        for key, value in mean.items():
            torch.testing.assert_close(stored[key], value, rtol=1e-5, atol=1e-8)
    views = [[split.views for split in summarize(one).splits] for one in (plain, run)]
    assert all(one != other for one, other in zip(*views, strict=True))
    assert all(
        one[1] > other[1] for one, other in zip(*(summarize(one).drifts[1:] for one in (plain, run)), strict=True)
    )
    picture, averaged = ((one.path / "samples" / "000004-0.png").read_bytes() for one in (plain, run))
    assert picture != averaged
    for event in export_checkpoint(run, run.checkpoint("5"), tmp_path):
        assert Path(event.path).read_bytes() == (run.path / "exports" / Path(event.path).name).read_bytes()


def test_stopped_and_resumed_it_is_the_same_to_the_byte(make: Callable[..., Run]) -> None:
    whole, run = make(ema_decay=0.9), make(ema_decay=0.9)
    finish(whole)
    saved = [event.step for event in finish(run, stop_at=3) if isinstance(event, CheckpointSaved)]
    assert saved == [1, 2, 3]
    finish(run)
    assert [split.gains for split in summarize(run).splits] == [split.gains for split in summarize(whole).splits]
    for folder in ("checkpoints/000005", "exports", "samples"):
        for file in (whole.path / folder).iterdir():
            assert (run.path / folder / file.name).read_bytes() == file.read_bytes()
