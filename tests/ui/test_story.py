"""A run's events become what the Watch tab says."""

import pytest

from apt_engine.jobs.engine import EngineStatus
from apt_engine.runs.events import (
    CheckpointSaved,
    DriftMeasured,
    Event,
    Noticed,
    RunFailed,
    RunFinished,
    RunStarted,
    SampleReady,
    StageChanged,
    StepFinished,
    ViewsShown,
)
from apt_engine.settings.training import TrainingConfig
from ui.story import Story

IDLE = EngineStatus()
AT_WORK = EngineStatus("training", "r1")


def story(*events: Event) -> Story:
    made = Story.of("r1", TrainingConfig(subject="backpack", steps=10), 3)
    made.tell(list(events))
    return made


def started(first_step: int = 0) -> RunStarted:
    return RunStarted(run="r1", base="pocket", subject="backpack", photo_count=3, first_step=first_step, last_step=10)


def step(number: int, seconds: float = 1.0) -> StepFinished:
    return StepFinished(step=number, loss=0.1, prior_loss=None, gradient_norm=1, learning_rate=1e-4, seconds=seconds)


FINISHED = RunFinished(step=10, reason="All 10 steps are done.", is_complete=True, seconds=1, peak_memory_bytes=1)
STOPPED = RunFinished(step=4, reason="Stopped at step 4 of 10.", is_complete=False, seconds=1, peak_memory_bytes=1)
FAILED = RunFailed(message="The disk is full; free some space.")


@pytest.mark.parametrize(
    ("events", "status", "state", "sentence"),
    [
        ([], IDLE, "new", "Ready to learn your backpack; nothing is trained yet."),
        ([], AT_WORK, "waking", "Waking the engine for your backpack."),
        ([started(), step(1)], AT_WORK, "training", "Learning your backpack (step 1 of 10)."),
        ([started(), StageChanged(stage="loading", message="Loading it.")], AT_WORK, "training", "Loading it."),
        ([started(), step(1), FINISHED], IDLE, "finished", "It knows your backpack. All 10 steps are done."),
        ([started(), STOPPED], IDLE, "stopped", "Stopped at step 4 of 10. Resume goes on from there."),
        ([started(), step(1), FAILED], IDLE, "failed", "The disk is full; free some space."),
        ([started(), step(1), FAILED], AT_WORK, "waking", "Waking the engine for your backpack."),
    ],
)
def test_the_sentence_says_what_goes_on(events: list[Event], status: EngineStatus, state: str, sentence: str) -> None:
    told = story(*events)
    assert told.state_under(status) == state
    assert told.sentence(state) == sentence


@pytest.mark.parametrize(("saved", "from_where"), [(2, "from step 2, the last one saved"), (0, "from the beginning")])
def test_a_run_without_an_end_that_nobody_works_on_was_interrupted(saved: int, from_where: str) -> None:
    told = story(started(), step(1), step(2), *([CheckpointSaved(step=2, path="c")] if saved else []), step(3))
    other_run = EngineStatus("training", "r2")
    assert told.state_under(IDLE) == told.state_under(other_run) == "interrupted"
    assert told.sentence("interrupted") == f"Training was interrupted at step 3 of 10; Resume goes on {from_where}."


def test_a_resumed_session_draws_no_step_twice() -> None:
    told = story(started(), step(1), step(2), step(3), FAILED, started(first_step=2), step(3), step(4))
    assert [number for number, _ in told.losses] == [1, 2, 3, 4]
    assert told.step == 4


def test_the_speed_is_that_of_usual_steps() -> None:
    told = story(started(), step(1, seconds=30.0), *(step(number, seconds=2.0) for number in range(2, 8)))
    assert told.seconds_per_step == 2.0
    assert story(started()).seconds_per_step is None


def test_samples_and_notices_are_kept_in_their_places() -> None:
    told = story(
        started(),
        SampleReady(step=0, index=1, prompt="p", seed=1, path="samples/a.png"),
        *(Noticed(message=f"note {number}") for number in range(5)),
    )
    assert told.samples == {(0, 1): "samples/a.png"}
    assert told.notices == ["note 2", "note 3", "note 4"]
    assert told.prompts[0] == "a photo of a zwx backpack"


def test_without_samples_there_are_no_rows() -> None:
    config = TrainingConfig(subject="backpack", sample_every_steps=0)
    assert Story.of("r1", config, 3).prompts == ()


def worn(number: int, gamma: tuple[float, ...], chance: float) -> StepFinished:
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


def test_the_sentence_says_how_closely_the_photos_are_fitted_and_what_is_done() -> None:
    low = story(started(), worn(1, (0.3,) * 10, 0.2))
    assert low.sentence("training") == "Learning your backpack (step 1 of 10)."
    high = story(started(), worn(1, (0.94, *(0.3,) * 9), 0.8))
    assert high.sentence("training").endswith(
        "Fine detail fits the photos closely (0.94), so 8 in 10 of the photos are now re-framed."
    )
    unwarped = story(started(), worn(1, (*(0.3,) * 9, 0.6), 0.0))
    assert unwarped.sentence("training").endswith("Layout fits the photos closely (0.60).")


def test_what_is_measured_is_kept_and_forgotten_where_it_is_done_again() -> None:
    told = story(
        started(),
        DriftMeasured(step=0, drift=0.0),
        worn(1, (0.1,), 0.5),
        worn(2, (0.1,), 0.5),
        DriftMeasured(step=2, drift=0.2),
        ViewsShown(step=2, paths=("views/a.png",)),
        started(first_step=1),
        worn(2, (0.2,), 0.4),
        DriftMeasured(step=2, drift=0.3),
    )
    assert told.drifts == [(0, 0.0), (2, 0.3)]
    assert told.references == [(1, 0.2), (2, 0.2)]
    assert told.chances == [(1, 0.5), (2, 0.4)]
    assert told.kept_features == [(1, 0.5), (2, 0.5)]
    assert (told.kept_attention, told.memory, told.views) == ([], 7, ("views/a.png",))


def test_a_run_in_line_says_its_place() -> None:
    told = story()
    state = told.state_under(EngineStatus("waiting", "r1", ahead=2))
    assert (state, told.sentence(state)) == ("waiting", "Your backpack is in line: 2 before it.")
    assert told.sentence(told.state_under(EngineStatus("waiting", "r1"))) == "Your backpack comes next."
