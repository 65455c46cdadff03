"""The Generate tab: a prompt becomes pictures, with a run's LoRA or with the bare base model."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component

from apt_engine.config import SampleRequest
from apt_engine.errors import EngineError
from apt_engine.runs import summarize
from ui.context import AppContext, plain_errors
from ui.form import build_input
from ui.plots import progress_line

BARE = ""
FIRST_PROMPT = "a photo of a {subject} on the beach"


@dataclass(frozen=True)
class GenerateView:
    """The tab's components; `settings` are inputs of SampleRequest by name."""

    settings: dict[str, Component]
    generate: gr.Button
    progress: gr.HTML
    pictures: gr.Gallery


def build(context: AppContext) -> GenerateView:
    """Make the components."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=7, min_width=320, elem_classes="card"):
            prompt = build_input(SampleRequest, "prompt", value=FIRST_PROMPT, label="Prompt")
            with gr.Row(elem_classes="prompt-row"):
                run = gr.Dropdown(
                    runs_offered(context), value=BARE, label="LoRA", interactive=True, scale=3, elem_id="run"
                )
                checkpoint = gr.Dropdown(["last"], value="last", label="Checkpoint", interactive=True, scale=2)
                generate = gr.Button("Generate", variant="primary", scale=2, elem_id="generate")
            progress = gr.HTML(progress_line(0.0, []), elem_id="drawing")
            pictures = gr.Gallery(
                label="Pictures",
                show_label=False,
                columns=2,
                height="auto",
                interactive=False,
                buttons=["download"],
                elem_id="pictures",
            )
        with gr.Column(scale=4, min_width=280, elem_classes="card"):
            more = {
                name: build_input(SampleRequest, name, label=label, is_slider=is_slider)
                for name, label, is_slider in (
                    ("count", "Count", False),
                    ("seed", "Seed", False),
                    ("strength", "LoRA strength", True),
                    ("steps", "Steps", False),
                    ("guidance_scale", "Guidance", False),
                    ("negative_prompt", "Not in the picture", False),
                )
            }
    return GenerateView({"prompt": prompt, "run": run, "checkpoint": checkpoint, **more}, generate, progress, pictures)


def connect(view: GenerateView, context: AppContext) -> None:
    """Wire the tab."""
    run = view.settings["run"]
    assert isinstance(run, gr.Dropdown)
    run.change(partial(offer_checkpoints, context), run, view.settings["checkpoint"], show_progress="hidden")
    view.generate.click(
        partial(generate, view, context),
        set(view.settings.values()),
        [view.progress, view.pictures],
        show_progress="hidden",
    )


def runs_offered(context: AppContext) -> list[tuple[str, str]]:
    """Runs that have a LoRA, newest first, and the bare pocket model."""
    offered = []
    for run in context.store.list():
        try:
            summary = summarize(run)
        except EngineError:
            continue
        if run.checkpoints():
            began = f"{run.id[9:11]}:{run.id[11:13]}"
            offered.append((f"{summary.subject}, {summary.step:,} steps, begun {began}", run.id))
    return [*offered, ("no LoRA: the pocket model as it is", BARE)]


def offer_runs(context: AppContext, chosen: str | None, preferred: str) -> Any:
    """The runs as they are now; a run in view is chosen where nothing was."""
    offered = runs_offered(context)
    ids = [run_id for _, run_id in offered]
    value = next(run_id for run_id in (chosen or preferred, preferred, *ids) if run_id in ids)
    return gr.Dropdown(offered, value=value)


def offer_checkpoints(context: AppContext, run_id: str) -> Any:
    """The checkpoints of a run, newest first."""
    steps = [str(item.step) for item in reversed(context.store.open(run_id).checkpoints())] if run_id else []
    return gr.Dropdown(["last", *steps], value="last")


def generate(view: GenerateView, context: AppContext, values: dict[Component, Any]) -> Iterator[list[Any]]:
    """Draw, showing how far it is; what cannot be drawn is one sentence."""
    settings = {name: values[component] for name, component in view.settings.items()}
    given = {name: value for name, value in settings.items() if value is not None}
    with plain_errors():
        request = SampleRequest.from_dict({**given, "run": settings["run"] or BARE})
        for progress in context.worker.sample(request):
            done = f"{len(progress.images)} of {request.count}"
            bar = progress_line(progress.fraction, [(progress.message, done, "")])
            yield [bar, [str(path) for path in progress.images] or gr.skip()]
