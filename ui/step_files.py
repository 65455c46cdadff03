"""LoRA files of any step of the run in view, written on demand once it has ended."""

import html
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from apt_engine.errors import EngineError
from apt_engine.runs.history import History
from ui.context import AppContext, Values
from ui.run_panels import draw_links
from ui.words import say, told


@dataclass(frozen=True)
class StepFiles:
    """Its components."""

    fold: gr.Accordion
    step: gr.Dropdown
    write: gr.Button
    written: gr.HTML

    @property
    def outputs(self) -> list[Block]:
        """What changes when the run goes on."""
        return [self.fold, self.step, self.written]


def build() -> StepFiles:
    """Make the components."""
    fold = gr.Accordion(say("LoRA files of another step"), open=False, visible=False)
    with fold, gr.Row(elem_classes="actions"):
        step = gr.Dropdown([], label=say("Step"), container=False, interactive=True, scale=0, elem_id="other-step")
        write = gr.Button(say("Write the files"), size="sm", elem_id="write-files", scale=0, min_width=120)
        written = gr.HTML("", elem_id="written")
    return StepFiles(fold, step, write, written)


def connect(card: StepFiles, context: AppContext, watched: gr.State) -> None:
    """Wire its button; `watched` says which run is in view."""
    card.write.click(
        partial(write_files, card, context, watched),
        {watched, card.step},
        [card.written, card.write],
        show_progress="hidden",
        api_visibility="private",
    )


def write_files(card: StepFiles, context: AppContext, watched: gr.State, values: Values) -> Iterator[Values]:
    """Write the LoRA files of a step of the run in view, and show where they can be had."""
    run_id, step = values[watched].run_id, values[card.step]
    paths: tuple[Path, ...] = ()
    try:
        for progress in context.engine.export(run_id, str(step or "kept")):
            yield {card.written: _note(f"{told(progress.message)}."), card.write: gr.Button(interactive=False)}
            paths = progress.images
        yield {card.written: draw_links(paths), card.write: gr.Button(interactive=True)}
    except EngineError as error:
        yield {card.written: _note(told(str(error))), card.write: gr.Button(interactive=True)}


def show(card: StepFiles, history: History, *, is_over: bool) -> dict[Block, Any]:
    """The steps whose files can be written once the run has ended; while it trains the list stays as it is."""
    if not is_over:
        return {card.fold: gr.Accordion(visible=False)}
    kept, steps = history.kept_step, [item.step for item in reversed(history.run.checkpoints())]
    choices = [
        (say("step {step:,}, kept", step=step) if step == kept else say("step {step:,}", step=step), str(step))
        for step in steps
    ]
    return {card.fold: gr.Accordion(visible=bool(steps)), card.step: gr.Dropdown(choices), card.written: ""}


def _note(sentence: str) -> str:
    return f'<p class="note">{html.escape(sentence)}</p>'
