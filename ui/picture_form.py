"""The settings beside the pictures on the Generate tab, and what they say."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from apt_engine.runs.grid import Axes
from apt_engine.settings.sampling import SampleRequest
from ui import grid
from ui.context import Values
from ui.form import build_input, whole_number
from ui.words import later, say

SLIDERS = {
    "count": later("Pictures"),
    "steps": later("Steps"),
    "guidance_scale": later("Guidance"),
    "strength": later("LoRA strength"),
}
SIZES = {"width": later("Width (px)"), "height": later("Height (px)")}
AS_TRAINED = later("as trained")
AXES = {  # label, example, lines
    "checkpoints": (later("Steps: the columns"), "100, 200, kept", 1),
    "strengths": (later("Strengths: the rows"), "0.5, 0.8, 1", 1),
    "prompts": (later("Prompts, one per line: the blocks"), "a photo of a {subject} in the snow", 2),
}


@dataclass(frozen=True)
class PictureForm:
    """What stands beside the pictures.

    Attributes:
        settings: inputs for the settings of SampleRequest that every picture has, by name.
        keep_seed: whether the next pictures start from the same noise.
        axes: inputs for what a grid goes through, by the names of `Axes`; all empty for no grid.
        source: takes a picture, to draw with the settings inside it.
    """

    settings: dict[str, Component]
    keep_seed: gr.Checkbox
    axes: dict[str, gr.Textbox]
    source: gr.File


def build_picture_form() -> PictureForm:
    """Make the components."""
    gr.HTML(f'<h2 class="title">{say("Settings")}</h2><p>{say("They are saved inside every PNG.")}</p>')
    made = {name: build_input(SampleRequest, name, label=say(label), is_slider=True) for name, label in SLIDERS.items()}
    with gr.Row(elem_classes=["prompt-row", "seed-row"]):
        made["seed"] = build_input(SampleRequest, "seed", label=say("Seed"), placeholder=say("any"))
        keep_seed = gr.Checkbox(
            False, label=say("Keep the seed"), info=say("Otherwise each press takes a new one."), elem_id="keep-seed"
        )
    made["negative_prompt"] = build_input(SampleRequest, "negative_prompt", label=say("Not in the picture"))
    made["sampler"] = build_input(SampleRequest, "sampler", label=say("Sampler"))
    with gr.Row():
        for name, label in SIZES.items():
            made[name] = build_input(SampleRequest, name, label=say(label), placeholder=say(AS_TRAINED))
    with gr.Accordion(say("A grid of steps, strengths and prompts"), open=False, elem_id="grid"):
        axes = {
            name: gr.Textbox("", label=say(label), placeholder=example, lines=lines, elem_id=f"grid-{name}")
            for name, (label, example, lines) in AXES.items()
        }
    with gr.Accordion(say("The settings of a picture"), open=False, elem_id="from-picture"):
        source = gr.File(
            label=say("A PNG made here, or by A1111 or Forge"), file_types=[".png"], height=150, elem_id="source"
        )
    return PictureForm(made, keep_seed, axes, source)


def read_axes(form: PictureForm, values: Mapping[Any, Any], first: SampleRequest) -> Axes | None:
    """The grid that the inputs ask for; None where all are empty.

    Raises:
        ConfigError: a strength is no number, or the grid is far too large.
    """
    said = [str(values[form.axes[name]] or "") for name in AXES]
    return grid.read_axes(*said, first=first) if any(words.strip() for words in said) else None


def show_axes(form: PictureForm, axes: Axes | None) -> Values:
    """A grid's axes as the inputs show them."""
    if axes is None:
        return dict.fromkeys(form.axes.values(), "")
    return {
        form.axes["checkpoints"]: ", ".join(axes.checkpoints),
        form.axes["strengths"]: ", ".join(f"{strength:g}" for strength in axes.strengths),
        form.axes["prompts"]: "\n".join(axes.prompts),
    }


def read_settings(shown: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that the inputs say; an empty one is left out.

    Raises:
        ConfigError: one that has to be a whole number is none.
    """
    whole = {name: whole_number(shown[name], name) for name in ("seed", *SIZES)}
    return {name: value for name, value in {**shown, **whole}.items() if value is not None}


def show_settings(request: SampleRequest) -> dict[str, Any]:
    """A request's settings as the inputs show them."""
    sizes = {name: str(getattr(request, name) or "") for name in SIZES}
    return {**request.to_dict(), "seed": str(request.seed), **sizes}
