"""The components of the Generate tab."""

from dataclasses import dataclass

import gradio as gr
from gradio.components import Component

from apt_engine.settings.sampling import SampleRequest
from ui import model_folders, models, more_loras
from ui.context import AppContext
from ui.form import build_input
from ui.models import BARE, KEPT
from ui.picture_form import PictureForm, build_picture_form
from ui.pictures import show_line
from ui.plots import progress_line
from ui.scripted import scripted
from ui.words import say


@dataclass(frozen=True)
class GenerateView:
    """The tab's components.

    Attributes:
        settings: an input for each field of SampleRequest but `run` and `lora`, by its name.
        model: what to draw with, see `ui.models`: {choices, chosen}.
        meaning: what {subject} stands for.
        suggestions: prompts worth trying.
        more: LoRAs beside that one, see `ui.more_loras`.
        form: what stands beside the pictures.
        lora: takes a LoRA file, which becomes one of the models.
        folders: points at the models of other programs, which join the base models.
        compare: what is drawn beside the pictures asked for.
        generate: the button.
        stop: the other one.
        progress: a bar, and a preview of the next picture.
        waiting: the pictures in line: {wishes, problem, done}.
        pictures: what was drawn last.
        history: what was drawn before.
    """

    settings: dict[str, Component]
    model: gr.HTML
    meaning: gr.HTML
    suggestions: gr.HTML
    more: gr.HTML
    form: PictureForm
    lora: gr.File
    folders: model_folders.ModelFoldersView
    compare: gr.Dropdown
    generate: gr.Button
    stop: gr.Button
    progress: gr.HTML
    waiting: gr.HTML
    pictures: gr.HTML
    history: gr.HTML

    @property
    def chosen(self) -> list[Component]:
        """What `choose_model` changes."""
        settings = [self.settings[name] for name in ("checkpoint", "prompt")]
        return [self.model, self.more, *settings, self.compare, self.meaning, self.suggestions]

    @property
    def drawn(self) -> list[Component]:
        """What changes when pictures in line were drawn."""
        return [self.waiting, self.pictures, self.history]

    @property
    def kept(self) -> dict[str, Component]:
        """The inputs whose values a reload finds again, by name. The model is chosen anew, after the run in view."""
        settings = {name: component for name, component in self.settings.items() if name != "checkpoint"}
        return {**settings, "keep_seed": self.form.keep_seed}


def build(context: AppContext) -> GenerateView:
    """Make the components."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=7, min_width=320, elem_classes="card"):
            prompt = build_input(SampleRequest, "prompt", value=models.suggest_prompts(BARE)[0], label=say("Prompt"))
            meaning = gr.HTML(models.explain_subject(context, BARE), elem_id="meaning")
            suggestions = scripted("prompts", {"prompts": models.suggest_prompts(BARE)}, elem_id="suggestions")
            with gr.Row(elem_classes="prompt-row"):
                choices = {"choices": models.list_models(context), "chosen": BARE}
                model = scripted("models", choices, elem_id="model", min_width=200)
                checkpoint, compare = _build_checkpoints(context)
            more = more_loras.build(context)
            with gr.Row(elem_classes="actions"):
                generate = gr.Button(say("Generate"), variant="primary", elem_id="generate", min_width=180)
                stop = gr.Button(say("Stop"), visible=False, elem_id="stop-drawing", min_width=90)
            progress = gr.HTML(progress_line(0.0, []), elem_id="drawing")
            waiting = scripted("waiting", show_line(context), elem_id="waiting")
            pictures = scripted("gallery", {"pictures": []}, elem_id="pictures")
            about = say("Click one to use its settings again.")
            gr.HTML(f'<h2 class="title second">{say("History")}</h2><p>{about}</p>')
            history = scripted("gallery", {"pictures": [], "pick": True}, elem_id="history")
        with gr.Column(scale=3, min_width=280, elem_classes="card"):
            form = build_picture_form()
            with gr.Accordion(say("LoRA files and base models"), open=False, visible=not context.tenants.is_shared):
                lora = gr.File(
                    label=say("LoRA file (kohya or diffusers)"),
                    file_types=[".safetensors"],
                    height=150,
                    elem_id="lora-file",
                )
                base = _build_base(context)
                folders = model_folders.build(context, "generate")
    return GenerateView(
        settings={"prompt": prompt, "checkpoint": checkpoint, "base": base, **form.settings},
        model=model,
        meaning=meaning,
        suggestions=suggestions,
        more=more,
        form=form,
        lora=lora,
        folders=folders,
        compare=compare,
        generate=generate,
        stop=stop,
        progress=progress,
        waiting=waiting,
        pictures=pictures,
        history=history,
    )


def _build_base(context: AppContext) -> gr.Dropdown:
    return gr.Dropdown(
        model_folders.offered(context),
        value="pocket",
        label=say("Base model"),
        info=say(
            "What a LoRA file is drawn with, or the base model alone; a run has its own. One of these, a .safetensors "
            "checkpoint, a folder in diffusers layout, or an id of the Hugging Face hub."
        ),
        allow_custom_value=not context.tenants.is_shared,
        interactive=True,
        elem_id="drawing-base",
    )


def _build_checkpoints(context: AppContext) -> tuple[gr.Dropdown, gr.Dropdown]:
    choices, others = models.list_checkpoints(context, BARE)
    checkpoint = gr.Dropdown(
        choices, value=KEPT, label=say("Checkpoint"), interactive=True, min_width=150, elem_id="checkpoint"
    )
    compare = gr.Dropdown(
        others,
        value=[],
        label=say("Beside it"),
        multiselect=True,
        interactive=True,
        min_width=150,
        elem_id="compare",
    )
    return checkpoint, compare
