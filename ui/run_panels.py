"""What the page shows of a run: from its history to HTML. Pure functions."""

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from apt_engine.jobs.estimate import duration, size
from apt_engine.runs.history import History
from ui.plots import (
    Series,
    file_url,
    gamma_lines,
    gamma_map,
    line_plot,
    progress_line,
    smoothed,
    thumbnails,
    weight_bars,
)
from ui.words import later, number, say, told

OF_STEPS, OF_AT_MOST, OF_ALL = later("of {last:,} steps"), later("of at most {last:,}"), later("of {last:,}")
LAYOUTS = {"kohya": later("LoRA for ComfyUI, Forge, A1111"), "diffusers": later("LoRA for diffusers")}


def _title(title: str, about: str) -> str:
    return f'<h2 class="title">{title}</h2><p>{about}</p>'


def draw_split(history: History) -> str:
    """How much better than the untrained model the photos are fitted, and new views of them, which are never trained on."""
    title = say("Learning or memorizing")
    if history.state in ("finished", "stopped") and not history.splits:
        return _title(title, say("This run was not checked for it, so its last step is kept."))
    about = say("New views (mirrored, enlarged) are never trained on. Where only your photos still rise, it memorizes.")
    series = [
        Series(
            say("your photos"), [(0, 0.0), *((split.step, 100 * split.shots) for split in history.splits)], "dashed"
        ),
        Series(say("new views of them"), [(0, 0.0), *((split.step, 100 * split.views) for split in history.splits)]),
    ]
    return _title(title, about) + _lines_of(history, series, title, unit=say("% better than untrained"))


def draw_indicator(history: History) -> str:
    """The heat map of the overfitting indicator."""
    if history.step and not history.gammas:
        return _title(
            say("Overfitting indicator"),
            say("This run does not compute it: re-framing and all that keeps what the model knows are off."),
        )
    about = say("Stronger color: fits your photos far better than the untrained model does. Rows: noise level.")
    drawn = gamma_map(history.gammas, history.last_step, history.kept_step)
    return _title(say("Overfitting indicator"), about) + drawn


def draw_lines(history: History) -> str:
    """The same as lines."""
    return gamma_lines(history.gammas, history.last_step, history.kept_step)


def draw_loss(history: History) -> str:
    """The loss, smoothed, beside that of the untrained model on the same noise."""
    series = [Series(say("yours"), smoothed(history.losses))]
    if history.references:
        series.append(Series(say("untrained"), smoothed(history.references), "dashed"))
    plot = _lines_of(history, series, say("Loss"), unit=say("squared error"))
    return _title(say("Loss"), say("How far the guess of the noise is off.")) + plot


def draw_drift(history: History) -> str:
    """How far the model moved where the subject is not asked for; the untrained model is the line at nothing."""
    series = [Series(say("drift"), history.drifts, "warm")]
    plot = _lines_of(history, series, say("Drift"), unit=say("squared difference"))
    about = say("How far pictures without your subject have moved; 0 is the untrained model.")
    return _title(say("Drift"), about) + plot


def draw_samples(history: History) -> dict[str, Any]:
    """What `assets/samples.js` draws: urls by step and prompt, and the kept step.

    Where prompts were changed on the way, those of now come first, and a note beside each that is not drawn all along says when.
    """
    drawn = {at: (at[1], history.sampled[at]) for at in history.samples}  # a prompt in another place has another seed
    rows = list(dict.fromkeys([*enumerate(history.prompts), *drawn.values()]))
    return {
        "prompts": [prompt for _, prompt in rows],
        "notes": [_when_drawn(history, row, {at[0] for at in drawn if drawn[at] == row}) for row in rows],
        "steps": sorted({step for step, _ in history.samples}) or [0],
        "urls": {
            f"{at[0]}-{rows.index(drawn[at])}": file_url(history.run.path / path)
            for at, path in history.samples.items()
        },
        "kept": history.kept_step,
    }


