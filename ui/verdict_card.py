"""The verdict of a run on the Watch tab: asked for with a click, whose cost is told before; four curves, copies, a sentence."""

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from apt_engine.errors import EngineError
from apt_engine.jobs.estimate import duration, verdict_seconds
from apt_engine.runs.events import PicturesJudged
from apt_engine.runs.history import History
from apt_engine.runs.verdict import PICTURES, Verdict, chosen_steps, mean_of, measured_by
from ui.context import AppContext, Values
from ui.plots import Series, file_url, line_plot, progress_line
from ui.words import count, gap, later, number, say, told

TITLES = {
    "likeness": (
        later("Likeness"),
        later("how alike the thing in other places and in your photos is"),
        later("cosine of features"),
    ),
    "follows": (
        later("Follows the prompt"),
        later("how much the prompt helps to guess the picture, over places and styles"),
        later("share of the loss"),
    ),
    "copies": (
        later("Repeats your photos"),
        later("how close pictures drawn from the caption alone come to a photo"),
        later("cosine of features"),
    ),
}
ABOUT = later(
    "The untrained model draws the same pictures as some of your checkpoints and looks at all of them: likeness, whether they "
    "follow prompts, whether they repeat your photos, and what else has moved."
)


@dataclass(frozen=True)
class VerdictCard:
    """Its components."""

    column: gr.Column
    cost: gr.HTML
    judge: gr.Button
    stop: gr.Button
    progress: gr.HTML
    judged: gr.HTML

    @property
    def outputs(self) -> list[Block]:
        """What changes when the run goes on."""
        return [self.column, self.cost, self.judge, self.judged]


def build() -> VerdictCard:
    """Make the components."""
    with gr.Column(elem_classes="card", elem_id="verdict", visible=False) as column:
        with gr.Row(elem_classes="actions", equal_height=False):
            cost = gr.HTML("", elem_id="verdict-cost")
            judge = gr.Button(say("Judge it"), size="sm", elem_id="judge", scale=0, min_width=110)
            stop = gr.Button(say("Stop"), size="sm", visible=False, elem_id="stop-judging", scale=0, min_width=80)
        progress = gr.HTML("", visible=False, elem_id="judging")
        judged = gr.HTML("", elem_id="judged")
    return VerdictCard(column, cost, judge, stop, progress, judged)


def connect(card: VerdictCard, context: AppContext, watched: gr.State) -> None:
    """Wire its buttons; `watched` says which run is in view."""
    card.judge.click(
        partial(judge_run, card, context, watched),
        {watched},
        [card.progress, card.judge, card.stop],
        show_progress="hidden",
        api_visibility="private",
    )
    card.stop.click(partial(stop_judging, context), None, None, queue=False, api_visibility="private")


def judge_run(card: VerdictCard, context: AppContext, watched: gr.State, values: Values) -> Iterator[Values]:
    """Judge the checkpoints of the run in view; the verdict comes with its events."""
    end: Values = {
        card.progress: gr.HTML(visible=False),
        card.judge: gr.Button(interactive=True),
        card.stop: gr.Button(visible=False),
    }
    busy: Values = {card.judge: gr.Button(interactive=False), card.stop: gr.Button(visible=True)}
    try:
        for progress in context.engine.judge(values[watched].run_id):
            bar = progress_line(progress.fraction, [(told(progress.message), "", "")])
            yield {card.progress: gr.HTML(bar, visible=True), **busy}
        yield end
    except EngineError as error:
        yield {**end, card.progress: gr.HTML(f'<p class="note">{html.escape(told(str(error)))}</p>', visible=True)}


def stop_judging(context: AppContext) -> None:
    """Ask the engine to leave off; nothing of a verdict that is not whole is kept."""
    context.engine.stop()


def show(card: VerdictCard, history: History, *, is_over: bool) -> dict[Block, Any]:
    """What the page shows of a run; nothing while it is trained."""
    is_shown = is_over and history.saved_step > 0
    return {
        card.column: gr.Column(visible=is_shown),
        card.cost: draw_cost(history) if is_shown else "",
        card.judge: gr.Button(say("Judge again") if history.verdict else say("Judge it")),
        card.judged: draw_verdict(history) if is_shown else "",
    }


def draw_cost(history: History) -> str:
    """What a verdict would take, and what it is."""
    steps = chosen_steps([item.step for item in history.run.checkpoints()], history.kept_step)
    seconds = verdict_seconds(history, len(steps))
    cost = count(
        "<b>{pictures}</b> pictures, of the untrained model and {number} checkpoint",
        "<b>{pictures}</b> pictures, of the untrained model and {number} checkpoints",
        len(steps),
        pictures=PICTURES * (1 + len(steps)),
    )
    if seconds:
        cost = say("{what}, about <b>{time}</b>", what=cost, time=told(duration(seconds)))
    about = "" if history.verdict else f"<p>{say(ABOUT)}</p>"
    return f'<h2 class="title">{say("Verdict")}</h2>{about}<p class="numbers"><span>{cost}</span></p>'


