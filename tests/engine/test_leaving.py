"""The ends that come from outside: signals, a closed terminal, an app that is gone. What was learnt is saved, and soon."""

import os
import pty
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from apt_engine.jobs import leaving
from apt_engine.jobs.leaving import Leaving
from apt_engine.jobs.session import train
from apt_engine.runs.events import (
    CheckpointSaved,
    Event,
    ExportReady,
    RunFailed,
    RunFinished,
    SampleReady,
    StageChanged,
    StepFinished,
)
from apt_engine.runs.history import summarize
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from benchmarks.reliability.sessions import Session, new_run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs signals and terminals")
SECONDS = 30.0  # on a machine that does other things as well; what hangs here would for 60, or train on


@pytest.fixture
def run(data_dir: Path, toy_base: Path, photo_dir: Path) -> Run:
    return new_run(data_dir, toy_base, photo_dir, steps=5000, save_every_steps=1000, sample_every_steps=1000)


def is_saved_and_left(run: Run) -> None:
    """The step under way is saved, nothing is exported, and the run is one to resume."""
    events = run.events()[0]
    last = max(event.step for event in events if isinstance(event, StepFinished))
    assert isinstance(events[-1], StageChanged)
    assert events[-1].message == f"Interrupted at step {last} of 5000; resume the run to go on."
    assert run.checkpoint().step == summarize(run).saved_step == last
    assert not [event for event in events if isinstance(event, ExportReady | RunFinished | RunFailed)]
    assert summarize(run).state_while(False) == "interrupted"


@pytest.mark.parametrize("to_group", [False, True])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_saves_the_step_and_ends(run: Run, name: str, to_group: bool) -> None:
    session = Session(run)
    session.wait_for('"step": 3,')
    assert session.send(signal.Signals[name], to_group=to_group) < SECONDS
    assert session.wait() == 128 + signal.Signals[name]
    assert "Ctrl-C once more ends at once" in session.log.read_text()
    is_saved_and_left(run)


@pytest.mark.parametrize("end", ["closed", "Ctrl-C"])
def test_a_terminal_that_is_closed_or_says_so_saves_the_step(run: Run, end: str) -> None:
    screen, theirs = pty.openpty()
    session = Session(run, terminal=os.ttyname(theirs))
    os.close(theirs)
    session.wait_for('"step": 11,')  # it has printed by then
    if end == "Ctrl-C":
        os.write(screen, b"\x03")
        session.wait_for("Interrupted at")
    os.close(screen)
    assert session.wait() == 128 + (signal.SIGHUP if end == "closed" else signal.SIGINT)
    is_saved_and_left(run)


def slow_to_save() -> None:
    Run.save_checkpoint = lambda *_: time.sleep(60)  # pyright: ignore[reportAttributeAccessIssue]


def test_a_second_ctrl_c_ends_at_once_and_a_second_hangup_does_not(run: Run) -> None:
    session = Session(run, slow_to_save)
    session.wait_for('"step": 3,')
    assert session.process.pid
    for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
        os.kill(session.process.pid, number)
        time.sleep(0.3)
        assert not session.is_over
    assert session.send(signal.SIGINT) < SECONDS
    assert session.wait() == 130
    assert not run.checkpoints()


def slow_to_load() -> None:
    leaving.SECONDS_TO_END = 0.5
    from apt_engine.training import preparation

    setattr(preparation, "load_base_of", lambda *_, **__: time.sleep(60))  # noqa: B010  # in a process of its own


def test_who_only_loads_a_model_ends_soon_though_it_cannot_look_up(run: Run) -> None:
    session = Session(run, slow_to_load)
    session.wait_for("Loading the base model")
    assert session.send(signal.SIGTERM) < SECONDS
    assert summarize(run).state_while(False) == "interrupted"


def test_the_time_to_save_is_given_to_those_who_have_something_to_save(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(leaving, "SECONDS_TO_END", 0.1)
    monkeypatch.setattr(leaving, "SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr("os._exit", ended.append)
    step = StepFinished(step=1, loss=1.0, gradient_norm=1.0, learning_rate=1e-4, seconds=1.0)
    saved = CheckpointSaved(step=1, path="checkpoints/000001")
    for told, is_ended in (
        ([], True),
        ([StageChanged(stage="training", message="")], False),
        ([step, StageChanged(stage="sampling", message="")], False),
        ([step, StageChanged(stage="sampling", message=""), saved], True),
    ):
        wish = Leaving(7)
        for event in told:
            wish.note(event)
        time.sleep(0.15)
        assert not ended
        wish.begin()
        end = time.monotonic() + (SECONDS if is_ended else 0.3)
        while not ended and time.monotonic() < end:
            time.sleep(0.01)
        assert bool(ended) is is_ended
        wish._is_wished = False
        ended.clear()


def left(run: Run, is_time: Callable[[Event], bool]) -> list[Event]:
    """What a session tells whose program is to end from some event on."""
    events: list[Event] = []
    store = RunStore(run.path.parent.parent)
    events.extend(train(store, run, lambda: False, is_leaving=lambda: any(is_time(event) for event in events)))
    return events


def kinds(events: list[Event], *wanted: type[Event]) -> list[tuple[str, int]]:
    return [(type(event).__name__, getattr(event, "step", 0)) for event in events if isinstance(event, wanted)]


def test_pictures_and_files_are_left_and_made_by_the_next_session(
    data_dir: Path, toy_base: Path, photo_dir: Path
) -> None:
    run = new_run(data_dir, toy_base, photo_dir, steps=4)
    made = (SampleReady, ExportReady, RunFinished)
    events = left(run, lambda event: isinstance(event, StageChanged) and event.stage == "exporting")
    assert kinds(events, *made) == [("SampleReady", 0)] * 2 + [("SampleReady", 4)] * 2
    assert kinds(left(run, lambda event: False), *made) == [("ExportReady", 4)] * 2 + [("RunFinished", 4)]

    run = new_run(data_dir, toy_base, photo_dir, steps=8)
    events = left(
        run, lambda event: isinstance(event, StageChanged) and event.stage == "sampling" and run_is_at(run, 4)
    )
    assert kinds(events, SampleReady, CheckpointSaved)[-1] == ("CheckpointSaved", 4)
    rest = kinds(left(run, lambda event: False), *made)
    assert rest == [("SampleReady", 4)] * 2 + [("SampleReady", 8)] * 2 + [("ExportReady", 8)] * 2 + [("RunFinished", 8)]


def run_is_at(run: Run, step: int) -> bool:
    return bool(run.checkpoints()) and run.checkpoints()[-1].step == step


def test_a_checkpoint_that_was_not_told_of_is_told_by_the_next_session(
    data_dir: Path, toy_base: Path, photo_dir: Path
) -> None:
    run = new_run(data_dir, toy_base, photo_dir, steps=4)
    left(run, lambda event: isinstance(event, StepFinished) and event.step == 2)
    lines = run.events_path.read_text().splitlines(keepends=True)
    cut = next(number for number, line in enumerate(lines) if "CheckpointSaved" in line)
    run.events_path.write_text("".join(lines[:cut]) + lines[cut][:20])  # torn
    saved = kinds(left(run, lambda event: False), CheckpointSaved)
    assert [step for _, step in saved] == [2, 4]
    assert kinds(run.events()[0], CheckpointSaved) == saved
