"""A run's events become what the Watch tab says."""

import pytest

from apt_engine.jobs.engine import EngineStatus
from apt_engine.runs.events import (
    CheckpointSaved,
    Event,
    RunFinished,
    SplitMeasured,
    StageChanged,
)
from tests.histories import FAILED, FINISHED, STOPPED, history_of, started, step, worn
from ui.sentences import sentence, state_under

IDLE = EngineStatus()
AT_WORK = EngineStatus("training", "r1")


@pytest.mark.parametrize(
    ("events", "status", "state", "words"),
    [
        ([], IDLE, "new", "Ready to learn your backpack; nothing is trained yet."),
        ([], AT_WORK, "waking", "Starting the engine for your backpack."),
        ([started(), step(1)], AT_WORK, "training", "Learning your backpack."),
        ([started(), StageChanged(stage="loading", message="Loading it.")], AT_WORK, "training", "Loading it."),
        ([started(), step(1), FINISHED], IDLE, "finished", "Trained on your backpack. All 10 steps are done."),
        ([started(), STOPPED], IDLE, "stopped", "Stopped at step 4 of 10. Resume goes on from there."),
        ([started(), step(1), FAILED], IDLE, "failed", "The disk is full; free some space."),
        ([started(), step(1), FAILED], AT_WORK, "waking", "Starting the engine for your backpack."),
    ],
)
def test_the_sentence_says_what_goes_on(events: list[Event], status: EngineStatus, state: str, words: str) -> None:
    told = history_of(*events)
    assert state_under(status, None, told) == state
    assert sentence(told, state) == words


@pytest.mark.parametrize(("saved", "from_where"), [(2, "from step 2, the last one saved"), (0, "from the beginning")])
def test_a_run_without_an_end_that_nobody_works_on_was_interrupted(saved: int, from_where: str) -> None:
    told = history_of(started(), step(1), step(2), *([CheckpointSaved(step=2, path="c")] if saved else []), step(3))
    other_run = EngineStatus("training", "r2")
    assert state_under(IDLE, None, told) == state_under(other_run, None, told) == "interrupted"
    assert sentence(told, "interrupted") == f"Training was interrupted at step 3 of 10; Resume goes on {from_where}."


def test_the_sentence_says_how_closely_the_photos_are_fitted_and_what_is_done() -> None:
    low = history_of(started(), worn(1, (0.3,) * 10, 0.2))
    assert sentence(low, "training") == "Learning your backpack."
    high = history_of(started(), worn(1, (0.94, *(0.3,) * 9), 0.8))
    assert sentence(high, "training").endswith(
        "Fine detail fits the photos closely (0.9). So 8 in 10 photos are now re-framed."
    )
    unwarped = history_of(started(), worn(1, (*(0.3,) * 9, 0.6), 0.0))
    assert sentence(unwarped, "training").endswith("Layout fits the photos closely (0.6).")


def test_the_sentence_says_where_a_run_stands_and_which_step_is_kept() -> None:
    def check(step: int, kept_step: int, message: str) -> SplitMeasured:
        return SplitMeasured(step=step, cells=(), gains=(), shots=0.3, views=0.2, kept_step=kept_step, message=message)

    learning = history_of(started(), step(1), check(1, 1, "New views are fitted 20 % better: it is learning."))
    assert sentence(learning, "training") == (
        "Learning your backpack. New views are fitted 20 % better: it is learning."
    )
    reason = "New views of your photos are fitted no better since step 5; from here it only memorizes."
    ended = RunFinished(step=9, reason=reason, is_complete=True, seconds=1, peak_memory_bytes=1, is_by_itself=True)
    told = history_of(started(), step(9), check(9, 5, reason), ended)
    assert sentence(told, "finished") == f"Trained on your backpack. {reason} Step 5 is kept."
    unknown = history_of(started(), step(9), check(9, 0, "It cannot be told."), FINISHED)
    assert sentence(unknown, "finished") == "Trained on your backpack. All 10 steps are done."


def test_a_run_in_line_says_its_place() -> None:
    told = history_of()
    state = state_under(EngineStatus("waiting", "r1", ahead=2), None, told)
    assert (state, sentence(told, state, ahead=2)) == ("waiting", "Your backpack is in line: 2 before it.")
    assert sentence(told, state_under(EngineStatus("waiting", "r1"), None, told)) == "Your backpack comes next."
