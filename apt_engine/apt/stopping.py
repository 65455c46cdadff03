"""When to stop [ours], and which checkpoint to keep: told from the split and the drift, by one pure function over a run's checks.

While a thing is learnt, new views of the photos are fitted better and better, as the photos themselves are. From some point on
they are fitted no better, and then worse, while the photos go on: from there it only memorizes. The top is flat, and on it all
else the model knows goes on changing, which prompts pay for. So what is kept is the checkpoint at which the gain on new views
less half of the drift is largest. Only the coarser half of the noise levels is asked, where shapes and colors are decided: at
the finer ones new views are fitted worse long before pictures are. Both were found on recorded runs of the tuning subjects,
where this loses the least of likeness and prompts (`python -m benchmarks.evidence tune`).

A check measures a few cells; between its own measurements a cell's gain is read off the straight line through them, from 0 at
step 0, where the untrained model is as good as itself, and after its newest one it stays. So all checks are compared over the
same cells, and what was not measured again neither helps nor hurts. The drift is read the same way. K checks, N cells.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy

from apt_engine.apt.bins import BINS
from apt_engine.apt.split import SHOT_PHASES, Cell


@dataclass(frozen=True)
class Rule:
    """The numbers of the rule.

    Attributes:
        least_steps, least_steps_a_photo: it never ends a run before the larger of both.
        first_bin: finer noise levels do not count.
        drift_weight: how much of the gain on new views, a share of the loss, a drift of 1 outweighs.
        kept_within: the latest checkpoint no more standard errors below the best is kept: it is as good as can be told.
        patience_checks, patience_share: since that one it waits for so many checks, and for this share of the steps so far.
        memorized, cleared: the memorized share of the gain is too large above the one, and no longer below the other.
        memorized_checks: so many checks with too large a share end the waiting; without them it waits twice as long.
        least_gain: below this gain on the shots nothing was learnt.
    """

    least_steps: int = 150
    least_steps_a_photo: int = 40
    first_bin: int = BINS // 2
    drift_weight: float = 0.5
    kept_within: float = 0.0
    patience_checks: int = 4
    patience_share: float = 0.2
    memorized: float = 0.5
    cleared: float = 0.4
    memorized_checks: int = 3
    least_gain: float = 0.02

    def first_end(self, photos: int) -> int:
        """The step before which a run with so many photos does not end."""
        return max(self.least_steps, self.least_steps_a_photo * photos)


RULE = Rule()
SETTLED_AFTER = SHOT_PHASES  # checks; two are enough while all numbers are finite
LEARNING = ": it is learning."
NOT_FINITE = "the checks gave numbers that are not finite; lower learning_rate, or set dtype to fp32"


@dataclass(frozen=True)
class Check:
    """What was measured after a step: gains by cell, on the shots and on new views; any number may be not finite.

    `drift` is None where it was not measured, or is not a number.
    """

    step: int
    shots: Mapping[int, float]
    views: Mapping[int, float]
    drift: float | None = None


@dataclass(frozen=True)
class Standing:
    """Where a run stands.

    Attributes:
        kept: step of the checkpoint to use; 0 for the last, while no other can be told to be better.
        is_over: whether to end.
        message: the same in a sentence.
        shots, views: the gains at each check, as all checks together tell them, at the noise levels that count.
    """

    kept: int
    is_over: bool
    message: str
    shots: tuple[float, ...] = ()
    views: tuple[float, ...] = ()


def stand(checks: Sequence[Check], last_step: int, photos: int, obstacle: str = "", rule: Rule = RULE) -> Standing:
    """Where a run stands after its newest check.

    Args:
        checks: all so far, oldest first.
        last_step: where the run ends in any case.
        photos: how many different ones there are.
        obstacle: why it cannot be told with these photos or settings, as the rest of a sentence; empty where it can.
        rule: its numbers.
    """
    obstacle = obstacle or _obstacle(last_step, photos, rule)
    steps = [check.step for check in checks]
    if not any(map(is_finite, checks)):
        return Standing(0, False, unknown(obstacle or NOT_FINITE), *(2 * (tuple(0.0 for _ in steps),)))
    shots = _gains(steps, [check.shots for check in checks], rule).mean(axis=1)
    cells = _gains(steps, [check.views for check in checks], rule)  # (K, N)
    views = cells.mean(axis=1)
    worth = cells - _price(checks, rule)
    curves = tuple(shots.tolist()), tuple(views.tolist())
    obstacle = obstacle or _nothing_learnt(steps[-1], shots, cells, photos, rule)
    if obstacle:
        return Standing(0, False, unknown(obstacle), *curves)
    finite = [k for k, check in enumerate(checks) if is_finite(check)]
    kept = _kept(worth, finite, rule)
    if not is_finite(checks[-1]):
        message = (
            f"The check of step {steps[-1]:,} gave numbers that are not finite and does not count; lower learning_rate, or set "
            "dtype to fp32."
        )
        return Standing(steps[kept], False, message, *curves)
    waited = (len(checks) - 1 - kept) / rule.patience_checks
    waited = min(waited, (steps[-1] - steps[kept]) / (rule.patience_share * steps[-1]))
    is_over = waited >= (1 if _is_memorizing(shots, views, rule) else 2) and steps[-1] >= rule.first_end(photos)
    return Standing(steps[kept], is_over, _message(steps, shots, views, kept, is_over), *curves)


def choosable(checks: Sequence[Check], rule: Rule = RULE) -> list[int]:
    """Steps of the checkpoints that `stand` may keep at a later check; what it keeps then is one of these or newer.

    It keeps none before the best. A check is settled once each of its cells was measured again, which the newest few wait for,
    and the drift too. Of the settled checks the best stays the best, or a later one becomes it; while it stays, the latest that
    is as good as can be told stays that too.
    """
    steps = [check.step for check in checks]
    with_drift = [k for k, check in enumerate(checks) if check.drift is not None]
    count = min(len(checks) - SETTLED_AFTER, with_drift[-1] + 1 if with_drift else len(checks))
    settled = [k for k in range(count) if is_finite(checks[k])]
    if not settled:
        return steps
    worth = _gains(steps, [check.views for check in checks], rule) - _price(checks, rule)
    return [steps[_kept(worth, settled, rule)], *steps[count:]]


def unknown(obstacle: str) -> str:
    """The sentence for a run of which it cannot be told."""
    return f"Whether it still learns or only memorizes cannot be told: {obstacle}. So it takes all its steps and keeps the last."


def _obstacle(last_step: int, photos: int, rule: Rule) -> str:
    if photos < 2:
        return "there is only one photo, or all look the same; add photos of other sides and places"
    if last_step <= rule.first_end(photos):
        return f"that takes more than {rule.first_end(photos)} steps; give it more"
    return ""


def is_finite(check: Check) -> bool:
    """Whether all its numbers are."""
    return bool(numpy.isfinite([*check.shots.values(), *check.views.values()]).all())


def _nothing_learnt(step: int, shots: numpy.ndarray, cells: numpy.ndarray, photos: int, rule: Rule) -> str:
    if step < rule.first_end(photos):
        return ""
    if shots.max() < rule.least_gain:
        return "your photos are not fitted any better than by the untrained model; raise learning_rate, or give it more steps"
    views = cells[cells.mean(axis=1).argmax()]
    if views.mean() <= _error(views):
        return (
            "new views of your photos are not fitted any better than by the untrained model; add photos of other sides and "
            "places"
        )
    return ""


def _gains(steps: Sequence[int], measured: Sequence[Mapping[int, float]], rule: Rule) -> numpy.ndarray:
    """The gain of each cell that counts at each check (K, N), of those measured by now; (K, 1) zeros where there are none."""
    known: dict[int, list[tuple[int, float]]] = {}
    for step, gains in zip(steps, measured, strict=True):
        for cell, gain in gains.items():
            if numpy.isfinite(gain) and Cell.of(cell).bin >= rule.first_bin:
                known.setdefault(cell, [(0, 0.0)]).append((step, gain))
    if not known:
        return numpy.zeros((len(steps), 1))
    curves = [numpy.interp(steps, [at for at, _ in points], [gain for _, gain in points]) for points in known.values()]
    return numpy.stack(curves, axis=1)


def _price(checks: Sequence[Check], rule: Rule) -> numpy.ndarray:
    """What the drift at each check takes from its gains (K, 1); nothing where it was never measured."""
    known = [(0, 0.0), *((check.step, check.drift) for check in checks if check.drift is not None)]
    steps, drifts = zip(*known, strict=True)
    return rule.drift_weight * numpy.interp([check.step for check in checks], steps, drifts)[:, None]


def _kept(worth: numpy.ndarray, choice: Sequence[int], rule: Rule) -> int:
    """Of some checks the latest that is as good as can be told, by what each of its cells is worth (K, N)."""
    best = max(choice, key=lambda k: worth[k].mean())
    return max(k for k in choice if _lead(worth, best, k) <= rule.kept_within)


def _error(values: numpy.ndarray) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0


def _lead(cells: numpy.ndarray, one: int, other: int) -> float:
    """By how many standard errors of the difference new views are fitted better at one check than at another."""
    differences = cells[one] - cells[other]
    lead, error = float(differences.mean()), _error(differences)
    return lead / error if error else lead * numpy.inf if lead else 0.0


def _is_memorizing(shots: numpy.ndarray, views: numpy.ndarray, rule: Rule) -> bool:
    """Whether the memorized share has been too large for long enough; a share in between changes nothing."""
    count = 0
    for shot, view in zip(shots, views, strict=True):
        share = 1 - view / shot if shot > 0 else 0.0
        if share > rule.memorized:
            count += 1
        elif share < rule.cleared:
            count = 0
    return count >= rule.memorized_checks


def _message(steps: Sequence[int], shots: numpy.ndarray, views: numpy.ndarray, kept: int, is_over: bool) -> str:
    if is_over and views[-1] > views[kept]:
        return (
            f"Since step {steps[kept]:,} new views of your photos gain less than everything else changes; from here it "
            "only overfits."
        )
    if is_over:
        return f"New views of your photos are fitted no better since step {steps[kept]:,}; from here it only memorizes."
    now = f"Your photos are fitted {_told(shots[-1])} than before, new views of them {_told(views[-1])}"
    if kept + 1 < len(steps) and views[-1] > views[kept]:
        return f"{now}; since step {steps[kept]:,} that has grown by less than everything else has changed."
    if kept + 1 < len(steps):
        return f"{now}; that has not grown since step {steps[kept]:,}."
    return f"{now}{LEARNING}"


def at_last_step(message: str) -> str:
    """The sentence of a check, where the run ends after it all the same."""
    return message.replace(LEARNING, ": it was still learning, so more steps may help.")


def _told(gain: float) -> str:
    return f"{100 * abs(gain):.0f} % {'worse' if gain < 0 else 'better'}"
