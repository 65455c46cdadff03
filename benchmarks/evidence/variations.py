"""How much the numbers of the indicator matter: a line a variation, held against APT as it is on the same subject and seed."""

from collections.abc import Sequence

import numpy

from benchmarks.evidence.curves import MEASURES, Trajectory

BASELINE = "apt"
HEAD = "| at the last step | pairs | " + " | ".join(MEASURES) + " |\n| --- | ---: |" + " ---: |" * len(MEASURES)


def compared(runs: Sequence[Trajectory]) -> str:
    """A table of means: APT's own figures, then how far each variation's lie from them with the standard error over pairs."""
    own = {(run.finished.subject, run.finished.seed): run for run in runs if run.finished.method == BASELINE}
    lines = [HEAD, _line(BASELINE, [[_last(run, measure) for run in own.values()] for measure in MEASURES], "")]
    for method in dict.fromkeys(run.finished.method for run in runs if run.finished.method != BASELINE):
        pairs = [
            (run, own[run.finished.subject, run.finished.seed])
            for run in runs
            if run.finished.method == method and (run.finished.subject, run.finished.seed) in own
        ]
        differences = [[_last(one, measure) - _last(other, measure) for one, other in pairs] for measure in MEASURES]
        lines.append(_line(method, differences, "+"))
    return "\n".join(lines)


def _last(run: Trajectory, measure: str) -> float:
    return run.at(run.last_step, measure)


def _line(name: str, values: Sequence[Sequence[float]], sign: str) -> str:
    cells = [_cell(column, sign) for column in values]
    return f"| {name} | {len(values[0])} | " + " | ".join(cells) + " |"


def _cell(values: Sequence[float], sign: str) -> str:
    if not values:
        return "-"
    error = numpy.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else numpy.nan
    return f"{numpy.mean(values):{sign}.4f} ({error:.4f})"
