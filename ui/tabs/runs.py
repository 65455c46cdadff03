"""The Runs tab: all runs, newest first, and what can be done to each."""

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from apt_engine.errors import EngineError, RunError
from apt_engine.jobs.engine import EngineStatus
from apt_engine.runs import library
from apt_engine.runs.history import NEWER, History, summarize
from apt_engine.runs.run import Run
from apt_engine.runs.training_lock import Training, training_in
from ui.comparison import NOTHING, distinct_names, draw_curves, draw_differences, show_sides
from ui.context import AppContext, Values, plain_errors
from ui.plots import file_url
from ui.scripted import scripted
from ui.sentences import AT_WORK, STATES, begun_at, is_at_work, is_trained_elsewhere, state_under
from ui.words import count, say, told


@dataclass(frozen=True)
class RunsView:
    """The tab's components."""

    table: gr.HTML
    comparison: gr.HTML
    sides: gr.HTML

    @property
    def compared(self) -> list[gr.HTML]:
        """What two compared runs are shown in."""
        return [self.comparison, self.sides]


def build(context: AppContext) -> RunsView:
    """Make the components."""
    with gr.Column(elem_classes="card"):
        place = f"<code>{html.escape(str(context.store.runs_dir))}</code>"
        shared = context.tenants.is_shared
        where = say("Only you see them.") if shared else say("Everything is in one folder: {folder}", folder=place)
        gr.HTML(f'<h2 class="title">{say("Runs")}</h2><p>{where}</p>')
        table = scripted("runs", {"runs": [], "bin": []}, elem_id="runs")
    sides = scripted("sides", NOTHING, elem_id="sides")
    comparison = gr.HTML("", elem_id="comparison")
    return RunsView(table, comparison, sides)


def connect(
    view: RunsView,
    context: AppContext,
    actions: Mapping[str, tuple[Callable[[str], Values], Sequence[Block]]],
) -> None:
    """Wire the tab.

    Args:
        view: its components.
        context: the engine and its runs.
        actions: what happens elsewhere: for an event of the table (select, play, copy, retry) a function of the run's id, and
            the components it may change.
    """

    def go(function: Callable[[str], Values]) -> Callable[[gr.EventData], Values]:
        def handler(event: gr.EventData) -> Values:  # Gradio finds no event data in a partial
            with plain_errors():
                return function(str(event.id))

        return handler

    for name, (function, outputs) in actions.items():
        getattr(view.table, name)(go(function), None, list(outputs), show_progress="hidden", api_visibility="private")
    changes: dict[str, Callable[[gr.EventData], Values]] = {
        "edit": lambda event: rename(view, context, str(event.id), str(event.title)),
        "delete": lambda event: discard(view, context, str(event.id)),
        "undo": lambda event: restore(view, context, str(event.id)),
        "clear": lambda event: empty_bin(view, context),
        "submit": lambda event: move(view, context, str(event.id), str(event.move)),
        "apply": lambda event: compare(view, context, [str(run_id) for run_id in event.ids]),
    }
    for name, change in changes.items():

        def handler(event: gr.EventData, change: Callable[[gr.EventData], Values] = change) -> Values:
            return change(event)

        getattr(view.table, name)(
            handler, None, [view.table, *view.compared], show_progress="hidden", api_visibility="private"
        )


def refresh(view: RunsView, context: AppContext) -> Values:
    """Show the runs as they are now."""
    return {view.table: rows(context)}


def follow(view: RunsView, context: AppContext, values: Values) -> Values:
    """Show what has become of the runs since, where they were shown before."""
    shown = values[view.table]
    if not shown["runs"]:
        return gr.skip()
    now = rows(context)
    return gr.skip() if now == shown else {view.table: now}


def rows(context: AppContext) -> dict[str, Any]:
    """All runs as the table shows them, and those in the bin."""
    training = training_in(context.store)
    waiting = context.line.waiting() if context.line else []
    return {
        "runs": [_in_line(_row(context.engine.status, training, run), waiting) for run in context.store.list()],
        "bin": [{"id": run.id, "title": _name(run)} for run in library.discarded(context.store)],
    }


