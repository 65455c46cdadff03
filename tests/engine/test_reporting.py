"""A run's numbers in TensorBoard and trackio: what they hold, and that nothing there harms the run."""

import importlib.util
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apt_engine.jobs import reporting, session
from apt_engine.runs.events import DriftMeasured, Event, Noticed, RunFinished, RunStarted, StepFinished
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig

NEEDS_TENSORBOARD = pytest.mark.skipif(not importlib.util.find_spec("tensorboard"), reason="an extra")
NEEDS_TRACKIO = pytest.mark.skipif(not importlib.util.find_spec("trackio"), reason="an extra")


@pytest.fixture
def make_run(data_dir: Path) -> Callable[[str], Run]:
    def make(target: str) -> Run:
        return RunStore(data_dir).create(TrainingConfig(subject="cat", report_to=target), lambda folder: None)

    return make


def events(first: int = 0, last: int = 6) -> Iterator[Event]:
    yield RunStarted(run="r1", base="pocket", subject="cat", photo_count=4, first_step=first, last_step=last)
    for step in range(first + 1, last + 1):
        yield StepFinished(
            step=step, loss=0.5 / step, gamma=(0.25, 0.5), gradient_norm=1, learning_rate=1e-4, seconds=1
        )
    yield DriftMeasured(step=last, drift=0.125)
    yield RunFinished(step=last, reason="Done.", is_complete=True, seconds=1, peak_memory_bytes=0)


def told(run: Run, stream: Iterator[Event]) -> tuple[list[Event], list[str]]:
    found = list(session._reported(run, stream))
    return (
        [event for event in found if not isinstance(event, Noticed)],
        [event.message for event in found if isinstance(event, Noticed)],
    )


def test_a_missing_library_is_one_sentence_and_the_run_goes_on(
    make_run: Callable[[str], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for target in ("tensorboard", "trackio"):
        kept, notices = told(make_run(target), events())
        assert len(kept) == 9
        assert len(notices) == 1
        assert "which is not installed" in notices[0]
        assert "requirements-metrics.txt" in notices[0]


class Broken:
    """A library that fails when it is opened, or at a step."""

    def __init__(self, fails_at: int) -> None:
        self._fails_at = fails_at

    def __call__(self, run: Run, first_step: int) -> "Broken":
        if not self._fails_at:
            raise RuntimeError("no room\nand more")
        return self

    def write(self, numbers: dict[str, float], step: int) -> None:
        if step == self._fails_at:
            raise ValueError("it is closed")

    def close(self) -> None: ...


@pytest.mark.parametrize(("fails_at", "reason"), [(0, "(no room)"), (3, "(it is closed)")])
def test_a_library_that_fails_is_told_once(
    make_run: Callable[[str], Run], monkeypatch: pytest.MonkeyPatch, fails_at: int, reason: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setitem(reporting.WRITERS, "trackio", Broken(fails_at))
    run = make_run("trackio")
    reporter = reporting.Reporter(run)
    for event in events():
        reporter.tell(event)
    reporter.close()
    assert reason in reporter.problem()
    assert reporter.problem() == ""
    for event in events():
        reporter.tell(event)  # nobody listens any more


def test_a_library_that_hangs_costs_the_run_nothing(
    make_run: Callable[[str], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def hang(run: Run, first_step: int) -> Any:
        over.wait(60)
        raise RuntimeError("too late")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(reporting, "MOST_WAITING", 4)
    monkeypatch.setattr(reporting, "SECONDS_TO_CLOSE", 0.01)
    monkeypatch.setitem(reporting.WRITERS, "trackio", hang)
    kept, notices = told(make_run("trackio"), events(last=20))
    over.set()
    assert len(kept) == 23
    assert notices == ["trackio does not keep up; the run goes on without it."]


def test_numbers_that_are_not_finite_or_not_there_are_left_out() -> None:
    step = StepFinished(
        step=1, loss=float("nan"), gamma=(0.5,), chances=(0.0, 1.0), gradient_norm=2, learning_rate=1, seconds=1
    )
    assert reporting.numbers_of(step) == {
        "gradient_norm": 2,
        "learning_rate": 1,
        "warp_chance": 0.5,
        "indicator_0": 0.5,
    }


@NEEDS_TENSORBOARD
def test_tensorboard_reads_each_step_once_over_a_resume(make_run: Callable[[str], Run]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # pyright: ignore[reportMissingImports]

    run = make_run("tensorboard")
    for first, last in ((0, 6), (4, 8)):  # a session, and one that goes on from the fourth step
        assert told(run, events(first, last))[1] == []
    read = EventAccumulator(str(run.path / "tensorboard"))
    read.Reload()
    assert [point.step for point in read.Scalars("loss")] == list(range(1, 9))
    assert read.Scalars("indicator_1")[0].value == 0.5
    assert [point.step for point in read.Scalars("drift")][-1] == 8


@NEEDS_TRACKIO
def test_trackio_keeps_each_step_of_the_run(
    make_run: Callable[[str], Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trackio.sqlite_storage import SQLiteStorage  # pyright: ignore[reportMissingImports]

    run = make_run("trackio")
    assert told(run, events())[1] == []
    logs = SQLiteStorage.get_logs(reporting.PROJECT, run.id)
    assert [log["step"] for log in logs if "loss" in log] == list(range(1, 7))
    assert next(log["drift"] for log in logs if "drift" in log) == 0.125
