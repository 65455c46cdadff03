"""Checkpoints of checks go once they can no longer be the best; none is missed, whatever ends a session."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from apt_engine.errors import RunError
from apt_engine.jobs.session import train
from apt_engine.runs.events import CheckpointDropped, CheckpointSaved, Event, RunFinished, SplitMeasured
from apt_engine.runs.history import checkpoint_of, summarize
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.pruning import superfluous
from benchmarks.reliability.judge import lost

Make = Callable[[int], Run]
STEPS = 10


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return RunStore(tmp_path_factory.mktemp("data"))


def saved_run(run: Run, steps: range) -> Run:
    """With checkpoints that hold nothing, as a run that trained leaves them."""

    def write(folder: Path) -> None:
        for name in ("lora", "optimizer"):
            (folder / f"{name}.safetensors").write_bytes(b"")

    for step in steps:
        run.save_checkpoint(step, write)
    return run


def split(step: int, kept: int) -> SplitMeasured:
    return SplitMeasured(step=step, cells=(), gains=(), shots=0.0, views=0.0, kept_step=kept, message="")


def steps_of(run: Run) -> list[int]:
    return [checkpoint.step for checkpoint in run.checkpoints()]


def test_what_is_superfluous(new_run: Make) -> None:
    """Checks every 10 steps, saves every 40, samples every 60, and one at 75, where somebody stopped the run."""
    run = saved_run(new_run(200), range(10, 151, 10))
    saved_run(run, range(75, 76))
    run.replace_config(run.config.replace(save_every_steps=40, sample_every_steps=60))
    splits = [split(step, kept=min(step, 90 if step < 150 else 100)) for step in range(10, 151, 10)]
    assert [item.step for item in run.checkpoints() if item.can_resume] == [75, 140, 150]
    gone = superfluous(run, splits, choosable=[110, 130, 150])
    assert gone == [10, 20, 30, 50]  # 70 was kept at 75, where the run may still be taken up, 90 at 140, and 100 is now
    assert not {40, 80, 120, 60} & set(gone)
    assert superfluous(run, splits, choosable=range(150)) == []
    run.replace_config(run.config.replace(save_every_steps=10, sample_every_steps=0))
    assert superfluous(run, splits, choosable=[]) == []  # all are wished for


def test_a_checkpoint_goes_whole(new_run: Make) -> None:
    run = saved_run(new_run(4), range(1, 3))
    run.drop_checkpoint(1)
    run.drop_checkpoint(7)
    assert steps_of(run) == [2]
    with pytest.raises(RunError, match=r"has no checkpoint of step 1; it has: 2\."):
        checkpoint_of(run, "1")
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["000002"]


@pytest.mark.parametrize("samples", [0, 50, 60, 100])
@pytest.mark.parametrize("saves", [25, 40, 50, 1000])
@pytest.mark.parametrize("photos", [3, 5, 15])
def test_the_estimate_knows_how_many_there_are_at_once(photos: int, saves: int, samples: int) -> None:
    config = TrainingConfig(subject="car", save_every_steps=saves, sample_every_steps=samples)
    last = config.steps_for(photos)
    every, told = config.check_steps(last), config.checkpoints_in(last)
    checked = set(range(every, last + 1, every))
    saved = set(range(saves, last + 1, saves)) | {step for step in checked if samples and step % samples == 0}
    assert told == 1 + len(saved) + min(8, len(checked - saved))
    assert dataclasses.replace(config, check_every_steps=0).checkpoints_in(last) == 1 + last // saves


@pytest.fixture
def make(new_run: Make) -> Callable[[], Run]:
    def make() -> Run:
        run = new_run(STEPS)
        values = {"check_every_steps": 1, "rank": 4, "learning_rate": 3e-2, "warmup_steps": 0, "stop": "never"}
        values |= {"save_every_steps": 100, "drift_every_steps": 0, "sample_prompts": ()}
        run.replace_config(run.config.replace(**values))
        return run

    return make


def finish(run: Run, end_before: type[Event] | None = None, count: int = 1) -> None:
    """Train on; killed when an event of a kind was written down for the so manieth time, before anything comes of it."""
    session = train(RunStore(run.path.parent.parent), run, lambda: False)
    for event in session:
        if end_before and isinstance(event, end_before):
            count -= 1
            if not count:
                session.close()  # pyright: ignore[reportAttributeAccessIssue]
                return


def test_a_run_keeps_what_can_still_be_the_best_and_misses_nothing(make: Callable[[], Run]) -> None:
    whole, killed = make(), make()
    finish(whole)
    finish(killed, end_before=CheckpointDropped, count=2)
    assert {event.step for event in killed.events()[0] if isinstance(event, CheckpointDropped)} & set(steps_of(killed))
    finish(killed, end_before=CheckpointSaved, count=2)
    finish(killed)
    for run in (whole, killed):
        events = run.events()[0]
        assert isinstance(events[-1], RunFinished)
        assert lost(run) == []
        dropped = {event.step for event in events if isinstance(event, CheckpointDropped)}
        assert len(dropped) >= 3
        assert not dropped & set(steps_of(run))
        assert len(steps_of(run)) <= run.config.checkpoints_in(STEPS)
        assert checkpoint_of(run).step in steps_of(run)
        assert {event.kept_step for event in summarize(run).splits[-2:]} - {0} <= set(steps_of(run))
        assert not list((run.path / "checkpoints").glob(".*"))
    assert steps_of(whole) == steps_of(killed)
    for step in steps_of(whole):
        pair = [run.checkpoint(str(step)).lora_path.read_bytes() for run in (whole, killed)]
        assert pair[0] == pair[1]
