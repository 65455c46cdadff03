"""The rule that tells when to stop, on curves made by hand."""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from apt_engine.apt.bins import BINS
from apt_engine.apt.split import MIRROR, SHOT, ZOOM, Cell, phases
from apt_engine.apt.stopping import RULE, SETTLED_AFTER, Check, Standing, at_last_step, choosable, stand
from apt_engine.jobs.estimate import facts
from apt_engine.runs.store import RunStore
from apt_engine.settings.ending import first_end
from apt_engine.settings.training import TrainingConfig

EVERY = 25
Curve = Callable[[int], float]


def turning(step: int) -> float:
    """Rises to .2 at step 150, and falls as fast."""
    return 0.2 * (1 - abs(step - 150) / 150)


def rising(step: int) -> float:
    return 0.6 * (1 - math.exp(-step / 200))


def checks(
    views: Curve, shots: Curve = rising, until: int = 500, spread: float = 0.1, thin: bool = True
) -> list[Check]:
    """Ten cells of views whose gains differ by up to this share, every second of them each time, and five of shots.

    All are at noise levels that count: bins 5 to 9 of two photos' views, and of a shot.
    """
    made = []
    for number, step in enumerate(range(EVERY, until + 1, EVERY)):
        cells = range(number % 2, 10, 2) if thin else range(10)
        codes = [Cell(cell % 2, MIRROR, BINS // 2 + cell // 2).code for cell in range(10)]
        gains = {codes[cell]: views(step) * (1 + spread * (cell / 4.5 - 1)) for cell in cells}
        made.append(Check(step, {Cell(0, SHOT, index).code: shots(step) for index in range(5, BINS)}, gains))
    return made


def ended(made: Sequence[Check], last_step: int = 500, photos: int = 3) -> tuple[int, Standing]:
    """The check at which the rule ends a run; 0 and the last standing if it does not."""
    standing = stand([], last_step, photos)
    for count in range(1, len(made) + 1):
        standing = stand(made[:count], last_step, photos)
        if standing.is_over:
            return made[count - 1].step, standing
    return 0, standing


@pytest.mark.parametrize("is_thin", [True, False])
def test_it_ends_after_the_turn_and_keeps_the_checkpoint_there(is_thin: bool) -> None:
    step, standing = ended(checks(turning, thin=is_thin))
    assert standing.kept == 150
    assert step == 250  # four checks after the turn; by then more than half of the gain is memorized
    assert (
        standing.message == "New views of your photos are fitted no better since step 150; from here it only memorizes."
    )


def test_a_run_that_still_learns_goes_on_and_keeps_its_newest_checkpoint() -> None:
    step, standing = ended(checks(rising))
    assert step == 0
    assert standing.kept == 500
    assert standing.message.startswith("Your photos are fitted 55 % better than before, new views of them 5")
    assert standing.message.endswith(" % better: it is learning.")
    at_cap = at_last_step(standing.message)
    assert at_cap.endswith(" % better: it was still learning, so more steps may help.")


def test_fine_noise_levels_do_not_count() -> None:
    made = checks(rising)
    fine = {Cell(0, MIRROR, index).code: -1.0 for index in range(5)}
    told = [replace(one, views={**one.views, **fine}, shots={**one.shots, Cell(0, SHOT, 0).code: 0.9}) for one in made]
    assert stand(told, 500, 3) == stand(made, 500, 3)


def test_a_plateau_goes_on_pictures_still_improve_there() -> None:
    step, standing = ended(checks(lambda step: 0.3 * min(1, step / 100), thin=False))
    assert (step, standing.kept) == (0, 500)


def test_a_fall_without_memorizing_waits_twice_as_long() -> None:
    def falling(step: int) -> float:
        return 0.3 * min(1, step / 100) - max(0, step - 100) / 10_000

    step, standing = ended(checks(falling, shots=lambda step: 0.4 * min(1, step / 100), thin=False))
    assert (step, standing.kept) == (300, 100)


def test_it_is_told_while_it_waits() -> None:
    standing = stand(checks(turning, until=225, thin=False), 500, 3)
    assert not standing.is_over
    assert standing.message.endswith("new views of them 10 % better; that has not grown since step 150.")


def test_what_is_lower_by_noise_alone_is_as_good() -> None:
    made = checks(lambda step: 0.2 * min(1, step / 100), thin=False)
    wave = {step: -0.002 * math.sin(step) for step in range(501)}  # of each cell another sign
    noisy = [
        replace(
            one, views={cell: gain + wave[one.step] * (1 if cell % 2 else -0.9) for cell, gain in one.views.items()}
        )
        for one in made
    ]
    assert stand(noisy, 500, 3, rule=replace(RULE, kept_within=1.0)).kept == 500
    assert stand(noisy, 500, 3).kept < 500  # the best itself is an earlier one


def drifting(made: Sequence[Check], drift: Curve, every: int = 50) -> list[Check]:
    """The same checks with a drift, which is measured less often."""
    return [replace(one, drift=None if one.step % every else drift(one.step)) for one in made]


def test_where_new_views_gain_less_than_all_else_changes_it_ends() -> None:
    """Views gain .2 to step 100, then .01 a hundred steps; the drift grows by .03 a hundred steps, and half of it counts."""

    def creeping(step: int) -> float:
        return 0.2 * min(1, step / 100) + max(0, step - 100) / 10_000

    made = checks(creeping, thin=False)
    assert ended(made)[1].kept == 500
    drifts = drifting(made, lambda step: 3 * step / 10_000)
    step, standing = ended(drifts)
    assert (step, standing.kept) == (300, 100)
    assert standing.message == (
        "Since step 100 new views of your photos gain less than everything else changes; from here it only overfits."
    )
    waiting = stand(drifts[:6], 500, 3).message
    assert waiting.endswith(" better; since step 100 that has grown by less than everything else has changed.")
    assert ended(drifting(made, lambda step: step / 10_000))[1].kept == 500  # of which half is half of what views gain


def test_a_drift_is_read_off_the_line_between_its_measurements() -> None:
    """Views gain .001 a step to step 175 and no more; the drift lies at 0 to step 100, and rises by .0004 a step to 200."""
    made = drifting(
        checks(lambda step: min(step, 175) / 1000, until=200, thin=False), lambda step: step / 5000, every=100
    )
    made = [replace(one, drift=0.0 if one.step == 100 else one.drift) for one in made]
    assert stand(made, 500, 3).kept == 175
    assert stand(made[:7], 500, 3).kept == 175
    costly = replace(RULE, drift_weight=6.0)  # .0012 a step: from 100 on it costs more than is gained
    assert stand(made, 500, 3, rule=costly).kept == 100
    assert stand(made[:7], 500, 3, rule=costly).kept == 175, "until it is known it stays as it was"


def test_a_curve_that_falls_late_once_is_forgiven_when_it_rises_again() -> None:
    def dented(step: int) -> float:
        return rising(step) - (0.1 if step in (200, 225) else 0)

    step, standing = ended(checks(dented, thin=False))
    assert (step, standing.kept) == (0, 500)


def test_the_share_that_is_memorized_has_to_stay_large() -> None:
    """Above .5 three checks running: a share that comes back below .4 begins anew, one in between does not."""
    shares = dict(zip(range(125, 301, 25), [0.6, 0.6, 0.3, 0.6, 0.45, 0.6, 0.6, 0.6], strict=True))

    def views(step: int) -> float:
        return 0.2 * min(1, step / 100) - max(0, step - 100) / 10_000

    step, standing = ended(checks(views, lambda step: views(step) / (1 - shares.get(step, 0)), until=300, thin=False))
    assert (step, standing.kept) == (275, 100)


def test_it_never_ends_before_its_minimum() -> None:
    def early(step: int) -> float:
        return 0.2 - abs(step - 25) / 500

    assert ended(checks(early))[0] == RULE.least_steps
    assert ended(checks(early), photos=10)[0] == 400


@pytest.mark.parametrize(
    ("standing", "why"),
    [
        (stand(checks(turning), 500, photos=1), "there is only one photo, or all look the same; add"),
        (stand(checks(turning), 150, photos=3), "that takes more than 150 steps; give it more."),
        (stand(checks(turning), 400, photos=10), "that takes more than 400 steps; give it more."),
        (stand(checks(turning), 500, 3, "views are photos; take others"), "views are photos; take others."),
        (stand(checks(lambda step: 0.0, lambda step: 0.01), 500, 3), "your photos are not fitted any better"),
        (stand(checks(lambda step: -0.1), 500, 3), "new views of your photos are not fitted any better"),
        (
            stand(checks(lambda step: math.nan, lambda step: math.nan), 500, 3),
            "the checks gave numbers that are not finite; lower",
        ),
        (stand([], 500, 3), "the checks gave numbers that are not finite; lower"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_where_it_cannot_be_told_the_run_goes_on_and_the_last_is_kept(standing: Standing, why: str) -> None:
    assert (standing.kept, standing.is_over) == (0, False)
    assert standing.message.startswith(f"Whether it still learns or only memorizes cannot be told: {why}")
    assert standing.message.endswith(". So it takes all its steps and keeps the last.")
    assert (standing.message.count(". "), standing.message.count("; ")) == (1, 1)  # why, and what to do about it


def test_one_check_that_is_not_finite_changes_nothing() -> None:
    made = checks(turning)
    step, standing = ended(made)
    broken = [*made[:3], replace(made[3], views=dict.fromkeys(made[3].views, math.nan)), *made[4:]]
    at_it = stand(broken[:4], 500, 3)
    assert (at_it.is_over, at_it.kept) == (False, 75)
    assert at_it.message.startswith("The check of step 100 gave numbers that are not finite and does not count; lower ")
    assert ended(broken)[0] == step
    assert ended(broken)[1].kept == standing.kept


def test_a_cell_is_compared_with_itself_whenever_it_was_measured() -> None:
    """Bins differ much more than checks do: with every second one renewed a check, a plain mean would saw up and down."""

    def steep(step: int) -> float:
        return 0.2 * min(1, step / 200)

    made = checks(steep, spread=1.0)
    views = stand(made, 500, 3).views
    assert views == pytest.approx([steep(one.step) for one in made], abs=0.013)
    assert list(views) == sorted(views)


def test_a_check_that_is_not_finite_is_never_the_best() -> None:
    """Of its cells one has a number, and a high one: no other check is as good within the error."""
    made = checks(lambda step: step / 1000, until=200)
    code, last = next(iter(made[-2].views)), made[-1]
    broken = replace(last, shots=dict.fromkeys(last.shots, math.nan), views={**last.views, code: 5.0})
    standing = stand([*made[:-1], broken], 500, 3)
    assert standing.kept == 175
    assert standing.message.startswith("The check of step 200 gave numbers that are not finite and does not count; ")


@pytest.mark.parametrize("seed", range(20))
def test_what_a_later_check_keeps_could_be_told_to_be_choosable(seed: int) -> None:
    """On curves that rise and turn, with much noise or little, some with numbers that are not finite."""
    draw = random.Random(seed)
    photos, rounds, turn = draw.randint(2, 5), draw.randint(1, 4), draw.uniform(50, 600)
    has_drift, drift_each = draw.choice([False, True]), draw.choice([1, 2, 8])
    noise, broken = draw.choice([0, 0.003, 0.03, 0.1]), draw.choice([0, 0, 0.02])
    views = [(photo, framing) for photo in range(photos) for framing in (MIRROR, ZOOM)]
    turns = phases(photos, views, rounds, RULE.first_bin)
    own = {cell: draw.gauss(0, 0.05) for cells in turns for cell in cells}
    made, there, most = list[Check](), set[int](), 0
    for number, step in enumerate(range(EVERY, 1001, EVERY)):
        gains = {
            cell: math.nan
            if draw.random() < broken
            else rising(step)
            if cell.framing == SHOT
            else 0.2 * (1 - abs(step - turn) / turn) + own[cell] + draw.gauss(0, noise)
            for cell in turns[number % len(turns)]
        }
        shots = {cell.code: gain for cell, gain in gains.items() if cell.framing == SHOT}
        drift = None if number % drift_each else (step / 400) ** 2 * (0.01 + draw.gauss(0, noise / 50))
        seen = {cell.code: gain for cell, gain in gains.items() if cell.framing != SHOT}
        made.append(Check(step, shots, seen, drift if has_drift else None))
        there.add(step)
        most = max(most, len(there))
        kept = stand(made, 1000, photos).kept
        assert not kept or kept in there
        there &= set(choosable(made))
    assert SETTLED_AFTER < most <= SETTLED_AFTER + 3 + has_drift * drift_each


def test_what_the_next_drift_may_bring_back_stays_choosable() -> None:
    """Measured at step 200 and 400 alone: what lies between is dearer than it seemed."""
    made = drifting(checks(lambda step: step / 1000, until=400, thin=False), lambda step: step / 400 - 0.5, every=200)
    assert [stand(made[:count], 500, 3).kept for count in (15, 16)] == [375, 200]
    assert 200 in choosable(made[:15])


def test_a_check_that_only_looks_the_best_until_its_cells_are_measured_again_displaces_none() -> None:
    made = checks(lambda step: 0.2 if step <= 150 else -0.3, until=300, spread=0)
    spike, fall = (dict.fromkeys(made[number].views, gain) for number, gain in ((10, 0.75), (11, -2.0)))
    made[10:] = [replace(made[10], views=spike), replace(made[11], views=fall)]
    assert [stand(made[:count], 500, 3).kept for count in (10, 11, 12)] == [125, 275, 125]
    assert choosable(made[:11]) == [125, 200, 225, 250, 275]


@pytest.mark.parametrize(
    ("settings", "photos", "told"),
    [
        ({}, 5, ("stops by itself, at most", "500", "steps")),
        ({"steps": 201}, 5, ("stops by itself, at most", "201", "steps")),
        ({"steps": 200}, 5, ("all", "200", "steps: too few to tell when to stop")),
        ({}, 1, ("all", "300", "steps: one photo is too few to tell when to stop")),
        ({"stop": "never"}, 5, ("all", "500", "steps")),
        ({"new_views": "none"}, 5, ("all", "500", "steps")),
    ],
)
def test_a_person_is_told_before_the_click_whether_it_may_end_by_itself(
    tmp_path: Path, settings: dict[str, Any], photos: int, told: tuple[str, str, str]
) -> None:
    config = TrainingConfig(subject="car", **settings)
    assert told in facts(config, photos, RunStore(tmp_path))
    stands = stand([], config.steps_for(photos), photos)
    is_short = told[2].startswith("steps:")
    assert ("that takes more than" in stands.message or "only one photo" in stands.message) is is_short
    assert first_end(photos) == RULE.first_end(photos)
