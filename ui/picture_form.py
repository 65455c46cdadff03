"""The settings beside the pictures on the Generate tab, and what they say."""

from collections.abc import Mapping
from typing import Any

import gradio as gr
from gradio.components import Component

from apt_engine.settings.sampling import SampleRequest
from ui.context import AppContext
from ui.form import build_input, whole_number

SLIDERS = {
    "count": "Pictures",
    "steps": "Steps",
    "guidance_scale": "Guidance",
    "strength": "LoRA strength",
}
SIZES = {"width": "Width (px)", "height": "Height (px)"}
AS_TRAINED = "as trained"


def build_picture_settings(context: AppContext) -> tuple[dict[str, Component], gr.Checkbox, gr.File]:
    """Inputs for the settings of SampleRequest that every picture has, by name; whether the seed stays; and a LoRA file."""
    gr.HTML('<h2 class="title">Settings</h2><p>They are saved inside every PNG.</p>')
    made = {name: build_input(SampleRequest, name, label=label, is_slider=True) for name, label in SLIDERS.items()}
    with gr.Row(elem_classes=["prompt-row", "seed-row"]):
        made["seed"] = build_input(SampleRequest, "seed", label="Seed", placeholder="any")
        keep_seed = gr.Checkbox(
            False, label="Same seed", info="Otherwise each press draws a new one.", elem_id="keep-seed"
        )
    made["negative_prompt"] = build_input(SampleRequest, "negative_prompt", label="Not in the picture")
    made["sampler"] = build_input(SampleRequest, "sampler", label="Sampler")
    with gr.Row():
        for name, label in SIZES.items():
            made[name] = build_input(SampleRequest, name, label=label, placeholder=AS_TRAINED)
    with gr.Accordion("Another LoRA file, or another base", open=False, visible=not context.tenants.is_shared):
        lora = gr.File(
            label="LoRA file (kohya or diffusers)", file_types=[".safetensors"], height=90, elem_id="lora-file"
        )
        made["base"] = build_input(SampleRequest, "base", label="Base model")
    return made, keep_seed, lora


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
