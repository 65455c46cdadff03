"""The Runs tab: all runs, newest first; a click opens one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from apt_engine.errors import EngineError
from apt_engine.runs import summarize
from ui.context import AppContext

COLUMNS = ["Subject", "State", "Step", "Base", "Run"]


@dataclass(frozen=True)
class RunsView:
    """The tab's components."""

    table: gr.Dataframe


def build() -> RunsView:
    """Make the components."""
    gr.HTML('<h2 class="title">All runs</h2><p>Click one to look at it.</p>')
    table = gr.Dataframe(headers=COLUMNS, interactive=False, wrap=True, elem_classes="runs", elem_id="runs", buttons=[])
    return RunsView(table)


def connect(view: RunsView, opened: Callable[[str], list[Any]], outputs: list[Any]) -> None:
    """Wire the tab: `opened` shows the run of an id elsewhere, in `outputs`."""

    def select(event: gr.SelectData) -> list[Any]:  # Gradio finds no event data in a partial
        return opened(event.row_value[-1])

    view.table.select(select, None, outputs, show_progress="hidden")


def rows(context: AppContext) -> list[list[str]]:
    """One line a run. A run without an end that nobody works on was interrupted."""
    lines = []
    for run in context.store.list():
        try:
            summary = summarize(run)
        except EngineError as error:
            lines.append(["?", str(error), "", "", run.id])
            continue
        is_at_work = context.worker.status.run_id == run.id
        state = "interrupted" if summary.state == "training" and not is_at_work else summary.state
        lines.append([summary.subject, state, f"{summary.step:,} of {summary.last_step:,}", summary.base, run.id])
    return lines
