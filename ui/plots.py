"""From numbers to HTML: plots as inline SVG, the progress line. Pure functions.

Plots are drawn on a square of 100 x 100 that the browser stretches; lines keep their width (`non-scaling-stroke`) and all
text is HTML beside the drawing, so that labels stay readable at any width. Colors come from the style sheet, light or dark.
`assets/plots.js` shows the values under the pointer; it reads them off the drawing.
"""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ui.words import number, say

MOST_POINTS = 250
GAMMA_COLUMNS = 60
SHADES = 10
MOST_TICKS = 6
BIN_STEPS = 100  # of a thousand noise levels, in one of ten bins
Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Series:
    """One line of a plot: its name in the legend, its points by step, the style class that colors it, and its errors."""

    name: str
    points: Sequence[tuple[int, float]]
    style: str = "accent"
    errors: Sequence[float] = ()  # of each point; none without


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


def ticks(low: float, high: float) -> list[float]:
    """Four to seven round numbers, evenly spaced, from at or below `low` to at or above `high`; 0 to 1 for nothing to show."""
    if not (math.isfinite(low) and math.isfinite(high) and high > low):
        low, high = 0.0, 1.0
    power = 10.0 ** math.floor(math.log10(high - low))
    step = next(part * power for part in (0.1, 0.2, 0.5, 1, 2) if part * power * MOST_TICKS >= high - low)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * number for number in range(first, last + 1)]


def line_plot(
    series: Sequence[Series],
    last_step: int,
    about: str,
    *,
    unit: str = "",
    top: float | None = None,
    kept_step: int = 0,
) -> str:
    """Lines over the steps, told apart by color and dash, with a legend in the order of the series.

    Args:
        series: what to draw; points that are not finite are left out, points above the axis lie on its edge.
        last_step: right end of the axis.
        about: what it is, for those who do not see it.
        unit: what the height is, in a word or two.
        top: upper end of the axis; found from the lines unless given.
        kept_step: the step to mark; 0 for none.
    """
    lines = [Series(one.name, [point for point in one.points if math.isfinite(point[1])], one.style) for one in series]
    spreads = [spread for spread in map(_spread, series) if spread]
    values = [value for one in lines for _, value in one.points]
    values += [edge for spread in spreads for _, *both in spread for edge in both]
    levels = ticks(min([0.0, *values]), top or 1.05 * max(values, default=0.0))  # clear of the edge
    window = _Window(max(last_step, 1), levels[0], levels[-1])
    drawing = "".join(_band(spread, window) for spread in spreads)
    drawing += "".join(_line(thin([*one.points], MOST_POINTS), window, one) for one in lines)
    last = [(one.name, one.points[-1][1]) for one in lines if one.points]
    now = "; ".join(say("{name} now {value:.3g}", name=name, value=value) for name, value in last) or say("nothing yet")
    names = "".join(f'<li class="{one.style}">{html.escape(one.name)}</li>' for one in lines)
    rules = "".join(f'<path class="rule" d="M0 {window.y(level):.2f}h100"/>' for level in levels)
    heights = "".join(f'<span style="bottom:{100 - window.y(level):.1f}%">{_short(level)}</span>' for level in levels)
    return (
        f'<div class="plot lines" role="img" aria-label="{html.escape(f"{about}, {now}")}" {window.data}>'
        f'<small class="unit">{html.escape(unit)}</small><div class="heights">{heights}</div>'
        f"{_drawing(rules + drawing, window.right, kept_step)}</div>"
        f'<ul class="legend">{names}</ul>'
    )


def gamma_map(gammas: Sequence[tuple[int, tuple[float, ...]]], last_step: int, kept_step: int = 0) -> str:
    """The overfitting indicator as a heat map: a column a stretch of steps, a row a timestep bin, fine detail on top.

    Args:
        gammas: (step, indicator of each bin, 0 to 1) in order.
        last_step: right end of the axis.
        kept_step: the step to mark; 0 for none.
    """
    right = max(last_step, 1)
    width = right / GAMMA_COLUMNS
    latest = {int((step - 1) / width): (step, gamma) for step, gamma in gammas}
    cells = "".join(_column(column, step, gamma) for column, (step, gamma) in latest.items())
    rows = "".join(f"<span>{words}</span>" for words in (say("detail"), say("shape"), say("layout")))
    names = f'<div class="rows" aria-hidden="true">{rows}</div>'
    ramp = "".join(f'<i class="g{shade}"></i>' for shade in range(SHADES))
    values = "; ".join(number(value, ".2f") for value in gammas[-1][1]) if gammas else say("nothing yet")
    about = say("Overfitting indicator by noise level, now {values}", values=values)
    return (
        f'<div class="plot gamma" role="img" aria-label="{about}">{names}'
        f"{_drawing(cells, right, kept_step)}</div>"
        f'<p class="legend ramp">0 {ramp} 1</p>'
    )