def rename(view: RunsView, context: AppContext, run_id: str, title: str) -> Values:
    """Give a run a name."""
    with plain_errors():
        library.rename(context.store.open(run_id), title)
    return {view.table: rows(context)}


def discard(view: RunsView, context: AppContext, run_id: str) -> Values:
    """Move a run to the bin, unless the engine is at work on it."""
    with plain_errors():
        status, training = context.engine.status, training_in(context.store)
        if is_at_work(status, run_id) or is_trained_elsewhere(status, training, run_id):
            raise RunError(say("This run is training; stop it first."))
        library.discard(context.store, context.store.open(run_id))
    return {view.table: rows(context), view.comparison: "", view.sides: NOTHING}


def restore(view: RunsView, context: AppContext, run_id: str) -> Values:
    """Take a run out of the bin."""
    with plain_errors():
        library.restore(context.store, run_id)
    return {view.table: rows(context)}


def move(view: RunsView, context: AppContext, run_id: str, where: str) -> Values:
    """Let a run in line be trained sooner, or take it out."""
    if context.line:
        with plain_errors():
            (context.line.hasten if where == "sooner" else context.line.remove)(run_id)
    return {view.table: rows(context)}


def empty_bin(view: RunsView, context: AppContext) -> Values:
    """Delete what is in the bin."""
    with plain_errors():
        deleted = library.empty_bin(context.store)
    gr.Info(count("{number} run deleted.", "{number} runs deleted.", deleted))
    return {view.table: rows(context)}


def compare(view: RunsView, context: AppContext, run_ids: Sequence[str]) -> Values:
    """Two runs side by side: their samples, what was set differently, and their curves."""
    with plain_errors():
        found = [context.store.open(run_id) for run_id in run_ids[:2]]
        histories = [History.of(run) for run in found]
        names = distinct_names([_name(run) for run in found], found)
        curves = draw_differences(found, names) + draw_curves(histories, names)
    return {view.comparison: curves, view.sides: show_sides(histories, names)}


def _row(status: EngineStatus, training: Training | None, run: Run) -> dict[str, Any]:
    """One line. A run without an end that nobody works on was interrupted."""
    row: dict[str, Any] = {"id": run.id, "title": run.id, "begun": begun_at(run), "base": "", "step": "", "picture": ""}
    try:
        summary = summarize(run)
    except EngineError as error:
        return {**row, "state": told(str(error)), "files": [], "working": False, "drawable": False}
    state = state_under(status, training, summary)
    checkpoints = run.checkpoints()
    words = say(
        "{state}, step {step:,} of {last:,}", state=say(STATES[state]), step=summary.step, last=summary.last_step
    )
    newer = [told(NEWER)] if summary.is_newer else []
    photo = next(iter(run.photo_paths), None)
    return {
        **row,
        "title": _name(run),
        "base": Path(summary.base).name,
        "state": ". ".join([f"{words}: {told(summary.message)}" if state == "failed" else words, *newer]),
        "step": _kept(summary.kept_step, checkpoints[-1].step) if checkpoints else say("nothing yet"),
        "picture": file_url(photo) if photo else "",
        "files": list(summary.exports),
        "working": state in AT_WORK,
        "drawable": bool(checkpoints),
    }


def _in_line(row: dict[str, Any], waiting: Sequence[str]) -> dict[str, Any]:
    """A row with its place in line, 0 for none."""
    place = waiting.index(row["id"]) + 1 if row["id"] in waiting else 0
    words = say("in line, comes next") if place == 1 else say("in line, {ahead} before it", ahead=place - 1)
    return {**row, "place": place, "state": words if place else row["state"]}


def _kept(kept_step: int, last_step: int) -> str:
    if kept_step:
        return say("{kept:,}, last {last:,}", kept=kept_step, last=last_step)
    return say("last {last:,}", last=last_step)


def _name(run: Run) -> str:
    try:
        return library.title_of(run) or run.config.subject
    except EngineError:
        return run.id
