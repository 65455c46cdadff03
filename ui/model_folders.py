"""Pointing at the model folders of other programs, once: their models join the list of base models."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gradio as gr
from gradio.components import Component

from apt_engine.bases.model_folders import models_in
from apt_engine.errors import EngineError
from apt_engine.runs.model_folders import remember, remembered
from ui.context import AppContext, Values
from ui.train_panels import problem
from ui.words import count, gap, say, told


@dataclass(frozen=True)
class ModelFoldersView:
    """The components: the folders one a line, the button, and what was found."""

    folders: gr.Textbox
    look: gr.Button
    note: gr.HTML


def offered(context: AppContext) -> list[tuple[str, str]]:
    """Base models to choose from, as (words, value): those of the presets, then those found on this computer."""
    known = [(told(preset.name), preset.bases[0]) for preset in context.presets.values() if preset.bases]
    if context.tenants.is_shared:
        return known
    found = [model for folder in remembered(context.store.data_dir) for model in models_in(folder)[0]]
    return known + [(model.name, str(model.path)) for model in found]


def find(context: AppContext, base: str) -> str | None:
    """The base model that a picture tells of: by the name that is offered here, or that its file or folder has."""
    values = [value for _, value in offered(context)]
    return next((value for value in values if base in (value, Path(value).name, Path(value).stem)), None)


def build(context: AppContext, tab: str = "") -> ModelFoldersView:
    """Make the components; a visitor of a Space does not see them. `tab` tells their ids from those of another tab."""
    is_shared = context.tenants.is_shared
    folders = [] if is_shared else remembered(context.store.data_dir)
    with gr.Accordion(say("Models of ComfyUI, Forge or AUTOMATIC1111"), open=False, visible=not is_shared):
        box = gr.Textbox(
            "\n".join(map(str, folders)),
            label=say("Model folders"),
            info=say("The folder of such a program, or any folder with models. One per line; they are remembered."),
            lines=2,
            elem_id=f"{tab}model-folders",
        )
        look = gr.Button(say("Find models"), size="sm", elem_id=f"{tab}find-models")
        note = gr.HTML("")
    return ModelFoldersView(box, look, note)


def connect(view: ModelFoldersView, context: AppContext, base: Component) -> None:
    """Wire the button to the list of base models."""
    view.look.click(
        partial(look, view, context, base),
        {view.folders, base},
        [view.note, base],
        show_progress="hidden",
        api_visibility="private",
    )


def look(view: ModelFoldersView, context: AppContext, base: Component, values: Values) -> Values:
    """Remember the folders, and offer what is in them; what is chosen stays."""
    if context.tenants.is_shared:
        return gr.skip()
    try:
        folders = remember(context.store.data_dir, str(values[view.folders] or "").split("\n"))
    except EngineError as error:
        return {view.note: problem(error)}
    counted = [models_in(folder) for folder in folders]
    found, others = sum(len(models) for models, _ in counted), sum(more for _, more in counted)
    said = [count("{number} model found.", "{number} models found.", found)]
    if others:
        said.append(
            count(
                "{number} other model there cannot be trained on.",
                "{number} other models there cannot be trained on.",
                others,
            )
        )
    return {
        view.note: f'<p class="quiet">{gap().join(said)}</p>',
        base: gr.Dropdown(offered(context), value=values[base]),
    }
