"""The page: four tabs, how one leads to another, and what a reload finds again."""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component

from apt_engine.jobs.engine import EngineStatus, describe_status
from ui import model_folders, models, picture_view, plain_card, train_view
from ui.blocks import SpokenBlocks
from ui.context import AppContext, Values, plain_errors
from ui.form import can_show
from ui.pictures import show_history, show_line
from ui.scripted import generate_script, scripted, settle
from ui.serving.tenants import HOURS_KEPT
from ui.tabs import generate, runs, train, watch
from ui.words import LANGUAGES, file_of, is_by_machine, language, later, say, told

MOST_EVENTS = 200  # that wait; each may hold a form of 2 MB
QUEUE_POLL_SECONDS = 0.02  # Gradio's own 0.001 keeps 3 % of a core busy while nothing happens
# While a run trains, a page opens on Watch, unless a tab was pressed meanwhile: on a slow machine the answer takes seconds.
NOTE_PRESSES = """() => document.addEventListener("click", (event) => {
  if (event.target.closest?.("[role=tab]")) document.body.dataset.pressed = "tab";
}, true)"""
OPEN_TAB = """(header) => header.includes('data-opens="watch"') && !document.body.dataset.pressed
  ? { __type__: "update", selected: "watch" } : undefined"""
SHARED_NOTE = later(
    "You are a guest here: nobody else sees your photos, runs and pictures, and all of it is deleted "
    "{hours} hours after your last visit."
)


@dataclass(frozen=True)
class PageView:
    """The page's components.

    Attributes:
        header: name of the app, and what the engine does.
        status: the EngineStatus that this page was told last.
        followed: the watched run that the Generate tab chose last.
        kept: what is kept over a reload, in the browser alone: a value for each of `inputs`, by its name.
        pulse: ticks whenever something may have happened; see `assets/pulse.js`.
        pointed: the values of a plot under the pointer; see `assets/plots.js`.
        tabs: all tabs; one of them is selected.
        generate_tab: the tab as such, with its select event.
        runs_tab: the same.
        train: components of the Train tab.
        watch: of the Watch tab.
        generate: of the Generate tab.
        runs: of the Runs tab.
    """

    header: gr.HTML
    status: gr.State
    followed: gr.State
    kept: gr.BrowserState
    pulse: gr.HTML
    pointed: gr.HTML
    tabs: gr.Tabs
    generate_tab: gr.Tab
    runs_tab: gr.Tab
    train: train_view.TrainView
    watch: watch.WatchView
    generate: picture_view.GenerateView
    runs: runs.RunsView

    @property
    def inputs(self) -> dict[str, Component]:
        """The inputs whose values a reload finds again, by tab and name, such as train.subject."""
        tabs = {"train": self.train.kept, "generate": self.generate.kept}
        return {f"{tab}.{name}": component for tab, inputs in tabs.items() for name, component in inputs.items()}


def build_app(context: AppContext) -> gr.Blocks:
    """Build the page; the caller launches it."""
    page = SpokenBlocks(partial(_make, context), title="APT Studio", analytics_enabled=False)
    page.queue(max_size=MOST_EVENTS)
    page._queue.sleep_when_free = QUEUE_POLL_SECONDS  # noqa: SLF001 - Gradio has no public name for it
    return page


def _make(context: AppContext, page: gr.Blocks) -> None:
    view = build(context)
    _connect_tabs(view, context)
    _connect_page(page, view, context)


def build(context: AppContext) -> PageView:
    """Make the components."""
    header = gr.HTML(show_status(None))
    if context.tenants.is_shared:
        gr.HTML(f'<p class="quiet">{say(SHARED_NOTE, hours=HOURS_KEPT)}</p>', elem_id="shared-note")
    with gr.Tabs(overflow_behavior="wrap") as tabs:
        with gr.Tab(say("Train"), id="train", elem_id="train-tab"):
            train_components = train_view.build(context)
        with gr.Tab(say("Watch"), id="watch"):
            watch_view = watch.build()
        with gr.Tab(say("Generate"), id="generate") as generate_tab:
            generate_view = picture_view.build(context)
        with gr.Tab(say("Runs"), id="runs") as runs_tab:
            runs_view = runs.build(context)
    scripted("language", languages_offered(), elem_id="language")
    return PageView(
        header=header,
        status=gr.State(None),
        followed=gr.State(""),
        kept=gr.BrowserState({}, storage_key="apt-studio-form", secret="local"),
        pulse=scripted("pulse", "", elem_id="pulse"),
        pointed=scripted("plots", "", elem_id="pointed"),
        tabs=tabs,
        generate_tab=generate_tab,
        runs_tab=runs_tab,
        train=train_components,
        watch=watch_view,
        generate=generate_view,
        runs=runs_view,
    )