def gamma_lines(gammas: Sequence[tuple[int, tuple[float, ...]]], last_step: int, kept_step: int = 0) -> str:
    """The same, a line a bin: detail at the dark end of the ramp, layout at the light one."""
    count = len(gammas[-1][1]) if gammas else 0
    series = [
        Series(_bin_name(row), [(step, gamma[row]) for step, gamma in gammas], f"b{SHADES - 1 - row}")
        for row in range(count)
    ]
    about = say("Overfitting indicator by noise level")
    return line_plot(series, last_step, about, unit=say("indicator"), top=1.0, kept_step=kept_step)


def weight_bars(gamma: Sequence[float]) -> str:
    """How much each noise level still counts: one minus the indicator, a bar a bin."""
    rows = "".join(
        f'<div class="weight" title="{_bin_name(row)}"><span>{_bin_range(row)}</span>'
        f'<i style="width:{100 * (1 - value):.0f}%"></i><b>{number(1 - value, ".2f")}</b></div>'
        for row, value in enumerate(gamma)
    )
    return f'<div class="weights">{rows}</div>'


def thumbnails(paths: Sequence[Path], words: str) -> str:
    """A row of small pictures."""
    pictures = "".join(
        f'<img src="{file_url(path)}" alt="{html.escape(words)} {place}" loading="lazy">'
        for place, path in enumerate(paths, 1)
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
    said = f'role="progressbar" aria-label="{say("progress")}" aria-valuemin="0" aria-valuemax="100"{share}'
    bar = f'<div class="{kind}" {said}><i{width}></i></div>'
    # The engine's words may quote a prompt, which came with a stranger's picture, or a name out of a stranger's file.
    escaped = (map(html.escape, said) for said in numbers)
    facts = "".join(f"<span>{before} <b>{value}</b> {after}</span>" for before, value, after in escaped)
    return f'{bar}<p class="numbers">{facts or "&nbsp;"}</p>'


def _bin_range(row: int) -> str:
    return say("{low} to {high}", low=row * BIN_STEPS, high=(row + 1) * BIN_STEPS - 1)


def _bin_name(row: int) -> str:
    return say("noise levels {low} to {high}", low=row * BIN_STEPS, high=(row + 1) * BIN_STEPS - 1)


@dataclass(frozen=True)
class _Window:
    """The steps and values that a plot spans."""

    right: int
    low: float
    top: float

    @property
    def data(self) -> str:
        """For the script that reads values off the drawing."""
        return f'data-right="{self.right}" data-low="{self.low:.6g}" data-top="{self.top:.6g}"'

    def x(self, step: float) -> float:
        return 100 * step / self.right

    def y(self, value: float) -> float:
        return 100 - 100 * (min(value, self.top) - self.low) / (self.top - self.low)


def _drawing(inside: str, right: int, kept_step: int) -> str:
    """The square with its steps below, and the kept step as a dashed line through it."""
    kept = label = ""
    if 0 < kept_step <= right:
        x = 100 * kept_step / right
        kept = f'<path class="kept" d="M{x:.2f} 0v100"/>'
        side = f"right:{100 - x:.1f}%" if x > 50 else f"left:{x:.1f}%"
        label = f'<b class="kept" style="{side}">{say("kept, {step:,}", step=kept_step)}</b>'
    marks = "".join(
        f'<span{" class=end" if step == right else ""} style="left:{100 * step / right:.1f}%">{number(step, ",.0f")}</span>'
        for step in ticks(0, right)
        if step <= right and step.is_integer()
    )
    return (
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" data-right="{right}">{inside}{kept}</svg>'
        f'<div class="marks"><small>{say("step")}</small>{marks}{label}</div>'
    )


def _column(column: int, step: int, gamma: Sequence[float]) -> str:
    height = 100 / len(gamma)
    return "".join(
        f'<rect class="g{min(int(value * SHADES), SHADES - 1)}" x="{100 * column / GAMMA_COLUMNS:.2f}" y="{row * height:.2f}" '
        f'width="{100 / GAMMA_COLUMNS + 0.05:.2f}" height="{height - 0.8:.2f}" '
        f'data-step="{step}" data-words="{say("step {step:,}", step=step)}, {_bin_name(row)}: {number(value, ".2f")}"/>'
        for row, value in enumerate(gamma)
    )


def _short(value: float) -> str:
    return number(value, ".3g") if abs(value) > 1e-12 else "0"


def _line(points: Points, window: _Window, one: Series) -> str:
    if not points:
        return ""
    places = "L".join(f"{window.x(step):.2f} {window.y(value):.2f}" for step, value in points)
    return f'<path class="line {one.style}" data-name="{html.escape(one.name)}" d="M{places}"/>'


def _spread(one: Series) -> list[tuple[int, float, float]]:
    """Step, lower and upper edge of each point that has an error."""
    return [
        (step, value - error, value + error)
        for (step, value), error in zip(one.points, one.errors, strict=False)
        if math.isfinite(value) and math.isfinite(error)
    ]


def _band(spread: Sequence[tuple[int, float, float]], window: _Window) -> str:
    upper = [f"{window.x(step):.2f} {window.y(high):.2f}" for step, _, high in spread]
    lower = [f"{window.x(step):.2f} {window.y(low):.2f}" for step, low, _ in reversed(spread)]
    return f'<path class="band" d="M{"L".join(upper + lower)}Z"/>'
