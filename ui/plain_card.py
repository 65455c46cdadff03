"""Plain DreamBooth beside a run that has ended: a click on the Watch tab trains it, or shows both where it is there already."""

import shutil
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.blocks import Block

from apt_engine.errors import EngineError
from apt_engine.jobs.estimate import duration, plain_seconds
from apt_engine.runs.history import History, summarize
from apt_engine.runs.plain import find_plain, make_plain, plain_of
from apt_engine.runs.run import Run
from apt_engine.settings.training import TrainingConfig
from ui.context import AppContext
from ui.words import later, say, told

TRAIN, SHOW = later("Train plain beside it"), later("Show both")


@dataclass(frozen=True)
class PlainCard:
    """Its components."""

    column: gr.Column
    about: gr.HTML
    beside: gr.Button

    @property
    def outputs(self) -> list[Block]:
        """What changes when the run goes on."""
        return [self.column, self.about, self.beside]


def build() -> PlainCard:
    """Make the components."""
    with (
        gr.Column(elem_classes="card", elem_id="plain", visible=False) as column,
        gr.Row(elem_classes="actions", equal_height=False),
    ):
        about = gr.HTML("", elem_id="plain-about")
        beside = gr.Button(say(TRAIN), size="sm", elem_id="plain-beside", scale=0, min_width=170)
    return PlainCard(column, about, beside)


def show(card: PlainCard, context: AppContext, history: History, *, is_over: bool) -> dict[Block, Any]:
    """What the page shows of a run; nothing while it is trained, nor for a run that is plain itself."""
    try:
        is_shown = is_over and history.saved_step > 0 and not is_plain(history.run)
        plain = find_plain(context.store, history.run) if is_shown else None
    except EngineError:
        is_shown, plain = False, None
    if not is_shown:
        return {card.column: gr.Column(visible=False)}
    return {
        card.column: gr.Column(visible=True),
        card.about: _title(_state(plain) if plain else _offer(history)),
        card.beside: gr.Button(say(SHOW if plain else TRAIN)),
    }


def beside(context: AppContext, run_id: str) -> Run:
    """The plain run beside one: found, or made and begun now, or put in line where the engine is busy.

    Raises:
        EngineError: it cannot be made; where it cannot be begun nothing is left behind.
    """
    run = context.store.open(run_id)
    if plain := find_plain(context.store, run):
        return plain
    if context.line is None:
        context.engine.refuse_if_busy()
    plain = make_plain(context.store, run)
    if context.line:
        context.line.add(plain.id)
    else:
        try:
            context.engine.start_training(plain.id)
        except EngineError:
            shutil.rmtree(plain.path)  # it holds no training yet
            raise
    return plain


def is_plain(run: Run) -> bool:
    """Whether a run is plain DreamBooth itself, to its end or stopped by itself.

    Raises:
        RunError: its settings cannot be read.
    """
    return is_plain_training(run.config, len(run.photo_paths))


def is_plain_training(config: TrainingConfig, photo_count: int) -> bool:
    """The same of settings."""
    plain = plain_of(config, photo_count)
    return config.replace(stop=plain.stop, steps=plain.steps) == plain


def _offer(history: History) -> str:
    seconds = plain_seconds(history)
    offer = say("The same photos, seed, steps and prompts, but nothing that keeps it from memorizing")
    return say("{what}: about <b>{time}</b>", what=offer, time=told(duration(seconds))) if seconds else offer


def _state(plain: Run) -> str:
    summary = summarize(plain)
    if summary.state == "new":
        return say("It is in line; both can be seen side by side as soon as it has samples")
    steps = {"step": summary.step, "last": summary.last_step}
    if summary.state == "finished":
        return say("Trained: step {step:,} of {last:,}", **steps)
    return say("Trained so far: step {step:,} of {last:,}", **steps)


def _title(words: str) -> str:
    return f'<h2 class="title">{say("Plain DreamBooth beside it")}</h2><p class="quiet">{words}</p>'
