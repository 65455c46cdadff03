"""The Watch tab: what a run does, read off its events."""

import dataclasses
import html
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import gradio as gr
from gradio.blocks import Block

from apt_engine.errors import EngineError
from apt_engine.runs.history import History, follow, summarize
from apt_engine.runs.training_lock import refuse_if_trained, training_in
from ui import plain_card, sample_card, step_files, verdict_card
from ui.context import AppContext, Values, plain_errors
from ui.plots import progress_line
from ui.run_panels import (
    draw_details,
    draw_drift,
    draw_files,
    draw_indicator,
    draw_lines,
    draw_loss,
    draw_progress,
    draw_samples,
    draw_split,
    draw_views,
    log_link,
)
from ui.scripted import scripted
from ui.sentences import engine_notes, is_at_work, sentence, state_under
from ui.words import later, say, told

WELCOME = later("Nothing is trained yet. Bring 3 to 10 photos to the Train tab, say what it is, and press Train.")
GO_ON, GO_ON_ANYWAY = later("Go on for this many more steps"), later("Go on anyway for this many more steps")
ENDED = ("finished", "stopped")
OVER = (*ENDED, "failed", "interrupted")
RESUMABLE = ("stopped", "failed", "interrupted")


@dataclass(frozen=True)
class Watch:
    """What one open page looks at: a run, what was last said of it, and how far its events are shown."""

    run_id: str = ""
    state: str = ""
    cursor: int = -1


@dataclass(frozen=True)
class WatchView:
    """The tab's components."""

    watched: gr.State
    sentence: gr.HTML
    progress: gr.HTML
    split: gr.HTML
    indicator: gr.HTML
    lines: gr.HTML
    loss: gr.HTML
    drift: gr.HTML
    samples: gr.HTML
    wishes: sample_card.SampleCard
    views: gr.HTML
    pngs: gr.HTML
    details: gr.HTML
    verdict: verdict_card.VerdictCard
    plain: plain_card.PlainCard
    pictures: gr.Button
    stop: gr.Button
    resume: gr.Button
    more: gr.Row
    files: gr.HTML
    more_steps: gr.Number
    go_on: gr.Button
    other: step_files.StepFiles
    log: gr.HTML

    @property
    def outputs(self) -> list[Block]:
        """All that changes when the run goes on."""
        everything = (getattr(self, field.name) for field in dataclasses.fields(self))
        cards = (self.wishes, self.other, self.verdict, self.plain)
        others = (self.more_steps, *cards)
        own = [component for component in everything if component not in others]
        return [*own, *(output for card in cards for output in card.outputs)]


def build() -> WatchView:
    """Make the components."""
    sentence = gr.HTML(f'<p class="sentence">{say(WELCOME)}</p>', elem_id="sentence")
    progress = gr.HTML(progress_line(0.0, []), elem_id="progress")
    with gr.Row(elem_classes=["actions", "watch-actions"]):
        pictures = gr.Button(say("Make pictures"), variant="primary", visible=False, size="sm", elem_id="make-pictures")
        stop = gr.Button(say("Stop and keep"), visible=False, size="sm", elem_id="stop")
        resume = gr.Button(say("Resume"), variant="primary", visible=False, size="sm", elem_id="resume")
        files = gr.HTML("", elem_id="files")
        more, more_steps, go_on = _build_more()
    with gr.Row(equal_height=False, elem_classes="watch-columns"):
        with gr.Column(scale=6, min_width=320):
            split, indicator, lines, loss, drift = _build_plots()
        with gr.Column(scale=6, min_width=320, elem_classes=["card", "pictures-first"]):
            about = say("Same prompts, same seeds. Drag to any step; click a picture to compare it with another step.")
            gr.HTML(f'<h2 class="title">{say("Samples")}</h2><p>{about}</p>')
            samples = scripted("samples", _no_samples(), elem_id="samples")
            wishes = sample_card.build()
            views = gr.HTML("", elem_id="views")
    other, verdict, plain = step_files.build(), verdict_card.build(), plain_card.build()
    with gr.Accordion(say("More numbers"), open=False, elem_id="details"):
        pngs = scripted("pngs", "", elem_id="pngs")
        details = gr.HTML(draw_details(History.empty()))
    with gr.Accordion(say("Log"), open=False, elem_id="log-fold"):
        log = scripted("log", {"run": "", "mark": 0}, elem_id="log")
    return WatchView(
        watched=gr.State(Watch()),
        sentence=sentence,
        progress=progress,
        split=split,
        indicator=indicator,
        lines=lines,
        loss=loss,
        drift=drift,
        samples=samples,
        wishes=wishes,
        views=views,
        pngs=pngs,
        details=details,
        verdict=verdict,
        plain=plain,
        pictures=pictures,
        stop=stop,
        resume=resume,
        more=more,
        files=files,
        more_steps=more_steps,
        go_on=go_on,
        other=other,
        log=log,
    )


