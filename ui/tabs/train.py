"""The Train tab: photos, what it is, Train. Everything else has good defaults."""

import html
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from apt_engine.config import TrainingConfig
from apt_engine.errors import BusyError, ConfigError
from apt_engine.photos import PhotoSet, read_photos
from apt_engine.presets import build_config
from apt_engine.runs import Run
from ui.context import AppContext, Example, plain_errors
from ui.form import build_input, build_settings, changed_by, to_component

ORDER = ("off", "quick", "gentle", "light", "standard", "strong", "dreambooth")
CHOICES = {
    "training": "How long",
    "augmentation": "Re-frame photos as they wear out",
    "regularization": "Keep what the model knows",
}
DEFAULTS = {
    "training": "standard",
    "augmentation": "augmentation-standard",
    "regularization": "regularization-standard",
}
SHOWN_ABOVE = ("subject", "base")


@dataclass(frozen=True)
class TrainView:
    """The tab's components; `settings` are all inputs of TrainingConfig by name."""

    photos: gr.File
    thumbnails: gr.Gallery
    notes: gr.HTML
    examples: list[tuple[gr.Button, Example]]
    settings: dict[str, Component]
    presets: dict[str, gr.Radio]
    summary: gr.HTML
    train: gr.Button
    chosen: gr.State


def build(context: AppContext) -> TrainView:
    """Make the components."""
    start = build_config(context.presets, list(DEFAULTS.values()), {"subject": "thing"})
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=320, elem_classes="card"):
            photos, thumbnails, notes, examples = _build_photos(context)
        with gr.Column(scale=4, min_width=320, elem_classes="card"):
            subject = build_input(TrainingConfig, "subject", value="", label="2. What is it?")
            presets = {kind: _preset_choice(context, kind) for kind in CHOICES}
            bases = [(preset.name, base) for preset in context.presets.values() for base in preset.bases]
            base = gr.Dropdown(
                bases,
                value=start.base,
                label="Base model",
                info="One of these, a folder in diffusers layout, or an id of the Hugging Face hub.",
                allow_custom_value=True,
                interactive=True,
            )
    with gr.Row(equal_height=True, elem_classes="go"):
        summary = gr.HTML(describe(start, PhotoSet(())))
        train = gr.Button("Train", variant="primary", scale=0, min_width=180, elem_id="train")
    with gr.Accordion("All settings", open=False):
        settings = build_settings(TrainingConfig, start.to_dict(), SHOWN_ABOVE)
    return TrainView(
        photos=photos,
        thumbnails=thumbnails,
        notes=notes,
        examples=examples,
        settings={"subject": subject, "base": base, **settings},
        presets=presets,
        summary=summary,
        train=train,
        chosen=gr.State((start.base, tuple(DEFAULTS.values()))),
    )


def connect(view: TrainView, context: AppContext, started: Callable[[str], list[Any]], outputs: Sequence[Any]) -> None:
    """Wire the tab.

    Args:
        view: its components.
        context: the engine and what the form offers.
        started: what to show elsewhere once a run has begun, by its id.
        outputs: the components that `started` returns values for.
    """
    shown = [view.photos, view.thumbnails, view.notes, view.summary]
    form = {view.photos, *view.settings.values()}
    gr.on(
        [view.photos.upload, view.photos.clear, view.photos.delete],
        partial(show_photos, view),
        form,
        shown,
        show_progress="hidden",
    )
    for button, example in view.examples:
        button.click(partial(take_example, example), None, [view.photos, view.settings["subject"]]).then(
            partial(show_photos, view), form, shown, show_progress="hidden"
        )
    choices = [view.settings["base"], *view.presets.values()]
    gr.on(
        [choice.input for choice in choices],
        partial(choose, view, context),
        {view.chosen, *choices, *view.settings.values()},
        [view.chosen, *view.settings.values()],
        show_progress="hidden",
    ).then(partial(show_photos, view), form, shown, show_progress="hidden")
    view.settings["steps"].change(partial(show_photos, view), form, shown, show_progress="hidden")  # pyright: ignore[reportAttributeAccessIssue]
    view.train.click(partial(start, view, context, started), form, list(outputs), show_progress="hidden")


def start(
    view: TrainView, context: AppContext, started: Callable[[str], list[Any]], values: dict[Component, Any]
) -> list[Any]:
    """Begin a run with what the form says; a mistake is one sentence and the form stays."""
    with plain_errors():
        config = config_of(view, values)
        photos = read_photos(_paths(values[view.photos]))
        photos.check()
        run = context.store.create(config, lambda folder: photos.save(folder, config.resolution))
        try:
            context.worker.start_training(run.id)
        except BusyError:
            shutil.rmtree(run.path)  # nothing was learnt in it
            raise
    return started(run.id)


