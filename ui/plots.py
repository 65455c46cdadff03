"""From numbers to HTML: plots as inline SVG, the progress line. Pure functions.

Plots are drawn on a square of 100 x 100 that the browser stretches; lines keep their width (`non-scaling-stroke`) and all
text is HTML beside the drawing, so that labels stay readable at any width. Colors come from the style sheet, light or dark.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

MOST_POINTS = 250
GAMMA_COLUMNS = 60
SHADES = 10
BIN_STEPS = 100  # of a thousand noise levels, in one of ten bins
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """One line of a plot: its name in the legend, its points by step, and the style class that colors it."""

    name: str
    points: Sequence[tuple[int, float]]
    style: str = "accent"


def file_url(path: Path) -> str:
    """Where the page finds a file of the data directory."""
    return f"gradio_api/file={quote(path.as_posix())}"


def smooth(values: Sequence[float], span: int) -> list[float]:
    """Running mean that forgets over about `span` values, without the pull towards zero at the beginning."""
    keep = 1 - 1 / max(1, span)
    total = weight = 0.0
    means = []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight)
    return means


def smoothed(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """The running mean of noisy points over a twentieth of them; what is not finite is left out."""
    finite = [(step, value) for step, value in points if math.isfinite(value)]
    means = smooth([value for _, value in finite], span=max(10, len(finite) // 20))
    return [(step, mean) for (step, _), mean in zip(finite, means, strict=True)]


def thin(points: Points, most: int) -> Points:
    """At most `most` of the points, evenly spaced, always with the last."""
    stride = max(1, math.ceil(len(points) / most))
    return points[(len(points) - 1) % stride :: stride]


def nice_ceiling(value: float) -> float:
    """The next of 1, 2, 2.5, 5 times a power of ten; 1 for nothing to show."""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= value * (1 - 1e-9))


def line_plot(series: Sequence[Series], last_step: int, about: str, top: float | None = None) -> str:
    """Lines over the steps, told apart by color and dash, with a legend in the order of the series.

    Args:
        series: what to draw; points that are not finite are left out, points above the axis lie on its edge.
        last_step: right end of the axis.
        about: what it is, for those who do not see it.
        top: upper end of the axis; found from the lines unless given.
    """
    lines = [Series(one.name, [point for point in one.points if math.isfinite(point[1])], one.style) for one in series]
    highest = max((value for one in lines for _, value in one.points), default=0.0)
    top, right = top or nice_ceiling(highest * 1.05), max(last_step, 1)
    drawing = "".join(_line(thin([*one.points], MOST_POINTS), right, top, one.style) for one in lines)
    now = "; ".join(f"{one.name} now {one.points[-1][1]:.3g}" for one in lines if one.points) or "nothing yet"
    names = "".join(f'<li class="{one.style}">{html.escape(one.name)}</li>' for one in lines)
    return _axes(drawing, right, top, f"{about}, {now}") + f'<ul class="legend">{names}</ul>'


def gamma_map(gammas: Sequence[tuple[int, tuple[float, ...]]], last_step: int) -> str:
    """The overfitting indicator as a heat map: a column a stretch of steps, a row a timestep bin, fine detail on top.

    Args:
        gammas: (step, indicator of each bin, 0 to 1) in order.
        last_step: right end of the axis.
    """
    right = max(last_step, 1)
    width = right / GAMMA_COLUMNS
    latest = {int((step - 1) / width): gamma for step, gamma in gammas}
    cells = ""
    for column, gamma in latest.items():
        height = 100 / len(gamma)
        for row, value in enumerate(gamma):
            shade = min(int(value * SHADES), SHADES - 1)
            place = f'x="{100 * column / GAMMA_COLUMNS:.2f}" y="{row * height:.2f}"'
            size = f'width="{100 / GAMMA_COLUMNS + 0.05:.2f}" height="{height - 0.8:.2f}"'
            cells += f'<rect class="g{shade}" {place} {size}><title>{_bin_name(row)}: {value:.2f}</title></rect>'
    names = '<div class="rows" aria-hidden="true"><span>detail</span><span>shape</span><span>layout</span></div>'
    ramp = "".join(f'<i class="g{shade}"></i>' for shade in range(SHADES))
    now = ", ".join(f"{value:.2f}" for value in gammas[-1][1]) if gammas else "nothing yet"
    return (
        f'<div class="plot gamma" role="img" aria-label="Overfitting indicator by noise level, now {now}">{names}'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none">{cells}</svg>{_marks(right)}</div>'
        f'<p class="legend ramp">0 {ramp} 1</p>'
    )


def gamma_lines(gammas: Sequence[tuple[int, tuple[float, ...]]], last_step: int) -> str:
    """The same, a line a bin: detail at the dark end of the ramp, layout at the light one."""
    count = len(gammas[-1][1]) if gammas else 0
    series = [
        Series(_bin_name(row), [(step, gamma[row]) for step, gamma in gammas], f"b{SHADES - 1 - row}")
        for row in range(count)
    ]
    return line_plot(series, last_step, "Overfitting indicator by noise level", top=1.0)


def weight_bars(gamma: Sequence[float]) -> str:
    """How much each noise level still counts: one minus the indicator, a bar a bin."""
    rows = "".join(
        f'<div class="weight" title="{_bin_name(row)}"><span>{_bin_range(row)}</span>'
        f'<i style="width:{100 * (1 - value):.0f}%"></i><b>{1 - value:.2f}</b></div>'
        for row, value in enumerate(gamma)
    )
    return f'<div class="weights">{rows}</div>'


def thumbnails(paths: Sequence[Path], words: str) -> str:
    """A row of small pictures."""
    pictures = "".join(
        f'<img src="{file_url(path)}" alt="{html.escape(words)} {number}" loading="lazy">'
        for number, path in enumerate(paths, 1)
    )
    return f'<div class="views">{pictures}</div>'


def progress_line(fraction: float | None, numbers: list[tuple[str, str, str]]) -> str:
    """A bar and, below it, numbers with their words.

    Args:
        fraction: 0 to 1; None shows that something goes on, without saying how far it is.
        numbers: (words before, number, words after) of each.
    """
    share = "" if fraction is None else f' aria-valuenow="{100 * fraction:.0f}"'
    width = "" if fraction is None else f' style="width:{100 * fraction:.1f}%"'
    kind = "bar unknown" if fraction is None else "bar"
    said = f'role="progressbar" aria-label="progress" aria-valuemin="0" aria-valuemax="100"{share}'
    bar = f'<div class="{kind}" {said}><i{width}></i></div>'
    facts = "".join(f"<span>{before} <b>{html.escape(number)}</b> {after}</span>" for before, number, after in numbers)
    return f'{bar}<p class="numbers">{facts or "&nbsp;"}</p>'


def duration(seconds: float) -> str:
    """Seconds as a person says them: 40 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Bytes as a person says them: 12 MB, 1.1 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 950e6 else f"{max(1, round(count / 1e6))} MB"


