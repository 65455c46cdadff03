"""The components of the Train tab."""

import html
from dataclasses import dataclass
from typing import NamedTuple

import gradio as gr
from gradio.components import Component

from apt_engine.bases.profiles import build_config
from apt_engine.settings.training import TrainingConfig
from ui import captioning, model_folders
from ui.context import AppContext, Example
from ui.form import build_input, build_settings
from ui.train_panels import DEFAULTS, build_examples, build_photos, build_presets, describe
from ui.vocabulary import known_words
from ui.words import say

SHOWN_ABOVE = ("subject", "base")


class Choice(NamedTuple):
    """A base model and the keys of the presets, of which the values in the form are the defaults."""

    base: str
    presets: tuple[str, ...]


@dataclass(frozen=True)
class TrainView:
    """The tab's components.

    Attributes:
        photos: tiles of the photos, drawn by `assets/photos.js`.
        notes: sentences on the photos.
        captioning: writes captions, where a captioner lies in the hub's cache.
        meaning: what the subject will be called in prompts, and whether the base model knows such a thing.
        examples: a button for each example.
        settings: an input for each field of TrainingConfig, by its name.
        presets: a choice for each kind of preset.
        warps: what re-framing does to the photos.
        folders: where other programs keep their models.
        summary: what training would take.
        train: the button.
        beside: whether plain DreamBooth is trained after it.
        chosen: the Choice that the form follows.
    """

    photos: gr.HTML
    notes: gr.HTML
    captioning: captioning.Captioning
    meaning: gr.HTML
    examples: list[tuple[gr.Button, Example]]
    settings: dict[str, Component]
    presets: dict[str, gr.Radio]
    warps: gr.HTML
    folders: model_folders.ModelFoldersView
    summary: gr.HTML
    train: gr.Button
    beside: gr.Checkbox
    chosen: gr.State

    @property
    def filled(self) -> list[Component]:
        """What `fill_in` changes."""
        return [self.photos, self.notes, self.meaning, self.warps, self.summary, self.beside, *self.settings.values()]

    @property
    def kept(self) -> dict[str, Component]:
        """The inputs whose values a reload finds again, by the names under which they are kept."""
        presets = {f"preset.{kind}": radio for kind, radio in self.presets.items()}
        return {"photos": self.photos, **presets, **self.settings}


def build(context: AppContext) -> TrainView:
    """Make the components."""
    start = build_config(context.presets, list(DEFAULTS.values()), {"subject": "thing"})
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320, elem_classes="card"):
            photos, notes = build_photos(context)
            by_model = captioning.build(context)
            examples = build_examples(context)
        with gr.Column(scale=4, min_width=320, elem_classes="card"):
            subject = build_input(TrainingConfig, "subject", value="", label=say("2. What is it?"), elem_id="subject")
            words = "".join(f'<option value="{html.escape(word)}">' for word in known_words())
            gr.HTML(f'<datalist id="known-words">{words}</datalist>', padding=False)
            meaning = gr.HTML("", elem_id="train-meaning")
            presets, warps = build_presets(context)
            base = gr.Dropdown(
                model_folders.offered(context),
                value=start.base,
                label=say("Base model"),
                info=say(
                    "One of these, a .safetensors checkpoint, a folder in diffusers layout, or an id of the Hugging Face hub."
                ),
                allow_custom_value=not context.tenants.is_shared,
                interactive=True,
            )
            folders = model_folders.build(context)
            beside = gr.Checkbox(
                False,
                label=say("Then plain DreamBooth, to compare"),
                info=say(
                    "Same photos, seed and prompts, in about three quarters of the time; Runs shows both side by side."
                ),
                visible=not context.tenants.is_shared,
                elem_id="train-beside",
            )
    with gr.Row(equal_height=True, elem_classes="go"):
        summary = gr.HTML(describe(context, start, 0))
        train = gr.Button(say("Train"), variant="primary", scale=0, min_width=180, elem_id="train")
    with gr.Accordion(say("All settings"), open=False):
        settings = build_settings(TrainingConfig, start.to_dict(), SHOWN_ABOVE)
    return TrainView(
        photos=photos,
        notes=notes,
        captioning=by_model,
        meaning=meaning,
        examples=examples,
        settings={"subject": subject, "base": base, **settings},
        presets=presets,
        warps=warps,
        folders=folders,
        summary=summary,
        train=train,
        beside=beside,
        chosen=gr.State(Choice(start.base, tuple(DEFAULTS.values()))),
    )