def _build_more() -> tuple[gr.Row, gr.Number, gr.Button]:
    with gr.Row(visible=False, elem_classes="more", scale=0) as more:
        small: dict[str, Any] = {"container": False, "scale": 0, "min_width": 90}
        steps = gr.Number(100, label=say("more steps"), minimum=1, maximum=10_000, precision=0, **small)
        go_on = gr.Button(say(GO_ON), size="sm", elem_id="go-on", scale=0, min_width=90)
    return more, steps, go_on


def _no_samples() -> dict[str, Any]:
    return {"prompts": [say("your subject")], "notes": [], "steps": [0], "urls": {}, "kept": 0}


def _build_plots() -> tuple[gr.HTML, gr.HTML, gr.HTML, gr.HTML, gr.HTML]:
    split = _card("split", draw_split(History.empty()))
    with gr.Column(elem_classes="card", elem_id="indicator"):
        indicator = gr.HTML(draw_indicator(History.empty()))
        with gr.Accordion(say("as lines"), open=False, elem_classes="fold"):  # a details element would close
            lines = gr.HTML(draw_lines(History.empty()), elem_id="lines")
    with gr.Row(equal_height=True, elem_classes="plots"):
        loss = _card("loss", draw_loss(History.empty()))
        drift = _card("drift", draw_drift(History.empty()))
    return split, indicator, lines, loss, drift


def connect(view: WatchView, context: AppContext, pulse: gr.HTML) -> None:
    """Wire the tab to the page's pulse and its buttons."""
    pulse.tick(
        partial(refresh, view, context),
        {view.watched},
        view.outputs,
        queue=False,
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
    )
    view.stop.click(partial(stop, context), None, None, api_visibility="private")
    view.resume.click(
        partial(resume, view, context), {view.watched}, view.outputs, show_progress="hidden", api_visibility="private"
    )
    view.go_on.click(
        partial(go_on, view, context),
        {view.watched, view.more_steps},
        view.outputs,
        show_progress="hidden",
        api_visibility="private",
    )

    step_files.connect(view.other, context, view.watched)
    verdict_card.connect(view.verdict, context, view.watched)
    sample_card.connect(view.wishes, context, view.watched)


def attach(view: WatchView, context: AppContext) -> Values:
    """What a page that was just opened looks at: the run that trains, or else the newest."""
    return open_run(view, context, first_run(context))


def first_run(context: AppContext) -> str:
    """The run that a page looks at first: the one that trains, or else the newest; empty where there is none."""
    return trained_run(context) or next((run.id for run in context.store.list()), "")


def open_run(view: WatchView, context: AppContext, run_id: str) -> Values:
    """Look at another run from its first event on; the sentence says it when that cannot be."""
    if not run_id:
        return {view.watched: Watch()}
    return _read_on(view, context, Watch(run_id))


def refresh(view: WatchView, context: AppContext, values: Values) -> Values:
    """Read what is new; nothing is sent to the page when nothing is."""
    watched: Watch = values[view.watched]
    if watched.cursor >= 0:
        return _read_on(view, context, watched)
    # Where nothing was in view yet, a run begun in another tab or browser comes into it; a deleted run's sentence stays.
    begun = trained_run(context)
    return open_run(view, context, begun) if begun and not watched.run_id else gr.skip()