def _bin_range(row: int) -> str:
    return f"{row * BIN_STEPS} to {(row + 1) * BIN_STEPS - 1}"


def _bin_name(row: int) -> str:
    return f"noise levels {_bin_range(row)}"


def _marks(right: float) -> str:
    return '<div class="marks">' + "".join(f"<span>{right * part / 4:,.0f}</span>" for part in range(5)) + "</div>"


def _axes(drawing: str, right: float, top: float, said: str) -> str:
    levels = [top * part / 4 for part in range(5)]
    rules = "".join(f'<path class="rule" d="M0 {100 - 25 * part}h100"/>' for part in range(5))
    heights = "".join(f'<span style="bottom:{25 * part}%">{level:.3g}</span>' for part, level in enumerate(levels))
    return (
        f'<div class="plot" role="img" aria-label="{html.escape(said)}"><div class="heights">{heights}</div>'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none">{rules}{drawing}</svg>{_marks(right)}</div>'
    )


def _place(point: tuple[float, float], right: float, top: float) -> str:
    return f"{100 * point[0] / right:.2f} {100 - 100 * min(point[1], top) / top:.2f}"


def _line(points: Points, right: float, top: float, style: str) -> str:
    if not points:
        return ""
    return f'<path class="line {style}" d="M{"L".join(_place(point, right, top) for point in points)}"/>'