def draw_verdict(history: History) -> str:
    """The newest verdict: its sentence, a curve a measure beside the untrained model and the photos, and the nearest photos."""
    verdict = history.verdict
    if not verdict:
        return ""
    plots = [_measure(history, verdict, measure) for measure in TITLES]
    plots += [_other(history, verdict, network) for network in verdict.networks]
    plots.append(_plot(say("Drift"), say("how far pictures without your subject have moved"), _drift(history, verdict)))
    note = say("Bands are one standard error. Dashed: the untrained model; dotted: your photos among each other.")
    return (
        f'<p class="verdict">{html.escape(told(verdict.message))}</p><div class="details">{"".join(plots)}</div>'
        f'<p class="quiet">{note}{gap()}{html.escape(told(measured_by(verdict.networks)))}</p>{_pairs(history, verdict)}'
    )


def _measure(history: History, verdict: Verdict, measure: str) -> str:
    title, about, unit = map(say, TITLES[measure])
    curve, last = verdict.curve(measure), history.last_step
    floor = min([0.0, *(mean - error for _, mean, error in curve if math.isfinite(mean))])
    lines = [
        Series(say("checkpoints"), [(step, mean) for step, mean, _ in curve], errors=[error for _, _, error in curve]),
        *_level(say("untrained"), curve[0][1], last, "dashed"),
        *_level(
            say("photos"), verdict.of_photos(measure), last, "dotted", floor
        ),  # what lies far below would flatten the curve
    ]
    return _plot(title, about, line_plot(lines, last, title, unit=unit, kept_step=history.kept_step))


def _other(history: History, verdict: Verdict, network: str) -> str:
    """What another network sees: likeness, and where it reads words how well prompts are followed."""
    seen, lines = verdict.seen_by(network), list[Series]()
    for name, values, style in (
        (say("Likeness"), [mean_of(one.likeness) for one in seen], "accent"),
        (say("Follows the prompt"), [mean_of(one.follows) for one in seen if one.follows], "warm"),
    ):
        points = [(one.step, mean) for one, (mean, _) in zip(seen, values, strict=False)]
        if points:
            lines.append(Series(name, points, style, errors=[error for _, error in values]))
    lines += _level(say("photos"), mean_of(seen[0].photos)[0], history.last_step, "dotted")
    title = html.escape(network)
    plot = line_plot(lines, history.last_step, title, unit=say("cosine of features"), kept_step=history.kept_step)
    return _plot(title, say("what another network from the hub's cache sees in the same pictures"), plot)


def _level(name: str, value: float, last_step: int, style: str, floor: float = -math.inf) -> list[Series]:
    """A reference line, its value in the legend; at the floor where it lies below that. None where a single photo has none."""
    height = max(value, floor)
    return (
        [Series(f"{name} {number(value, '.2f')}", [(0, height), (last_step, height)], style)]
        if math.isfinite(value)
        else []
    )


def _drift(history: History, verdict: Verdict) -> str:
    points = [(one.step, one.drift) for one in verdict.pictures]
    lines = [
        Series(say("checkpoints"), points, "warm"),
        Series(say("untrained"), [(0, 0.0), (history.last_step, 0.0)], "dashed"),
    ]
    return line_plot(
        lines, history.last_step, say("Drift"), unit=say("squared difference"), kept_step=history.kept_step
    )


def _plot(title: str, about: str, plot: str) -> str:
    return f'<section><h2 class="title">{title}</h2><p>{about}</p>{plot}</section>'


def _pairs(history: History, verdict: Verdict) -> str:
    """Each picture by the caption alone beside its nearest photo, of the kept checkpoint and of the last."""
    last = verdict.pictures[-1].step
    shown = [one for one in verdict.pictures if one.step and one.step in (history.kept_step, last)]
    limit = max(verdict.photos.copies, default=None)
    about = say("Left a picture drawn from the caption alone, right the photo it is most like.")
    words = say("Your two most alike photos: {alike:.2f}.", alike=limit) if limit is not None else ""
    rows = "".join(_row(history.run.path, history.run.photo_paths, one, history.kept_step) for one in shown)
    return (
        f'<h2 class="title second">{say("Nearest photos")}</h2><p class="quiet">{gap().join([about, words])}</p>{rows}'
    )


def _row(folder: Path, photos: Sequence[Path], judged: PicturesJudged, kept_step: int) -> str:
    is_kept = judged.step == kept_step
    title = say("Step {step:,}, kept" if is_kept else "Step {step:,}, last", step=judged.step)
    pairs = "".join(
        _pair(folder / path, photos[nearest], alike)
        for path, nearest, alike in zip(judged.paths, judged.nearest, judged.copies, strict=False)
        if nearest < len(photos)
    )
    return f'<h3 class="pairs">{title}</h3><div class="pairs">{pairs}</div>'


def _pair(picture: Path, photo: Path, alike: float) -> str:
    images = "".join(
        f'<img src="{file_url(path)}" alt="{words}" loading="lazy">'
        for path, words in ((picture, say("picture")), (photo, say("its nearest photo")))
    )
    return f"<figure>{images}<figcaption>{number(alike, '.2f')}</figcaption></figure>"
