"""What came of a sweep: a table of all rows, the means of each setting, and a plot of both."""

import csv
import io
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from apt_engine.errors import ConfigError
from apt_engine.jobs.sweep.plan import SEED, SUBJECT, Plan
from apt_engine.jobs.sweep.study import INSTALL, METRICS, Standing
from apt_engine.runs.files import write_atomically

TABLE, PLOT = "table.csv", "plot.svg"
HEIGHTS = ("gain on new views\n(more is better)", "memorized\n(less is better)", "drift\n(less is better)")
NOTHING = "-"


def write_report(standings: Sequence[Standing], plan: Plan, folder: Path) -> list[Path]:
    """Write table and plot; returns their paths.

    Raises:
        DiskError: they cannot be written.
    """
    write_atomically(folder / TABLE, _as_csv(rows_of(standings, plan)).encode())
    write_atomically(folder / PLOT, draw(standings, plan))
    return [folder / TABLE, folder / PLOT]


def rows_of(standings: Sequence[Standing], plan: Plan) -> list[list[str]]:
    """The table with its head: what was chosen, where the row is, what was measured, which run or which sentence."""
    names = [SUBJECT, *(name for name in plan.axes if name not in (SUBJECT, SEED)), SEED]
    head = [*names, "state", *METRICS, "run"]
    lines = []
    for standing in standings:
        values = standing.values or (math.inf,) * len(METRICS)
        choices = [str(standing.row.choices[name]) for name in names]
        lines.append([*choices, standing.state, *map(_number, values), standing.run or standing.message])
    return [head, *lines]


def means_of(standings: Sequence[Standing]) -> list[list[str]]:
    """A line for each setting: how many runs it has, and the mean of each measure with its standard error."""
    head = ["settings", "runs", *METRICS]
    lines = []
    for setting in dict.fromkeys(standing.row.setting for standing in standings):
        done = [one for one in standings if one.row.setting == setting and one.state == "done"]
        measures = [_mean([one.values[index] for one in done]) for index in range(len(METRICS))]
        lines.append([setting, str(len(done)), *measures])
    return [head, *lines]


def as_text(lines: Sequence[Sequence[str]]) -> str:
    """Columns for a terminal."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def draw(standings: Sequence[Standing], plan: Plan) -> bytes:
    """An SVG with a panel a measure: a point a run, colored by subject, above its settings; a bar for the mean."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(INSTALL) from None
    settings = list(dict.fromkeys(standing.row.setting for standing in standings))
    figure = Figure(figsize=(3 + 1.2 * len(settings), 9), layout="constrained")
    panels = figure.subplots(len(METRICS), 1, sharex=True)
    for index, (axes, height) in enumerate(zip(panels, HEIGHTS, strict=True)):
        for subject in plan.axes[SUBJECT]:
            points = [
                (settings.index(one.row.setting), one.values[index])
                for one in standings
                if one.state == "done" and one.row.choices[SUBJECT] == subject and math.isfinite(one.values[index])
            ]
            axes.plot([x for x, _ in points], [y for _, y in points], "o", alpha=0.7, label=str(subject))
        for x, setting in enumerate(settings):
            values = _finite([one.values[index] for one in standings if one.values and one.row.setting == setting])
            if values:
                axes.hlines(statistics.fmean(values), x - 0.3, x + 0.3, color="black")
        axes.set_ylabel(height)
        axes.grid(axis="y", alpha=0.3)
    panels[0].legend(fontsize="small")
    panels[-1].set_xticks(
        range(len(settings)), [setting.replace(", ", "\n") for setting in settings], rotation=25, ha="right"
    )
    file = io.BytesIO()
    figure.savefig(file, format="svg")
    return file.getvalue()


def _as_csv(lines: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _number(value: float) -> str:
    return f"{value:.5g}" if math.isfinite(value) else NOTHING


def _mean(values: Sequence[float]) -> str:
    finite = _finite(values)
    if not finite:
        return NOTHING
    error = statistics.stdev(finite) / math.sqrt(len(finite)) if len(finite) > 1 else math.nan
    return _number(statistics.fmean(finite)) + (f" ± {error:.2g}" if math.isfinite(error) else "")


def _finite(values: Sequence[float]) -> list[float]:
    return [value for value in values if math.isfinite(value)]