def trained_run(context: AppContext) -> str:
    """The run that is trained, here or by another process; empty when none is."""
    status, training = context.engine.status, training_in(context.store)
    return status.run_id if status.job != "idle" else training.run if training else ""


def stop(context: AppContext) -> None:
    """Ask the engine to stop after its step and keep what was learnt; a second press leaves out the samples of that step."""
    context.engine.stop()
    words = "Stopping after this step; what was learnt is kept, and samples of it are drawn. Press again to skip them."
    gr.Info(say(words))


def resume(view: WatchView, context: AppContext, values: Values) -> Values:
    """Go on with the run in view."""
    with plain_errors():
        context.engine.start_training(values[view.watched].run_id, resume=True)
    return refresh(view, context, values)


def go_on(view: WatchView, context: AppContext, values: Values) -> Values:
    """Train the finished run in view for more steps."""
    watched: Watch = values[view.watched]
    with plain_errors():
        run = context.store.open(watched.run_id)
        steps = summarize(run).step + max(1, int(values[view.more_steps] or 0))
        context.engine.refuse_if_busy()
        refuse_if_trained(context.store)
        run.replace_config(run.config.replace(steps=steps))
        context.engine.start_training(run.id, resume=True)
    return refresh(view, context, values)


def _read_on(view: WatchView, context: AppContext, watched: Watch) -> Values:
    try:
        history = follow(context.store.open(watched.run_id))
    except EngineError as error:  # it was deleted elsewhere
        return _refuse(view, watched.run_id, error)
    status, training = context.engine.status, training_in(context.store)
    state = state_under(status, training, history)
    notes = [*history.notices, *engine_notes(status, training, history)]
    seen = f"{state} {status.ahead} {notes}"
    if (history.cursor, seen) == (watched.cursor, watched.state):
        return gr.skip()
    return {
        view.watched: replace(watched, state=seen, cursor=history.cursor),
        view.sentence: _sentence(history, state, status.ahead, notes) + log_link(state, history.run.id),
        view.stop: gr.Button(visible=is_at_work(status, history.run.id)),
        **_show(view, history, state),
        **sample_card.show(view.wishes, history, state, is_first=not watched.state),
        **plain_card.show(view.plain, context, history, is_over=state in OVER),
    }


def _sentence(history: History, state: str, ahead: int, notes: Sequence[str]) -> str:
    kind = "sentence failed" if state in ("failed", "interrupted") else "sentence"
    opening = f'<p class="{kind}" role="status" data-run="{html.escape(history.run.id)}">'
    below = "".join(f'<p class="note">{html.escape(told(note))}</p>' for note in notes)
    return f"{opening}{html.escape(sentence(history, state, ahead))}</p>{below}"


def _refuse(view: WatchView, run_id: str, error: EngineError) -> Values:
    refusal = f'<p class="sentence failed">{html.escape(told(str(error)))}</p>'
    return {view.watched: Watch(run_id), view.sentence: refusal}


def _show(view: WatchView, history: History, state: str) -> Values:
    """What the page shows of a run below its sentence."""
    return {
        view.progress: draw_progress(history, state),
        view.split: draw_split(history),
        view.indicator: draw_indicator(history),
        view.lines: draw_lines(history),
        view.loss: draw_loss(history),
        view.drift: draw_drift(history),
        view.samples: draw_samples(history),
        view.views: draw_views(history),
        view.pngs: history.run.id if history.step else "",
        view.details: draw_details(history),
        view.pictures: gr.Button(visible=state in ENDED and history.saved_step > 0),
        view.resume: gr.Button(visible=state in RESUMABLE, variant="secondary" if state in ENDED else "primary"),
        view.more: gr.Row(visible=state == "finished"),
        view.go_on: gr.Button(say(GO_ON_ANYWAY if history.ended_by_itself else GO_ON)),
        **step_files.show(view.other, history, is_over=state in OVER),
        **verdict_card.show(view.verdict, history, is_over=state in OVER),
        view.files: draw_files(history),
        view.log: {"run": history.run.id, "mark": history.cursor},
    }


def _card(elem_id: str, value: str) -> gr.HTML:
    return gr.HTML(value, elem_id=elem_id, elem_classes="card", min_width=240)