def _connect_tabs(view: PageView, context: AppContext) -> None:
    """Wire each tab, and how one leads to another."""
    opened = partial(open_run, view, context)
    shown_run = [view.tabs, *view.watch.outputs]
    train.connect(view.train, context, opened, shown_run)
    watch.connect(view.watch, context, view.pulse)
    generate.connect(view.generate, context)
    # Folders that one tab points at fill the other's list of base models, too.
    model_folders.connect(view.train.folders, context, view.generate.settings["base"])
    model_folders.connect(view.generate.folders, context, view.train.settings["base"])
    actions = {
        "select": (opened, shown_run),
        "play": (
            partial(generate_with, view, context),
            [*shown_run, view.followed, *view.generate.chosen],
        ),
        "copy": (partial(train_again, view, context), [view.tabs, *view.train.filled]),
        "retry": (partial(show_beside, view, context), [view.tabs, view.runs.table, *view.runs.compared]),
    }
    runs.connect(view.runs, context, actions)
    view.watch.pictures.click(
        partial(make_pictures, view, context),
        {view.watch.watched},
        actions["play"][1],
        show_progress="hidden",
        api_visibility="private",
    )
    view.watch.plain.beside.click(
        partial(show_beside_watched, view, context),
        {view.watch.watched},
        actions["retry"][1],
        show_progress="hidden",
        api_visibility="private",
    )
    settle(
        view.generate_tab.select,
        partial(open_generate, view, context),
        {view.generate.model, view.generate.more, view.generate.settings["prompt"], view.watch.watched, view.followed},
        [*view.generate.chosen, view.followed, view.generate.history],
    )
    view.pulse.tick(
        partial(runs.follow, view.runs, context),
        {view.runs.table},
        view.runs.table,
        queue=False,
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
    )
    view.runs_tab.select(partial(runs.refresh, view.runs, context), None, view.runs.table, show_progress="hidden")


def _connect_page(page: gr.Blocks, view: PageView, context: AppContext) -> None:
    """Wire what belongs to no tab: the header, and what a reload finds again."""
    page.load(None, None, None, js=train.PREPARE)
    page.load(None, None, None, js=generate_script())
    page.load(None, None, None, js=NOTE_PRESSES)
    page.load(
        partial(come_in, view, context),
        None,
        [view.status, view.header, view.train.train, view.generate.generate, *view.watch.outputs],
        show_progress="hidden",
    ).then(None, view.header, view.tabs, js=OPEN_TAB, api_visibility="private")
    inputs = view.inputs
    page.load(
        partial(restore, view, context),
        {view.kept},
        [
            *inputs.values(),
            view.train.chosen,
            view.train.notes,
            view.train.warps,
            view.train.summary,
            view.train.beside,
        ],
        show_progress="hidden",
    )
    # A script in the browser packs the values, so that what is typed does not go to the server for it.
    pack = f"(...values) => [Object.fromEntries({json.dumps([*inputs])}.map((name, index) => [name, values[index]]))]"
    changed = [component.change for component in inputs.values()]  # pyright: ignore[reportAttributeAccessIssue]
    gr.on(changed, None, [*inputs.values()], view.kept, js=pack)
    view.pulse.tick(
        partial(tell_status, view, context),
        {view.status, view.generate.waiting},
        [view.status, view.header, view.train.train, view.generate.generate, *view.generate.drawn],
        queue=False,
        trigger_mode="always_last",
        show_progress="hidden",
        api_visibility="private",
    )


def open_run(view: PageView, context: AppContext, run_id: str) -> Values:
    """Show a run on the Watch tab and go there."""
    return {view.tabs: gr.Tabs(selected="watch"), **watch.open_run(view.watch, context, run_id)}


def come_in(view: PageView, context: AppContext) -> Values:
    """What a page that was just opened shows: what the engine does, and the run that trains, or else the newest."""
    told_now = tell_status(view, context, {view.status: None, view.generate.waiting: show_line(context)})
    opens = "watch" if watch.trained_run(context) else ""
    header = show_status(told_now[view.status], opens)
    return {**told_now, view.header: header, **watch.attach(view.watch, context)}


def generate_with(view: PageView, context: AppContext, run_id: str) -> Values:
    """Go to the Generate tab with a run chosen; it is the one to watch, too."""
    return {
        **watch.open_run(view.watch, context, run_id),
        **generate.choose_model(view.generate, context, run_id, models.SUBJECT_PROMPTS[0]),
        view.followed: run_id,
        view.tabs: gr.Tabs(selected="generate"),
    }


