"""From numbers and paths to HTML: plots as inline SVG, the sample grid, the progress line. Pure functions.

Plots are drawn on a square of 100 x 100 that the browser stretches; lines keep their width (`non-scaling-stroke`) and all
text is HTML beside the drawing, so that labels stay readable at any width. Colors come from the style sheet, light or dark.
"""

import html
import math
from pathlib import Path
from urllib.parse import quote

MOST_POINTS = 250
MOST_COLUMNS = 6
GAMMA_COLUMNS = 60
SHADES = 10
Points = list[tuple[float, float]]


def file_url(path: Path) -> str:
    """Where the page finds a file of the data directory."""
    return f"gradio_api/file={quote(path.as_posix())}"


def smooth(values: list[float], span: int) -> list[float]:
    """Running mean that forgets over about `span` values, without the pull towards zero at the beginning."""
    keep = 1 - 1 / max(1, span)
    total = weight = 0.0
    means = []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        means.append(total / weight)
    return means


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


def loss_plot(losses: list[tuple[int, float]], last_step: int) -> str:
    """Loss by step: a dot for each step, a line for their running mean.

    Args:
        losses: (step, loss) in order; what is not finite is left out.
        last_step: right end of the axis.
    """
    points: Points = [(float(step), loss) for step, loss in losses if math.isfinite(loss)]
    means = smooth([loss for _, loss in points], span=max(10, len(points) // 20))
    line: Points = [(step, mean) for (step, _), mean in zip(points, means, strict=True)]
    # A few high losses would flatten the rest, so the axis ends near the highest but for a twentieth of them.
    ranked = sorted(loss for _, loss in points)
    top = nice_ceiling(ranked[int(0.95 * (len(ranked) - 1))] * 1.1) if ranked else 1.0
    right = max(last_step, 1)
    drawing = _dots(thin(points, MOST_POINTS), right, top) + _line(thin(line, MOST_POINTS), right, top)
    said = f"Loss by step, on average now {means[-1]:.3f}" if means else "Loss by step, nothing yet"
    legend = '<ul class="legend"><li class="line">average</li><li class="dot">each step</li></ul>'
    return _axes(drawing, right, top, said) + legend


def gamma_map(gammas: list[tuple[int, tuple[float, ...]]], last_step: int) -> str:
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
            words = f"noise levels {row * 100} to {row * 100 + 99}: {value:.2f}"
            size = f'width="{100 / GAMMA_COLUMNS + 0.05:.2f}" height="{height - 0.8:.2f}"'
            cells += f'<rect class="g{shade}" {place} {size}><title>{words}</title></rect>'
    marks = "".join(f"<span>{right * part / 4:,.0f}</span>" for part in range(5))
    names = '<div class="rows"><span>detail</span><span>shape</span><span>layout</span></div>'
    ramp = "".join(f'<i class="g{shade}"></i>' for shade in range(SHADES))
    now = ", ".join(f"{value:.2f}" for value in gammas[-1][1]) if gammas else "nothing yet"
    return (
        f'<div class="plot gamma" role="img" aria-label="Overfitting indicator by noise level, now {now}">{names}'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none">{cells}</svg><div class="marks">{marks}</div></div>'
        f'<p class="legend ramp">0 {ramp} 1</p>'
    )


def sample_grid(prompts: tuple[str, ...], samples: dict[tuple[int, int], str], folder: Path) -> str:
    """A table of pictures: a row a prompt, a column a step, the first being the base model before any training.

    Args:
        prompts: as filled for the run.
        samples: paths within `folder` by (step, index of the prompt); missing ones leave an empty tile.
        folder: the run's.
    """
    if not prompts:
        return '<p class="quiet">Samples are switched off for this run.</p>'
    steps = pick_columns(sorted({step for step, _ in samples}) or [0])
    heads = "".join(f'<th scope="col">{_column_name(step, is_last=step == steps[-1])}</th>' for step in steps)
    rows = ""
    for index, prompt in enumerate(prompts):
        words = html.escape(prompt)
        cells = "".join(
            f"<td>{_tile(samples.get((step, index)), folder, f'{words}, step {step}')}</td>" for step in steps
        )
        rows += f'<tr><th scope="row">{words}</th>{cells}</tr>'
    table = f"<thead><tr><td></td>{heads}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="samples" tabindex="0"><table style="--columns:{len(steps)}">{table}</table></div>'


def pick_columns(steps: list[int], most: int = MOST_COLUMNS) -> list[int]:
    """At most `most` of the sorted steps: the first, the last, and evenly between."""
    if len(steps) <= most:
        return steps
    return [steps[round(place * (len(steps) - 1) / (most - 1))] for place in range(most)]


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


def _column_name(step: int, *, is_last: bool) -> str:
    if step == 0:
        return "before"
    return f"step {step:,} <small>now</small>" if is_last else f"step {step:,}"


def _tile(path: str | None, folder: Path, words: str) -> str:
    if path is None:
        return '<span class="tile"></span>'
    url = file_url(folder / path)
    return f'<a class="tile" href="{url}" target="_blank"><img src="{url}" alt="{words}" loading="lazy"></a>'


def _axes(drawing: str, right: float, top: float, said: str) -> str:
    levels = [top * part / 4 for part in range(5)]
    rules = "".join(f'<path class="rule" d="M0 {100 - 25 * part}h100"/>' for part in range(5))
    heights = "".join(f'<span style="bottom:{25 * part}%">{level:.3g}</span>' for part, level in enumerate(levels))
    marks = "".join(f"<span>{right * part / 4:,.0f}</span>" for part in range(5))
    return (
        f'<div class="plot" role="img" aria-label="{said}"><div class="heights">{heights}</div>'
        f'<svg viewBox="0 0 100 100" preserveAspectRatio="none">{rules}{drawing}</svg><div class="marks">{marks}</div></div>'
    )


def _place(point: tuple[float, float], right: float, top: float) -> str:
    return f"{100 * point[0] / right:.2f} {100 - 100 * min(point[1], top) / top:.2f}"


def _dots(points: Points, right: float, top: float) -> str:
    """Lines of no length with round ends: the only dots that stay round on a stretched drawing."""
    marks = "".join(f"M{_place(point, right, top)}h0" for point in points)
    return f'<path class="dots" d="{marks}"/>' if marks else ""


def _line(points: Points, right: float, top: float) -> str:
    return f'<path class="mean" d="M{"L".join(_place(point, right, top) for point in points)}"/>' if points else ""
