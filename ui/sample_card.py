"""Samples of the run in view, asked for while it trains: now, and with other prompts from the next ones on."""

import html
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
from gradio.blocks import Block

from apt_engine.errors import EngineError
from apt_engine.runs.history import History
from apt_engine.runs.wishes import ask_for_prompts, ask_for_samples, wished_prompts
from apt_engine.settings.training import SUBJECT_SLOT
from ui.context import AppContext, Values, plain_errors
from ui.sentences import AT_WORK
from ui.words import count, say, told


@dataclass(frozen=True)
class SampleCard:
    """Its components."""

    row: gr.Row
    now: gr.Button
    fold: gr.Accordion
    prompts: gr.Textbox
    use: gr.Button
    said: gr.HTML

    @property
    def outputs(self) -> list[Block]:
        """What changes when the run goes on."""
        return [self.row, self.fold, self.prompts, self.said]


def build() -> SampleCard:
    """Make the components."""
    with gr.Row(visible=False, elem_classes="actions") as row:
        now = gr.Button(say("Sample now"), size="sm", elem_id="sample-now", scale=0, min_width=110)
    with gr.Accordion(
        say("Other prompts for the samples"), open=False, visible=False, elem_id="sample-prompts"
    ) as fold:
        prompts = gr.Textbox(
            "",
            label=say("A prompt a line"),
            info=say("{slot} stands for your subject. The run's own settings stay as they are.", slot=SUBJECT_SLOT),
            lines=4,
            max_lines=12,
            interactive=True,
        )
        use = gr.Button(say("Use from the next samples on"), size="sm", elem_id="use-prompts")
        said = gr.HTML("", elem_id="prompts-said")
    return SampleCard(row, now, fold, prompts, use, said)


def connect(card: SampleCard, context: AppContext, watched: gr.State) -> None:
    """Wire its buttons; `watched` says which run is in view."""
    card.now.click(
        partial(sample_now, context, watched), {watched}, None, show_progress="hidden", api_visibility="private"
    )
    card.use.click(
        partial(use_prompts, card, context, watched),
        {watched, card.prompts},
        card.said,
        show_progress="hidden",
        api_visibility="private",
    )


def sample_now(context: AppContext, watched: gr.State, values: Values) -> None:
    """Let whoever trains the run in view draw its samples at the end of this step."""
    with plain_errors():
        ask_for_samples(context.store.open(values[watched].run_id))
    gr.Info(say("Samples are drawn at the end of this step."))


def use_prompts(card: SampleCard, context: AppContext, watched: gr.State, values: Values) -> Values:
    """Let the next samples of the run in view have other prompts. A mistake is said below them."""
    try:
        asked = ask_for_prompts(context.store.open(values[watched].run_id), str(values[card.prompts] or ""))
    except EngineError as error:
        return {card.said: _note(told(str(error)))}
    words = count("The next samples have this prompt.", "The next samples have these {number} prompts.", len(asked))
    return {card.said: _note(words)}


def show(card: SampleCard, history: History, state: str, *, is_first: bool) -> dict[Block, Any]:
    """What the page shows of a run; `is_first` when it has just come into view, else what is typed stays."""
    is_shown = state in AT_WORK
    shown: dict[Block, Any] = {card.row: gr.Row(visible=is_shown), card.fold: gr.Accordion(visible=is_shown)}
    if is_first:
        shown[card.prompts] = "\n".join(wished_prompts(history.run) or history.sample_prompts)
        shown[card.said] = ""
    return shown


def _note(sentence: str) -> str:
    return f'<p class="note" role="status">{html.escape(sentence)}</p>'