def make_pictures(view: PageView, context: AppContext, values: Values) -> Values:
    """Go to the Generate tab with the run in view and its kept step chosen."""
    return generate_with(view, context, values[view.watch.watched].run_id)


def train_again(view: PageView, context: AppContext, run_id: str) -> Values:
    """Go to the Train tab with a run's photos and settings in the form."""
    filled = train.fill_in(view.train, context, context.store.open(run_id))
    return {view.tabs: gr.Tabs(selected="train"), **filled}


def show_beside(view: PageView, context: AppContext, run_id: str) -> Values:
    """Go to the Runs tab with a run and plain DreamBooth side by side; that is trained first where it is not there yet."""
    is_there = len(context.store.list())
    with plain_errors():
        plain = plain_card.beside(context, run_id)
    if len(context.store.list()) > is_there:
        gr.Info(say("Plain DreamBooth is trained as soon as the engine is free; press again to see how far it is."))
    return {
        view.tabs: gr.Tabs(selected="runs"),
        **runs.refresh(view.runs, context),
        **runs.compare(view.runs, context, [run_id, plain.id]),
    }


def show_beside_watched(view: PageView, context: AppContext, values: Values) -> Values:
    """The same for the run in view on the Watch tab."""
    return show_beside(view, context, values[view.watch.watched].run_id)


def open_generate(view: PageView, context: AppContext, values: Values) -> Values:
    """Offer the models as they are now and show the history. A run that was trained or opened since then is chosen."""
    model, prompt = view.generate.model, values[view.generate.settings["prompt"]]
    # Who opens this tab before the page has found its run is shown that run all the same.
    watched = values[view.watch.watched].run_id or watch.first_run(context)
    before, followed = values[model]["chosen"], values[view.followed]
    choices = models.list_models(context)
    chosen = models.chosen_or_bare(choices, before)
    if watched != followed and models.chosen_or_bare(choices, watched):
        chosen = followed = watched
    offer = generate.offer_models if chosen == before else generate.choose_model
    offered = offer(view.generate, context, chosen, prompt, rows=generate.rows_in(view.generate, values))
    return {**offered, view.followed: followed, view.generate.history: show_history(context)}


def languages_offered() -> dict[str, Any]:
    """The languages to choose from, and where the translation comes from, as `assets/language.js` shows them."""
    tag = language()
    note = say(
        "This translation was made by a machine. Corrections are welcome: {file} of the project.", file=file_of(tag)
    )
    return {"chosen": tag, "languages": LANGUAGES, "note": note if is_by_machine(tag) else ""}


def show_status(status: EngineStatus | None, opens: str = "") -> str:
    """The header: name of the app, what the engine does, nothing of it before the page has asked, and the tab to open."""
    job, words = (status.job, told(describe_status(status))) if status else ("", "")
    return f'<h1 class="brand" data-opens="{opens}">APT Studio <small data-job="{job}">{words}</small></h1>'


def tell_status(view: PageView, context: AppContext, values: Values) -> Values:
    """Show what the engine does and the pictures in line, if that has changed since the page was told last.

    A Train button that waits says for what.
    """
    line = generate.follow_line(view.generate, context, values[view.generate.waiting])
    status = context.engine.status
    if status == values[view.status]:
        return line or gr.skip()
    waits = {
        "training": later("Train: wait for the run"),
        "sampling": later("Train: wait for the pictures"),
        "exporting": later("Train: wait for the files"),
        "judging": later("Train: wait for the verdict"),
        "describing": later("Train: wait for the captions"),
        "waiting": later("Train: in line"),
    }
    button = gr.Button(say(waits.get(status.job, "Train")), interactive=status.job == "idle")
    if context.line and status.job != "idle":
        button = gr.Button(say("Train next: put in line"), interactive=True)
    is_later = bool(context.pictures) and status.job != "idle"
    drawing = gr.Button(say("Generate next: put in line") if is_later else say("Generate"))
    shown: Values = {view.status: status, view.header: show_status(status), view.train.train: button}
    return {**shown, view.generate.generate: drawing, **line}


def restore(view: PageView, context: AppContext, values: Values) -> Values:
    """Put what the inputs held before a reload back into them.

    Of what another version of the app kept, unknown names and values that an input cannot have are passed over.
    """
    kept, inputs = values[view.kept], view.inputs
    if not isinstance(kept, dict):  # nothing is kept yet, or an early version kept a list
        return gr.skip()
    known: Values = {
        inputs[name]: value for name, value in kept.items() if name in inputs and can_show(inputs[name], value)
    }
    if not known:
        return gr.skip()
    return {**train.restore(view.train, context, known), **generate.restore(view.generate, known)}