def _when_drawn(history: History, row: tuple[int, str], steps: set[int]) -> str:
    """From or until which step samples of a prompt are drawn; empty of one that is drawn all along."""
    if row not in enumerate(history.prompts):
        return say("until step {step:,}", step=max(steps))
    first = min((step for step, _ in history.samples), default=history.step)
    if not steps:
        return say("from the next samples on") if history.step > first else ""
    return say("since step {step:,}", step=min(steps)) if min(steps) > first else ""


def draw_views(history: History) -> str:
    """The newest re-framed photos."""
    if not history.views:
        return ""
    about = say("What the trainer really saw in the last steps.")
    paths = [history.run.path / path for path in history.views]
    return _title(say("Re-framed just now"), about) + thumbnails(paths, say("re-framed photo"))


def draw_details(history: History) -> str:
    """What each part of APT does, for those who want to know."""
    gamma = history.gammas[-1][1] if history.gammas else ()
    plots = (
        (say("How much each noise level still counts"), say("One minus the indicator."), weight_bars(gamma)),
        (
            say("Chance of being re-framed"),
            say("The mean over the photos of a step."),
            _plot(say("chance"), history.chances, history, top=1.0),
        ),
        (say("Features moved (RS)"), say("Before it is weighted."), _plot("RS", history.kept_features, history)),
        (say("Attention moved (AA)"), say("Before it is weighted."), _plot("AA", history.kept_attention, history)),
    )
    return (
        '<div class="details">'
        + "".join(f"<section>{_title(*words)}{plot}</section>" for *words, plot in plots)
        + "</div>"
    )


def _plot(name: str, points: Sequence[tuple[int, float]], history: History, top: float | None = None) -> str:
    return _lines_of(history, [Series(name, smoothed(points))], name, unit=name, top=top)


def _lines_of(history: History, series: Sequence[Series], about: str, *, unit: str, top: float | None = None) -> str:
    return line_plot(series, history.last_step, about, unit=unit, top=top, kept_step=history.kept_step)


def draw_progress(history: History, state: str) -> str:
    """How far the run is: a bar, and numbers below it."""
    # While samples are drawn between two steps the bar stays where it is.
    is_waiting = state in ("waiting", "waking") or (
        state == "training" and history.stage not in ("", "training", "sampling")
    )
    fraction = history.fraction if is_waiting else history.step / max(1, history.last_step)
    is_over = state in ("finished", "stopped")
    after = OF_STEPS if is_over else OF_AT_MOST if history.may_end_early else OF_ALL
    numbers = [("" if is_over else say("step"), number(history.step, ","), say(after, last=history.last_step))]
    if history.losses:
        numbers.append((say("loss"), number(history.losses[-1][1], ".4f"), ""))
    seconds = history.seconds_per_step
    if seconds and state == "training":
        is_fast = seconds < 1
        pace = number(1 / seconds, ".1f") if is_fast else say("{seconds:.1f} s", seconds=seconds)
        numbers.append(("", pace, say("steps a second") if is_fast else say("a step")))
        numbers.append((say("about"), told(duration(seconds * (history.last_step - history.step))), say("left")))
    if history.memory:
        numbers.append((say("memory"), told(size(history.memory)), ""))
    if history.kept_step:
        numbers.append((say("kept: step"), number(history.kept_step, ","), ""))
    if history.saved_step:
        numbers.append((say("last saved: step"), number(history.saved_step, ","), ""))
    return progress_line(fraction, numbers)


def draw_files(history: History) -> str:
    """Links to the LoRA files for other programs."""
    return "".join(
        f'<a class="button" id="{layout}" href="export/{quote(history.run.id)}/{layout}" download>{say(words)}</a>'
        for layout, words in LAYOUTS.items()
        if layout in history.exports
    )


def draw_links(paths: Sequence[Path]) -> str:
    """Links to LoRA files that were just written."""
    return "".join(f'<a class="button" href="{file_url(path)}" download>{html.escape(path.name)}</a>' for path in paths)


def log_link(state: str, run_id: str) -> str:
    """Where one can read more of what went wrong."""
    if state != "failed":
        return ""
    words = say("Read the log of this run")
    return f'<p class="note"><a href="log?run={quote(run_id)}" target="_blank">{words}</a></p>'