def show_photos(view: TrainView, values: dict[Component, Any]) -> list[Any]:
    """The good photos as thumbnails, a sentence for each that is bad or could be better, and what training would take."""
    paths = _paths(values[view.photos])
    photos = read_photos(paths)
    for problem in photos.problems:
        gr.Warning(problem, title="Left out")
    good = [path for path in paths if path.name in {photo.name for photo in photos.photos}]
    try:
        config = config_of(view, {**values, view.settings["subject"]: "thing"})
    except ConfigError as error:
        return [
            _names(good),
            [photo.image for photo in photos.photos],
            "",
            f'<p class="note">{html.escape(str(error))}</p>',
        ]
    warnings = [*photos.problems, *photos.warnings, *photos.smaller_than(config.resolution)]
    notes = "".join(f"<li>{html.escape(warning)}</li>" for warning in warnings)
    pictures = [(photo.image, photo.name) for photo in photos.photos]
    return [_names(good), pictures, f'<ul class="warnings">{notes}</ul>' if notes else "", describe(config, photos)]


def take_example(example: Example) -> list[Any]:
    """An example's photos and class word in place of what was there."""
    return [[str(path) for path in example.photo_paths], example.subject]


def form_outputs(view: TrainView) -> list[Component]:
    """The components that `fill_in` returns values for."""
    return [view.photos, view.thumbnails, view.notes, view.summary, *view.settings.values()]


def fill_in(view: TrainView, run: Run) -> list[Any]:
    """The photos and settings of an earlier run, to train like it again.

    Raises:
        RunError: its settings cannot be read.
    """
    config = run.config
    photos = read_photos(run.photo_paths)
    pictures = [(photo.image, photo.name) for photo in photos.photos]
    values = config.to_dict()
    return [
        [str(path) for path in run.photo_paths],
        pictures,
        "",
        describe(config, photos),
        *(to_component(values[name]) for name in view.settings),
    ]


def choose(view: TrainView, context: AppContext, values: dict[Component, Any]) -> dict[Component, Any]:
    """Settings follow another base model or preset, except those changed by hand."""
    names = {component: name for name, component in view.settings.items()}
    shown = {names[component]: value for component, value in values.items() if component in names}
    old_base, old_presets = values[view.chosen]
    base, presets = values[view.settings["base"]] or "pocket", tuple(values[radio] for radio in view.presets.values())
    with plain_errors():
        before = build_config(context.presets, old_presets, {"subject": "thing", "base": old_base})
        after = build_config(context.presets, presets, {"subject": "thing", "base": base})
    moved = changed_by(before, after, {name: value for name, value in shown.items() if name not in SHOWN_ABOVE})
    return {view.chosen: (base, presets), **{view.settings[name]: value for name, value in moved.items()}}


def config_of(view: TrainView, values: dict[Component, Any]) -> TrainingConfig:
    """The form as a config.

    Raises:
        ConfigError: a setting is empty or not allowed.
    """
    settings = {name: values[component] for name, component in view.settings.items()}
    empty = next((name for name, value in settings.items() if value is None and name != "base"), None)
    if empty:
        raise ConfigError(f"The setting {empty} is empty; give it a value.")
    return TrainingConfig.from_dict({**settings, "base": settings["base"] or "pocket"})


def describe(config: TrainingConfig, photos: PhotoSet) -> str:
    """One line on what Train would do."""
    count = len(photos.photos)
    steps = f"<span>at most <b>{config.steps_for(count):,}</b> steps</span>"
    about = f"<span><b>{count}</b> photo{'' if count == 1 else 's'}</span>{steps}"
    size = f"<span><b>{config.resolution}</b> px</span>"
    return f'<h2 class="title">3. Train</h2><p class="numbers">{about}{size}<span>stays on this computer</span></p>'


def _build_photos(context: AppContext) -> tuple[gr.File, gr.Gallery, gr.HTML, list[tuple[gr.Button, Example]]]:
    gr.HTML(
        '<h2 class="title">1. Photos of the thing</h2><p>3 to 10, in different places and from different sides.</p>',
        padding=False,
    )
    photos = gr.File(file_count="multiple", label="Photos", height=120, elem_id="photos")
    thumbnails = gr.Gallery(
        label="Photos as they will be learnt",
        show_label=False,
        columns=5,
        height="auto",
        interactive=False,
        buttons=[],
        elem_id="thumbnails",
        object_fit="cover",
    )
    notes = gr.HTML("")
    examples = []
    if context.examples:
        gr.HTML('<p class="quiet">No photos at hand? Take these:</p>')
        with gr.Row():
            examples = [
                (gr.Button(example.title, size="sm", elem_id=f"example-{key}"), example)
                for key, example in context.examples.items()
            ]
    return photos, thumbnails, notes, examples


def _preset_choice(context: AppContext, kind: str) -> gr.Radio:
    presets = [(preset.name, key) for key, preset in context.presets.items() if preset.kind == kind]
    presets.sort(key=lambda item: ORDER.index(end) if (end := item[1].rpartition("-")[2]) in ORDER else len(ORDER))
    return gr.Radio(presets, value=DEFAULTS[kind], label=CHOICES[kind], interactive=True)


def _paths(files: Sequence[str] | None) -> list[Path]:
    return [Path(file) for file in files or []]


def _names(paths: Sequence[Path]) -> list[str] | None:
    return [str(path) for path in paths] or None
