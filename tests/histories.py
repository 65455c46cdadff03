"""Events and histories that tests make up."""

from collections import Counter
from pathlib import Path

import pytest

from apt_engine.runs.events import Event, RunFailed, RunFinished, RunStarted, StepFinished
from apt_engine.runs.history import History
from apt_engine.runs.run import Run
from apt_engine.settings.training import TrainingConfig

FINISHED = RunFinished(step=10, reason="All 10 steps are done.", is_complete=True, seconds=1, peak_memory_bytes=1)
STOPPED = RunFinished(step=4, reason="Stopped at step 4 of 10.", is_complete=False, seconds=1, peak_memory_bytes=1)
FAILED = RunFailed(message="The disk is full; free some space.")


def history_of(*events: Event, **settings: object) -> History:
    """That of a run r1 of three photos and ten steps, which has no folder."""
    made = History.new(Run(Path("r1")), TrainingConfig(**{"subject": "backpack", "steps": 10, **settings}), 3)
    made.add(events)
    return made


def started(first_step: int = 0) -> RunStarted:
    return RunStarted(run="r1", base="pocket", subject="backpack", photo_count=3, first_step=first_step, last_step=10)


def step(number: int, seconds: float = 1.0) -> StepFinished:
    return StepFinished(step=number, loss=0.1, prior_loss=None, gradient_norm=1, learning_rate=1e-4, seconds=seconds)


def worn(number: int, gamma: tuple[float, ...], chance: float) -> StepFinished:
    """A step after which the photos are fitted so closely, and re-framed so often."""
    return StepFinished(
        step=number,
        loss=0.1,
        reference_loss=0.2,
        gradient_norm=1,
        learning_rate=1e-4,
        seconds=1,
        gamma=gamma,
        chances=(chance, chance),
        stabilization=0.5,
        memory_bytes=7,
    )


def count_reads(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    """Bytes read of each events file from now on."""
    read, events = Counter[Path](), Run.events

    def counted(run: Run, since: int = 0, **how: bool) -> tuple[list[Event], int]:
        found, cursor = events(run, since, **how)
        read[run.events_path] += cursor - since
        return found, cursor

    monkeypatch.setattr(Run, "events", counted)
    return read
