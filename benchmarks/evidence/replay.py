"""Ways to choose a checkpoint, tried on recorded runs: our rule with any numbers and any thinning of its checks; controls."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy

from apt_engine.apt.bins import BINS
from apt_engine.apt.split import MIRROR, SHOT, ZOOM, Cell, phases
from apt_engine.apt.stopping import RULE, Check, Rule, stand
from apt_engine.settings.training import TrainingConfig
from benchmarks.evidence.curves import Trajectory

Choose = Callable[[Trajectory], "Choice"]
DRIFT_EVERY = TrainingConfig(subject="thing").drift_every_steps  # as a run does by default
DVAR_THRESHOLD, DVAR_STEPS = 0.15, 200  # the defaults of its authors' code


@dataclass(frozen=True)
class Choice:
    """The checkpoint that is kept, and the step after which nothing more is trained."""

    kept: int
    ended: int


def all_cells_of(run: Trajectory) -> list[Cell]:
    """Every photo in every framing at every bin."""
    photos = run.gains.shape[2]
    return [
        Cell(photo, framing, index)
        for photo in range(photos)
        for framing in (SHOT, MIRROR, ZOOM)
        for index in range(BINS)
    ]


def live_phases(run: Trajectory, rounds: int | None = None) -> list[list[Cell]]:
    """The cells of checks that follow each other, as the engine measures them: so many rounds as a step has samples."""
    photos = run.gains.shape[2]
    views = [(photo, framing) for photo in range(photos) for framing in (MIRROR, ZOOM)]
    return phases(photos, views, rounds or run.finished.settings["batch_size"])


def checks_of(run: Trajectory, cells: Sequence[Sequence[Cell]], every: int = 1) -> list[Check]:
    """Checks of these cells, again and again; every so many of those recorded."""
    checks: list[Check] = []
    for number, (step, gains) in enumerate(list(zip(run.checks, run.gains, strict=True))[every - 1 :: every]):
        chosen = {cell: float(gains[cell.framing, cell.photo, cell.bin]) for cell in cells[number % len(cells)]}
        shots = {cell.code: gain for cell, gain in chosen.items() if cell.framing == SHOT}
        views = {cell.code: gain for cell, gain in chosen.items() if cell.framing != SHOT}
        checks.append(Check(step, shots, views, run.drifts.get(step) if step % DRIFT_EVERY == 0 else None))
    return checks


@functools.cache
def by_rule(rule: Rule = RULE, thinning: Callable[[Trajectory], list[Check]] | None = None) -> Choose:
    """As a run would have ended: check after check until the rule says so. Asked again it does not think again."""

    @functools.cache
    def choose(run: Trajectory) -> Choice:
        checks = thinning(run) if thinning else checks_of(run, live_phases(run))
        kept = 0
        for count in range(1, len(checks) + 1):
            standing = stand(checks[:count], run.last_step, run.finished.photos, rule=rule)
            kept = standing.kept
            if standing.is_over:
                return Choice(kept or checks[count - 1].step, checks[count - 1].step)
        return Choice(kept or run.last_step, run.last_step)

    return choose


def at_last(run: Trajectory) -> Choice:
    """The end."""
    return Choice(run.last_step, run.last_step)


def at_half(run: Trajectory) -> Choice:
    """Half of the way."""
    return Choice(run.last_step // 2, run.last_step // 2)


def at(step: int) -> Choose:
    """A step that is the same for all."""
    return lambda run: Choice(step, step)


def by_dvar(run: Trajectory) -> Choice:
    """Where the loss on the photos, always at the same noises, no longer varies (arXiv 2302.04841): its plateau.

    As its authors' code: the variance over a window as a share of the variance so far; here over checks, not over steps.
    """
    losses = 1 - run.gains[:, SHOT].mean(axis=(1, 2))  # (K,)
    window = DVAR_STEPS // run.checks[0]
    for count in range(window, len(losses) + 1):
        if numpy.var(losses[count - window : count]) < DVAR_THRESHOLD * numpy.var(losses[:count]):
            return Choice(run.checks[count - 1], run.checks[count - 1])
    return at_last(run)
