"""Methods held against each other where they are equally like the subject, along each one's own curve."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy

from benchmarks.evidence.curves import Trajectory

FINE = 5  # steps between the points of an interpolated curve
NEARLY = 0.95  # the very top of a curve is its luckiest checkpoint
LEAST_GAIN = 0.02  # likeness; two standard errors of a checkpoint's: below it nothing is gained that could be equal


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A run of a method and the plain run of the same subject and seed."""

    run: Trajectory
    plain: Trajectory


def pairs(runs: Sequence[Trajectory], method: str) -> list[Pair]:
    """Those of which both are there and come closer to the subject."""
    plain = {(run.finished.subject, run.finished.seed): run for run in runs if run.finished.method == "plain"}
    found = [
        Pair(run=run, plain=plain[key])
        for run in runs
        if run.finished.method == method and (key := (run.finished.subject, run.finished.seed)) in plain
    ]
    return [pair for pair in found if _gain(pair) >= LEAST_GAIN]


def _gain(pair: Pair) -> float:
    """The likeness that both gain at their best."""
    tops = [float(run.pictures("likeness").mean(axis=1).max()) for run in (pair.run, pair.plain)]
    return min(tops) - pair.plain.at(0, "likeness")


def _first_step_with(run: Trajectory, likeness: float) -> int:
    """The first step at which a run is so like its subject, which it is somewhere."""
    steps = range(FINE, run.last_step + 1, FINE)
    return next((step for step in steps if run.at(step, "likeness") >= likeness), run.last_step)


def at_equal_likeness(pair: Pair, measure: str) -> tuple[float, float]:
    """A measure of the run and of the plain one, each at its first step with NEARLY of the likeness that both gain."""
    wanted = pair.plain.at(0, "likeness") + NEARLY * _gain(pair)
    run, plain = (one.at(_first_step_with(one, wanted), measure) for one in (pair.run, pair.plain))
    return run, plain


def ratio(values: Sequence[tuple[float, float]]) -> float:
    """Of a measure at equal likeness: the geometric mean over pairs, 1 where the method changes nothing."""
    return float(numpy.exp(numpy.mean([numpy.log(one / other) for one, other in values])))
