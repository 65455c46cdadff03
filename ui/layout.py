"""The page: four tabs, how one leads to another, and what a reload finds again."""

from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from apt_engine.jobs.engine import EngineStatus, describe_status
from ui.context import AppContext, Values
from ui.scripted import scripted
from ui.serving.guard import Guard, guard_comes_first
from ui.serving.routes import routes
from ui.serving.tenants import HOURS_KEPT
from ui.tabs import generate, runs, train, watch
from ui.theme import STYLE_SHEET, build_theme

QUEUE_LOOKS_EVERY = 0.02  # seconds; Gradio's own 0.001 keeps 3 % of a core busy for nothing
SHARED_NOTE = (
    "You are a guest here: nobody else sees your photos, runs and pictures, and all of it is deleted "
    f"{HOURS_KEPT} hours after your last visit."
)


def build_app(context: AppContext) -> gr.Blocks:
    """All components and their wiring; `launch` is the caller's."""
    with gr.Blocks(title="APT Studio", analytics_enabled=False) as page:
        header = gr.HTML(status_line(context))
        if context.tenants.is_shared:
            gr.HTML(f'<p class="quiet">{SHARED_NOTE}</p>', elem_id="shared-note")
        with gr.Tabs() as tabs:
            with gr.Tab("Train", id="train"):
                train_view = train.build(context)
            with gr.Tab("Watch", id="watch"):
                watch_view = watch.build()
            with gr.Tab("Generate", id="generate") as generate_tab:
                generate_view = generate.build(context)
            with gr.Tab("Runs", id="runs") as runs_tab:
                runs_view = runs.build(context)
        pulse = scripted("pulse", "", elem_id="pulse")

        shown_run = [tabs, *watch_view.outputs]
        opened = partial(open_run, tabs, watch_view, context)
        train.connect(train_view, context, opened, shown_run)
        watch.connect(watch_view, context, pulse)
        generate.connect(generate_view, context)
        runs.connect(
            runs_view,
            context,
            {
                "select": (opened, shown_run),
                "play": (
                    partial(generate_with, tabs, generate_view, context),
                    [tabs, generate_view.settings["run"]],
                ),
                "copy": (partial(train_again, tabs, train_view, context), [tabs, *train.form_outputs(train_view)]),
            },
        )

        page.load(None, None, None, js=train.NAME_SUGGESTIONS)
        _find_again(page, context, train_view, watch_view, generate_view)
        known = gr.State(None)
        pulse.tick(
            partial(tell_status, context),
            known,
            [known, header, train_view.train],
            queue=False,
            trigger_mode="always_last",
            show_progress="hidden",
            api_visibility="private",
        )
        generate_tab.select(
            partial(offer_runs, context),
            [generate_view.settings["run"], watch_view.watched],
            [generate_view.settings["run"], generate_view.history],
            show_progress="hidden",
        )
        runs_tab.select(partial(runs.refresh, runs_view, context), None, runs_view.table, show_progress="hidden")
    page._queue.sleep_when_free = QUEUE_LOOKS_EVERY  # noqa: SLF001 (there is no other way)
    return page


def _find_again(
    page: gr.Blocks,
    context: AppContext,
    train_view: train.TrainView,
    watch_view: watch.WatchView,
    generate_view: generate.GenerateView,
) -> None:
    """What was typed, and the run that was watched, are there again after a reload."""
    typed = gr.BrowserState([], storage_key="apt-studio-form", secret="local")
    fields = train.remembered(train_view) + generate.remembered_fields(generate_view)
    page.load(partial(watch.attach, watch_view, context), None, watch_view.outputs, show_progress="hidden")
    page.load(
        partial(restore, context, train_view, generate_view),
        typed,
        [*fields, train_view.chosen, train_view.notes, train_view.summary],
        show_progress="hidden",
    )
    # In the browser alone: what is typed is nobody else's business, and a reload finds it again.
    gr.on([field.change for field in fields], None, fields, typed, js="(...values) => [values]")  # pyright: ignore[reportAttributeAccessIssue]


def open_run(tabs: gr.Tabs, view: watch.WatchView, context: AppContext, run_id: str) -> Values:
    """Show a run on the Watch tab and go there."""
    return {tabs: gr.Tabs(selected="watch"), **watch.open_run(view, context, run_id)}


def generate_with(tabs: gr.Tabs, view: generate.GenerateView, context: AppContext, run_id: str) -> Values:
    """Go to the Generate tab with a run chosen."""
    return {tabs: gr.Tabs(selected="generate"), view.settings["run"]: generate.offer_runs(context, run_id, run_id)}


def train_again(tabs: gr.Tabs, view: train.TrainView, context: AppContext, run_id: str) -> Values:
    """Go to the Train tab with a run's photos and settings in the form."""
    filled = zip(train.form_outputs(view), train.fill_in(view, context, context.store.open(run_id)), strict=True)
    return {tabs: gr.Tabs(selected="train"), **dict(filled)}


def offer_runs(context: AppContext, chosen: str | None, watched: watch.Watch) -> list[Any]:
    """The runs to generate with, the one that was watched unless another was chosen; and the pictures made before."""
    return [generate.offer_runs(context, chosen, watched.run_id), generate.remembered(context)]


def status_line(context: AppContext) -> str:
    """Name of the app, and what the engine does."""
    status = context.engine.status
    words = describe_status(status)
    return f'<h1 class="brand">APT Studio <small>{words}</small></h1>'


def tell_status(context: AppContext, known: EngineStatus | None) -> list[Any]:
    """What the engine does, when that has changed since it was last `known`; Train waits and says why."""
    status = context.engine.status
    if status == known:
        return [gr.skip()] * 3
    waits = {
        "training": "Train: wait for the run",
        "sampling": "Train: wait for the pictures",
        "waiting": "Train: in line",
    }
    words = waits.get(status.job, "Train")
    return [status, status_line(context), gr.Button(words, interactive=status.job == "idle")]


def restore(
    context: AppContext, train_view: train.TrainView, generate_view: generate.GenerateView, typed: list[Any] | None
) -> list[Any]:
    """What the form held before a reload; what another version of the app left behind is passed over."""
    count = len(train.remembered(train_view))
    total = count + len(generate.remembered_fields(generate_view))
    if not typed or len(typed) != total:
        return [gr.skip()] * (total + 3)
    train_values, *more = train.restore(train_view, context, typed[:count])
    return [*train_values, *generate.restore(generate_view, typed[count:]), *more]


def launch_options(context: AppContext, data_dir: Path, auth: tuple[str, str] | None) -> dict[str, Any]:
    """How the page is served: nothing from the net, and only the routes and files that it needs."""
    is_public = auth is not None or context.tenants.is_shared
    guard = Middleware(Guard, tenants=context.tenants, is_public=is_public)
    own_routes = routes(context.tenants, data_dir / "cache")
    return {
        "theme": build_theme(),
        "css_paths": STYLE_SHEET,
        "footer_links": [],
        "app_kwargs": {"middleware": [guard], "routes": own_routes, "lifespan": guard_comes_first},
        "ssr_mode": False,
        "run_history": False,
        "share": False,
        "quiet": True,
        "prevent_thread_lock": True,
    }
