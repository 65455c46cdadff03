"""What the rows say of a run: its split at every check, what its pictures show along the way, and its best step.

K checks, P photos, B bins, N pictures.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy

from benchmarks.evidence.rows import Drift, Finished, Photos, Pictures, Row, Split

Kind = TypeVar("Kind", bound=Row)
MEASURES = ("likeness", "follows", "copies", "moved", "drift")
ALL = slice(None)
FOLLOWS_WITHIN = 0.05  # one picture in twenty; a standard error would allow the less the more pictures are looked at


@dataclass(frozen=True, kw_only=True, eq=False)
class Trajectory:
    """A run, trained to its last step and measured.

    Attributes:
        checks: steps of the checks (K,).
        gains: the split, by framing, photo and bin (K, 3, P, B).
        drifts: at the steps of checks, as a run measures it.
        drawn: step 0, the untrained model, and the checkpoints whose pictures were looked at.
        nearest: of each photo the likeness to the nearest other one.
    """

    finished: Finished
    checks: list[int]
    gains: numpy.ndarray
    drifts: dict[int, float]
    drawn: list[Pictures]
    nearest: list[float]

    @property
    def last_step(self) -> int:
        return self.finished.step

    def pictures(self, measure: str) -> numpy.ndarray:
        """(drawn checkpoints, N) of one of MEASURES."""
        return numpy.array([_values(row, measure) for row in self.drawn])

    def at(self, step: int, measure: str, part: slice = ALL) -> float:
        """The mean of a measure over pictures at any step, on the line between the checkpoints around it."""
        steps = [row.step for row in self.drawn]
        return float(numpy.interp(step, steps, self.pictures(measure)[:, part].mean(axis=1)))


@dataclass(frozen=True, kw_only=True)
class Best:
    """The step with the best likeness among those that follow prompts and do not copy.

    `first` and `last` are the outermost checkpoints that do so too and whose likeness is within one standard error of it.
    """

    step: int
    first: int
    last: int

    def has(self, step: int, slack: float = 0.2) -> bool:
        """Whether a step is as good, or within a fifth of one that is."""
        return self.first * (1 - slack) <= step <= self.last * (1 + slack)


def trajectories(rows: Iterable[Row]) -> list[Trajectory]:
    """All finished runs, in the order of subject, method and seed."""
    rows = list({row.key: row for row in rows}.values())
    found: list[Trajectory] = []
    for run in sorted(_of(rows, Finished), key=lambda row: row.key):
        own = [row for row in rows if (row.subject, row.method, row.seed) == (run.subject, run.method, run.seed)]
        bare = [row for row in rows if (row.subject, row.method) == (run.subject, "base")]
        splits = sorted(_of(own, Split), key=lambda row: row.step)
        found.append(
            Trajectory(
                finished=run,
                checks=[row.step for row in splits],
                gains=numpy.array([row.gains for row in splits]),
                drifts={row.step: row.drift for row in _of(own, Drift)},
                drawn=_of(bare, Pictures) + sorted(_of(own, Pictures), key=lambda row: row.step),
                nearest=_of(bare, Photos)[0].nearest,
            )
        )
    return found


def best_of(run: Trajectory, part: slice = ALL) -> Best | None:
    """The oracle: told by held-out photos and the judge, which no rule sees. None where no checkpoint qualifies.

    A checkpoint qualifies if it follows prompts hardly worse than the untrained model (FOLLOWS_WITHIN), and its pictures by
    the caption are less like a photo than the photos are like each other.

    Args:
        run: with its pictures.
        part: of the pictures that tell likeness.
    """
    likeness = run.pictures("likeness")[1:, part]
    follows, copies = (run.pictures(measure)[1:] for measure in ("follows", "copies"))
    before = run.pictures("follows")[0]
    steps = [row.step for row in run.drawn[1:]]
    fit = [
        index
        for index in range(len(steps))
        if before.mean() - follows[index].mean() <= FOLLOWS_WITHIN and copies[index].mean() < numpy.mean(run.nearest)
    ]
    if not fit:
        return None
    best = max(fit, key=lambda index: likeness[index].mean())
    error = _error(likeness[best])
    alike = [index for index in fit if likeness[index].mean() >= likeness[best].mean() - error]
    return Best(step=steps[best], first=steps[alike[0]], last=steps[alike[-1]])


def interval(groups: Mapping[str, Sequence[float]], draws: int = 2000) -> tuple[float, float]:
    """95 % interval of the mean over all values, by drawing whole groups anew: the runs of a subject are no independent ones."""
    sums = numpy.array([sum(values) for values in groups.values()])
    counts = numpy.array([len(values) for values in groups.values()])
    chosen = numpy.random.default_rng(0).integers(len(groups), size=(draws, len(groups)))
    low, high = numpy.percentile(sums[chosen].sum(axis=1) / counts[chosen].sum(axis=1), (2.5, 97.5))
    return float(low), float(high)


def _of(rows: Iterable[Row], kind: type[Kind]) -> list[Kind]:
    return [row for row in rows if isinstance(row, kind)]


def _values(row: Pictures, measure: str) -> list[float]:
    """Numbers of a checkpoint, one a picture."""
    return [row.drift] if measure == "drift" else list(getattr(row, measure))


def _error(values: numpy.ndarray) -> float:
    """Standard error of the mean."""
    return float(values.std(ddof=1) / len(values) ** 0.5)
