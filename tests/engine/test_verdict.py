"""What a verdict says, which checkpoints it looks at, and how long a run remembers it."""

import dataclasses
import math

import pytest

from apt_engine.runs.events import NewerEvent, PhotosJudged, PicturesJudged, VerdictReached
from apt_engine.runs.history import MOST_JUDGED, History
from apt_engine.runs.verdict import Verdict, chosen_steps, describe, is_clear, mean_of
from tests.histories import history_of, started

PHOTOS = PhotosJudged(likeness=(0.5, 0.7), copies=(0.5, 0.7), follows=(0.0, 0.0))
REACHED = VerdictReached(message="Step 4 is fine.", seconds=9)


def judged(step: int, likeness: float, follows: float, copies: float, drift: float = 0.0) -> PicturesJudged:
    """Four pictures a little around these means, at each step another way round."""
    around = (-0.01, 0.0, 0.0, 0.01) if step else (0.01, 0.0, -0.01, 0.0)
    return PicturesJudged(
        step=step,
        likeness=tuple(likeness + one for one in around),
        copies=tuple(copies + one for one in around),
        follows=tuple(follows + one for one in around),
        nearest=(0, 1, 0, 1),
        drift=drift,
        paths=tuple(f"samples/verdict/{step:06d}-{number}.png" for number in range(4)),
    )


BASE = judged(0, 0.0, 0.2, 0.1)


@pytest.mark.parametrize(
    ("steps", "kept", "chosen"),
    [
        ([25, 50, 75, 100, 125, 150, 175, 200], 75, [50, 75, 100, 150, 200]),
        ([25, 50], 0, [25, 50]),
        ([500], 500, [500]),
        ([100, 200], 150, [100, 200]),  # the kept one is gone
        ([], 0, []),
    ],
)
def test_the_kept_checkpoint_and_the_last_are_judged_and_a_few_between(
    steps: list[int], kept: int, chosen: list[int]
) -> None:
    assert chosen_steps(steps, kept) == chosen


def test_a_mean_has_its_error_and_passes_over_what_is_not_finite() -> None:
    assert mean_of((1.0, 3.0, math.nan)) == pytest.approx((2.0, 1.0))
    assert mean_of((1.0,)) == (1.0, 0.0)
    assert all(math.isnan(value) for value in mean_of(()))


def test_pictures_are_compared_one_to_one() -> None:
    """Prompts differ more from each other than a model does from itself: a small change of all is one."""
    before = (0.1, 0.5, 0.9)
    assert is_clear(before, (0.05, 0.44, 0.85))
    assert not is_clear(before, (0.5, 0.05, 0.85))
    assert not is_clear(before, (math.nan,) * 3)


@pytest.mark.parametrize(
    ("chosen", "words"),
    [
        (judged(4, 0.3, 0.2, 0.3), "come 50 % of the way"),
        (judged(4, 0.7, 0.2, 0.3), "as like your photos as these are like each other"),
        (judged(4, 0.005, 0.2, 0.3), "no more like your cat than the untrained model's"),
        (judged(4, -0.3, 0.2, 0.3), "less like your cat than"),
        (judged(4, 0.3, 0.195, 0.3), "follow prompts as the untrained model's do"),
        (judged(4, 0.3, 0.1, 0.3), "follow prompts less than"),
        (judged(4, 0.3, 0.2, 0.6), "none repeats a photo"),
        (judged(4, 0.3, 0.2, 0.695), "1 of 4 are nearer to a photo than any two of your photos"),
    ],
)
def test_a_verdict_says_each_thing_beside_the_untrained_model_and_the_photos(
    chosen: PicturesJudged, words: str
) -> None:
    assert words in describe(PHOTOS, [BASE, chosen], kept=4, subject="cat")


def test_the_kept_step_is_spoken_of_and_the_last_ones_drift_beside_it() -> None:
    pictures = [BASE, judged(4, 0.3, 0.2, 0.3, drift=0.012), judged(8, 0.6, 0.1, 0.9, drift=0.075)]
    kept, last = (describe(PHOTOS, pictures, kept, "cat") for kept in (4, 0))
    assert kept.startswith("Step 4: ")
    assert kept.endswith("everything else has changed 16 % as much as at step 8.")
    near = [*pictures[:2], judged(8, 0.6, 0.1, 0.9, drift=0.0125)]
    assert "everything else" not in describe(PHOTOS, near, 4, "cat"), "as much as at the last"
    assert last.startswith("Step 8: ")
    assert "moved" not in last


def test_what_cannot_be_told_is_said() -> None:
    one_photo = PhotosJudged(likeness=(), copies=(), follows=(0.0,))
    told = describe(one_photo, [judged(0, 0.0, -0.2, 0.1), judged(4, 0.3, 0.2, 0.3)], 4, "cat")
    assert "more like your cat than the untrained model's" in told
    assert "with one photo nothing tells a copy" in told
    assert "the untrained model itself does not follow" in told
    broken = dataclasses.replace(judged(4, 0.3, 0.2, 0.3), likeness=(math.nan,) * 4)
    assert "numbers that are not finite" in describe(PHOTOS, [BASE, broken], 4, "cat")


def test_a_run_remembers_its_newest_whole_verdict_until_its_steps_are_trained_again() -> None:
    history = history_of(started(), PHOTOS, BASE, judged(4, 0.3, 0.2, 0.3))
    assert verdict_of(history) is None
    history.add([REACHED, PHOTOS, BASE])  # the next one was broken off
    verdict = verdict_of(history)
    assert verdict
    assert [step for step, _, _ in verdict.curve("likeness")] == [0, 4]
    assert verdict.of_photos("copies") == pytest.approx(0.6)
    assert verdict.message == REACHED.message
    history.add([dataclasses.replace(started(), first_step=4)])
    assert verdict_of(history) is verdict
    history.add([dataclasses.replace(started(), first_step=2)])
    assert verdict_of(history) is None


def verdict_of(history: History) -> Verdict | None:
    return history.verdict


def test_a_verdict_without_photos_or_pictures_is_none_and_a_flood_of_them_is_cut() -> None:
    for events in ([REACHED], [BASE, REACHED], [PHOTOS, REACHED], [NewerEvent(name="x"), REACHED]):
        assert history_of(started(), *events).verdict is None
    flooded = history_of(started(), PHOTOS, *[BASE] * 5000, REACHED)
    assert flooded.verdict
    assert len(flooded.verdict.pictures) < MOST_JUDGED
