"""How good a way to choose is: hits of the best step, and what the chosen checkpoint lacks against it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy

from benchmarks.evidence.curves import Best, Trajectory, best_of, interval
from benchmarks.evidence.replay import Choice, Choose

HALVES = (slice(0, None, 2), slice(1, None, 2))


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a way to choose brought on one run.

    Attributes:
        is_hit: whether the kept step is as good as the best, or within a fifth of one that is.
        likeness, follows: what the kept checkpoint lacks against the best one; below 0 where it has more.
        drift: at the kept checkpoint.
        saved: share of the steps not trained.
    """

    run: Trajectory
    choice: Choice
    is_hit: bool
    likeness: float
    follows: float
    drift: float
    saved: float

    @property
    def regret(self) -> float:
        """Both in one; a share of likeness weighs as much as a share of prompts followed."""
        return self.likeness + self.follows


def outcomes(runs: Iterable[Trajectory], choose: Choose) -> list[Outcome]:
    """Of all runs that have a best step."""
    return [_outcome(run, best, choose(run)) for run in runs if (best := best_of(run))]


def _outcome(run: Trajectory, best: Best, choice: Choice) -> Outcome:
    return Outcome(
        run=run,
        choice=choice,
        is_hit=best.has(choice.kept),
        likeness=_likeness_lost(run, choice.kept),
        follows=run.at(best.step, "follows") - run.at(choice.kept, "follows"),
        drift=run.at(choice.kept, "drift"),
        saved=1 - choice.ended / run.last_step,
    )


def _likeness_lost(run: Trajectory, step: int) -> float:
    """Against the step that half of the pictures call the best, told by the other half; the mean of both ways.

    The best of many noisy figures is too good by their noise; pictures that had no part in choosing it are not.
    """
    lost: list[float] = []
    for choosing, telling in (HALVES, HALVES[::-1]):
        best = best_of(run, choosing)
        assert best
        lost.append(run.at(best.step, "likeness", telling) - run.at(step, "likeness", telling))
    return sum(lost) / len(lost)


def hits_of_halves(runs: Iterable[Trajectory], choose: Choose | None = None) -> tuple[float, int]:
    """How often a chosen step is a hit by half of the pictures, the mean of both ways, and of how many runs.

    Without a way to choose it is the best step by the other half: how often the judge hits itself, which no rule can beat
    but by luck.
    """
    hits: list[bool] = []
    for run in runs:
        told = [best_of(run, half) for half in HALVES]
        for mine, other in (told, told[::-1]):
            if mine and other:
                hits.append(mine.has(choose(run).kept if choose else other.step))
    return sum(hits) / len(HALVES), len(hits) // len(HALVES)


def mean_regret(results: Sequence[Outcome]) -> float:
    """Over runs."""
    return float(numpy.mean([result.regret for result in results]))


HEAD = (
    "| way to choose | hits | likeness lost: mean (95 %), median, worst | prompts lost: mean (95 %), median, worst "
    "| drift, median | steps saved |\n| --- | ---: | ---: | ---: | ---: | ---: |"
)


def line(name: str, results: Sequence[Outcome]) -> str:
    """A row of the table whose head is HEAD."""
    hits = sum(result.is_hit for result in results)
    drift, saved = (float(numpy.median([getattr(result, name) for result in results])) for name in ("drift", "saved"))
    lost = " | ".join(_lost(results, measure) for measure in ("likeness", "follows"))
    return f"| {name} | {hits} of {len(results)} | {lost} | {drift:.4f} | {saved:.0%} |"


def by_subject(results: Iterable[Outcome], measure: str) -> dict[str, list[float]]:
    """Numbers of a measure, grouped by subject."""
    groups: dict[str, list[float]] = {}
    for result in results:
        groups.setdefault(result.run.finished.subject, []).append(float(getattr(result, measure)))
    return groups


def _lost(results: Sequence[Outcome], measure: str) -> str:
    values = [float(getattr(result, measure)) for result in results]
    low, high = interval(by_subject(results, measure))
    mean, median, worst = numpy.mean(values), numpy.median(values), max(values)
    return f"{signed(mean)} ({signed(low)} to {signed(high)}), {signed(median)}, {signed(worst)}"


def signed(value: float | numpy.floating) -> str:
    """Three digits, and no minus before a zero."""
    return f"{round(float(value), 3) + 0.0:.3f}"
