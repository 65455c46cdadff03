"""Finds the numbers of the rule on recorded runs of the tuning subjects, and what thinner checks cost."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from apt_engine.apt.stopping import RULE, Check, Rule
from benchmarks.evidence.curves import Trajectory
from benchmarks.evidence.replay import (
    Choose,
    all_cells_of,
    at,
    at_half,
    at_last,
    by_dvar,
    by_rule,
    checks_of,
    live_phases,
)
from benchmarks.evidence.scores import mean_regret, outcomes

TRIED: dict[str, tuple[float, ...]] = {
    "first_bin": (0, 5, 7),
    "drift_weight": (0.0, 0.5, 1.0, 2.0, 4.0),
    "kept_within": (0.0, 1.0, 2.0),
    "patience_checks": (2, 4, 6),
    "memorized_checks": (1, 3),
}
AS_LIVE = "as the engine"
THINNINGS: dict[str, Callable[[Trajectory], list[Check]]] = {
    "all cells": lambda run: checks_of(run, [all_cells_of(run)]),
    AS_LIVE: lambda run: checks_of(run, live_phases(run)),
    "a quarter of the cells": lambda run: checks_of(run, live_phases(run, rounds=1)),
    "every second check": lambda run: checks_of(run, live_phases(run), every=2),
}


def regret(runs: Sequence[Trajectory], choose: Choose) -> float:
    """Mean over runs."""
    return mean_regret(outcomes(runs, choose))


def best_constant(runs: Sequence[Trajectory]) -> int:
    """The step that would have been best for all these runs together."""
    return min(runs[0].checks, key=lambda step: regret(runs, at(step)))


def controls(tuning: Sequence[Trajectory]) -> dict[str, Choose]:
    """What the rule is held against; the constant comes from the tuning subjects.

    A hundred steps a photo is the last step here, all subjects have five photos.
    """
    step = best_constant(tuning)
    return {
        "last step (100 a photo)": at_last,
        "half": at_half,
        f"best constant of the tuning subjects: {step}": at(step),
        "DVAR (arXiv 2302.04841)": by_dvar,
    }


def rules() -> Iterator[Rule]:
    """All combinations of TRIED."""
    for values in itertools.product(*TRIED.values()):
        yield replace(RULE, **dict(zip(TRIED, values, strict=True)))


def ranked(runs: Sequence[Trajectory], thinning: str) -> list[tuple[float, Rule]]:
    """Rules by their regret, the least first; of those alike the one that is nearer to the present one."""
    found = [(regret(runs, by_rule(rule, THINNINGS[thinning])), rule) for rule in rules()]
    return sorted(found, key=lambda one: (round(one[0], 4), _changes(one[1])))


def _changes(rule: Rule) -> int:
    return sum(getattr(rule, name) != getattr(RULE, name) for name in TRIED)
