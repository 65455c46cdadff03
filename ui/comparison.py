"""Two runs side by side: their samples at steps of choice, what was set differently, their curves. Pure functions."""

import html
from collections.abc import Sequence
from typing import Any

from apt_engine.runs.history import History
from apt_engine.runs.run import Run
from apt_engine.settings.training import SUBJECT_SLOT
from ui.plots import Series, file_url, line_plot, smoothed
from ui.sentences import begun_at
from ui.words import say

NOTHING: dict[str, Any] = {"prompts": [], "columns": []}


def distinct_names(names: Sequence[str], runs: Sequence[Run]) -> list[str]:
    """Their names; with when they were begun where they are called alike, and numbered where that is the same too."""
    if len(set(names)) == len(names):
        return list(names)
    dated = [f"{name}, {begun_at(run)}" for name, run in zip(names, runs, strict=True)]
    return dated if len(set(dated)) == len(dated) else [f"{name} ({number})" for number, name in enumerate(dated, 1)]


def show_sides(histories: Sequence[History], names: Sequence[str]) -> dict[str, Any]:
    """The samples, as `assets/sides.js` draws them: a column a run, each at a step of choice, first the kept one.

    Prompts that differ in the subject alone are one row.
    """
    prompts = list(dict.fromkeys(_as_written(prompt, history) for history in histories for prompt in history.prompts))
    phrases = {history.phrase for history in histories}
    subject = phrases.pop() if len(phrases) == 1 else SUBJECT_SLOT
    return {
        "prompts": [prompt.replace(SUBJECT_SLOT, subject) for prompt in prompts],
        "columns": [_column(history, name, prompts) for history, name in zip(histories, names, strict=True)],
    }


def _column(history: History, name: str, prompts: Sequence[str]) -> dict[str, Any]:
    steps = sorted({step for step, _ in history.samples})
    wanted = history.kept_step or (steps[-1] if steps else 0)
    return {
        "name": name,
        "steps": [{"step": step, "words": _words(step, history)} for step in steps],
        "start": min(steps, key=lambda step: abs(step - wanted), default=0),
        "urls": {
            f"{step}-{row}": file_url(history.run.path / path)
            for row, prompt in enumerate(prompts)
            for (step, index), path in history.samples.items()
            if _as_written(history.sampled[step, index], history) == prompt
        },
    }


def _as_written(prompt: str, history: History) -> str:
    return prompt.replace(history.phrase, SUBJECT_SLOT)


def _words(step: int, history: History) -> str:
    if not step:
        return say("before")
    return say("step {step:,}, kept" if step == history.kept_step else "step {step:,}", step=step)


def draw_differences(runs: Sequence[Run], names: Sequence[str]) -> str:
    """The settings in which two runs differ, a column a run.

    Raises:
        RunError: those of one cannot be read.
    """
    first, second = map(_settings_of, runs)
    heads = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in names)
    rows = "".join(
        f'<tr><th scope="row"><code>{name}</code></th><td>{html.escape(value)}</td>'
        f"<td>{html.escape(second[name])}</td></tr>"
        for name, value in first.items()
        if value != second[name]
    )
    table = f'<table class="differences"><thead><tr><td></td>{heads}</tr></thead><tbody>{rows}</tbody></table>'
    said = table if rows else f"<p>{say('Their settings are the same.')}</p>"
    return f'<div class="card"><h2 class="title">{say("What was set differently")}</h2>{said}</div>'


def _settings_of(run: Run) -> dict[str, str]:
    config = run.config
    shown = {name: str(value) for name, value in config.to_dict().items()}
    if not config.steps:
        shown["steps"] = say("{steps:,}, by the photos", steps=config.steps_for(len(run.photo_paths)))
    return shown


def draw_curves(histories: Sequence[History], names: Sequence[str]) -> str:
    """What both runs measured, over their steps."""
    last = max(history.last_step for history in histories)
    views = [[(split.step, 100 * split.views) for split in history.splits] for history in histories]
    plots = "".join(
        f"<section><h2 class='title'>{title}</h2>"
        + line_plot(
            [Series(*line) for line in zip(names, points, ("accent", "dashed"), strict=True)], last, title, unit=unit
        )
        + "</section>"
        for title, unit, points in (
            (say("New views of the photos"), say("% better than untrained"), views),
            (say("Loss"), say("squared error"), [smoothed(history.losses) for history in histories]),
            (say("Drift without the subject"), say("squared difference"), [history.drifts for history in histories]),
        )
    )
    return f'<div class="card details">{plots}</div>'
