"""The Train tab: photos, a class word, and Train. All other settings have defaults."""

import contextlib
import html
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from apt_engine.bases.caption_length import is_too_long
from apt_engine.bases.profiles import build_config
from apt_engine.errors import BusyError, ConfigError, PhotoError
from apt_engine.photos.photo_set import PhotoSet
from apt_engine.runs.run import Run
from apt_engine.settings.training import SUBJECT_SLOT, TrainingConfig
from ui import captioning, model_folders
from ui.context import AppContext, Example, Values, plain_errors
from ui.form import changed_by, initial_value, to_component
from ui.photo_tiles import NO_PHOTOS, first_of, read_tiles, show, tiles_of, tiles_of_run
from ui.plain_card import beside as plain_beside
from ui.plain_card import is_plain, is_plain_training
from ui.sentences import in_line
from ui.train_panels import describe, draw_warps, problem
from ui.train_view import SHOWN_ABOVE, Choice, TrainView
from ui.vocabulary import describe_word
from ui.words import say, told

SHOW_PROBLEM = "() => document.querySelector('#train-tab [role=alert]')?.scrollIntoView({block: 'center'})"
PREPARE = """() => {
  document.querySelector("#subject input")?.setAttribute("list", "known-words");
  // Gradio gives each button of a group a name of its own, and so a stop of its own for Tab, and no arrows.
  document.querySelectorAll("#train-tab fieldset").forEach((group, number) =>
    group.querySelectorAll("input[type=radio]").forEach((radio) => { radio.name = `preset-${number}`; }));
}"""


def connect(view: TrainView, context: AppContext, started: Callable[[str], Values], outputs: Sequence[Block]) -> None:
    """Wire the tab.

    Args:
        view: its components.
        context: the engine and what the form offers.
        started: what to show elsewhere once a run has begun, by its id.
        outputs: the components that `started` may change.
    """
    shown = [view.photos, view.notes, view.warps, view.summary, view.beside]
    form = {view.photos, *view.settings.values()}
    look = partial(show_photos, view, context)
    seen: list[Any] = [view.photos, view.settings["crop"], view.settings["resolution"]]
    looked_at = [component.input for component in seen]
    gr.on(looked_at, look, form, shown, show_progress="hidden", trigger_mode="always_last", api_visibility="private")
    for button, example in view.examples:
        button.click(partial(take_example, view, example), None, [view.photos, view.settings["subject"]]).then(
            look, form, shown, show_progress="hidden", api_visibility="private"
        )
    model_folders.connect(view.folders, context, view.settings["base"])
    captioning.connect(
        view.captioning,
        context,
        view.photos,
        view.settings["subject"],
        lambda tiles: read_tiles(first_of(tiles), _own_folders(context)),
    )
    choices = [view.settings["base"], *view.presets.values()]
    gr.on(
        [choice.input for choice in choices],
        partial(choose, view, context),
        {view.chosen, *choices, *view.settings.values()},
        [view.chosen, *view.presets.values(), *view.settings.values()],
        show_progress="hidden",
    ).then(look, form, shown, show_progress="hidden", api_visibility="private")
    summed_up = [view.settings[name].change for name in ("steps", "batch_size", "rank", "resolution")]  # pyright: ignore[reportAttributeAccessIssue]
    gr.on(summed_up, partial(sum_up, view, context), form, [view.summary, view.beside], show_progress="hidden")
    named = [view.settings[name] for name in ("subject", "base", "identifier")]
    gr.on(
        [component.change for component in named],  # pyright: ignore[reportAttributeAccessIssue]
        partial(explain_word, view),
        {*named},
        view.meaning,
        show_progress="hidden",
        queue=False,
        trigger_mode="always_last",
    )
    view.train.click(
        partial(start, view, context, started),
        form | {view.beside},
        [view.meaning, view.notes, view.summary, *outputs],
        show_progress="hidden",
        api_visibility="private",
    ).then(None, None, None, js=SHOW_PROBLEM)


def start(view: TrainView, context: AppContext, started: Callable[[str], Values], values: Values) -> Values:
    """Begin a run with the settings in the form. A mistake is one sentence where it was made, and the form stays as it is."""
    photos = read_tiles(values[view.photos], _own_folders(context))
    try:
        TrainingConfig(subject=values[view.settings["subject"]])
    except ConfigError as error:
        return {view.meaning: problem(error)}
    try:
        photos.check(SUBJECT_SLOT)
    except PhotoError as error:
        return {view.notes: problem(error)}
    try:
        config = config_of(view, values)
    except ConfigError as error:
        return {view.summary: problem(error)}
    with plain_errors():
        line = context.line if context.engine.status.job != "idle" else None
        run = context.store.create(config, lambda folder: photos.save(folder, config.resolution, config.crop))
        if line:
            line.add(run.id)
            _train_beside(view, context, run, values)
            return {
                view.summary: f'<p class="quiet" role="alert">{html.escape(in_line(config.subject, len(line.waiting())))}</p>'
            }
        try:
            context.engine.start_training(run.id)
        except BusyError:
            shutil.rmtree(run.path)  # it holds no training yet
            raise
        _train_beside(view, context, run, values)
    return started(run.id)


def _train_beside(view: TrainView, context: AppContext, run: Run, values: Values) -> None:
    """Put plain DreamBooth in line, if that is wished and the run is not plain itself."""
    if values.get(view.beside) and context.line and not is_plain(run):
        plain_beside(context, run.id)


def explain_word(view: TrainView, values: Values) -> Values:
    """Say what the subject is called in prompts, and warn of one that the base model has never seen."""
    named = [str(values[view.settings[name]] or "").strip() for name in ("subject", "base", "identifier")]
    return {view.meaning: describe_word(*named)}


def show_photos(view: TrainView, context: AppContext, values: Values) -> Values:
    """Show tiles of the photos that can be used, sentences on those that cannot or could be better, and what training takes."""
    photos = read_tiles(first_of(values[view.photos]), _own_folders(context))
    config = _config_or_none(view, values)
    cut = (config.resolution, config.crop) if config else (64, "square")
    too_long = _too_long(context, config, photos) if config else {}
    tiles = show(values[view.photos], photos, cut, context.uploads_dir / "tiles", list(too_long))
    warnings = [*photos.warnings, *photos.smaller_than(*cut), *too_long.values()]
    notes = "".join(f"<li>{html.escape(told(warning))}</li>" for warning in warnings)
    return {
        view.photos: tiles,
        view.notes: f'<ul class="warnings">{notes}</ul>' if notes else "",
        view.warps: draw_warps(photos.photos, config, context.uploads_dir / "tiles") if config else "",
        **sum_up(view, context, {**values, view.photos: tiles}),
    }


def sum_up(view: TrainView, context: AppContext, values: Values) -> Values:
    """Say what training would take with the form as it is, or why that cannot be."""
    try:
        config = config_of(view, {**values, view.settings["subject"]: "thing"})
    except ConfigError as error:
        return {view.summary: problem(error)}
    return _summed_up(view, context, config, len((values[view.photos] or NO_PHOTOS)["photos"]))


def _summed_up(view: TrainView, context: AppContext, config: TrainingConfig, photo_count: int) -> Values:
    """The line beside the button, and plain DreamBooth after it offered where that is another training."""
    is_other = not context.tenants.is_shared and not is_plain_training(config, photo_count)
    return {view.summary: describe(context, config, photo_count), view.beside: gr.Checkbox(visible=is_other)}


def take_example(view: TrainView, example: Example) -> Values:
    """Put an example's photos and class word in place of what was there."""
    return {view.photos: tiles_of(example.photo_paths), view.settings["subject"]: example.subject}


def fill_in(view: TrainView, context: AppContext, run: Run) -> Values:
    """Put the photos and settings of an earlier run into the form.

    Raises:
        RunError: its settings cannot be read.
    """
    config = run.config
    tiles = tiles_of_run(run)
    photos = read_tiles(tiles, _own_folders(context))
    values = config.to_dict()
    return {
        view.photos: show(tiles, photos, (config.resolution, config.crop), context.uploads_dir / "tiles"),
        view.notes: "",
        view.warps: draw_warps(photos.photos, config, context.uploads_dir / "tiles"),
        **_summed_up(view, context, config, len(photos.photos)),
        **explain_word(view, {component: values[name] for name, component in view.settings.items()}),
        **{component: to_component(values[name]) for name, component in view.settings.items()},
    }


def restore(view: TrainView, context: AppContext, values: Values) -> Values:
    """Put what was kept over a reload back into the form, and show what follows from it.

    Args:
        view: the tab's components.
        context: the engine and what the form offers.
        values: among them some of `view.kept`; the others keep what they show at first. Photos whose files are gone are left
            out.
    """
    inputs = view.kept.values()
    own: Values = {component: values[component] for component in inputs if component in values}
    form: Values = {component: initial_value(component) for component in inputs} | own
    tiles = [tile for tile in (form[view.photos] or NO_PHOTOS)["photos"] if Path(str(tile.get("path"))).is_file()]
    form[view.photos] = {"photos": tiles, "problems": []}
    for radio in view.presets.values():
        if radio in own:
            own[radio] = gr.Radio(value=own[radio], info=told(context.presets[own[radio]].description))
    return {**own, **show_photos(view, context, form), view.chosen: _choice(view, form)}


def choose(view: TrainView, context: AppContext, values: Values) -> Values:
    """Let the settings follow another base model or preset, except those changed by hand."""
    old, new = values[view.chosen], _choice(view, values)
    with plain_errors():
        before = build_config(context.presets, old.presets, {"subject": "thing", "base": old.base})
        after = build_config(context.presets, new.presets, {"subject": "thing", "base": new.base})
    shown = {name: values[component] for name, component in view.settings.items() if name not in SHOWN_ABOVE}
    moved = changed_by(before, after, shown)
    said: Values = {
        radio: gr.Radio(info=told(context.presets[key].description))
        for radio, key in zip(view.presets.values(), new.presets, strict=True)
    }
    return {view.chosen: new, **said, **{view.settings[name]: value for name, value in moved.items()}}


def config_of(view: TrainView, values: Values) -> TrainingConfig:
    """Read the settings in the form.

    Raises:
        ConfigError: a setting is empty or not allowed.
    """
    settings = {name: values[component] for name, component in view.settings.items()}
    empty = next((name for name, value in settings.items() if value is None and name != "base"), None)
    if empty:
        raise ConfigError(say("The setting {name} is empty; give it a value.", name=empty))
    return TrainingConfig.from_dict({**settings, "base": settings["base"] or "pocket"})


def _choice(view: TrainView, values: Values) -> Choice:
    base = values[view.settings["base"]] or "pocket"
    return Choice(base, tuple(values[radio] for radio in view.presets.values()))


def _config_or_none(view: TrainView, values: Values) -> TrainingConfig | None:
    """The settings in the form, of some thing where it has no name yet; None where one of them is not allowed."""
    for subject in (values[view.settings["subject"]], "thing"):
        with contextlib.suppress(ConfigError):
            return config_of(view, {**values, view.settings["subject"]: subject})
    return None


def _too_long(context: AppContext, config: TrainingConfig, photos: PhotoSet) -> dict[str, str]:
    """What to say of captions that are longer than the base model can hear, by the name of the photo; by "" of the usual one."""
    captions = {"": config.caption, **{photo.name: photo.caption for photo in photos.photos if photo.caption}}
    return {
        name: say("The caption of {name} is longer than the model can read, so its end is lost; shorten it.", name=name)
        if name
        else say("The caption is longer than the model can read, so its end is lost; shorten it.")
        for name, caption in captions.items()
        if is_too_long(config.fill(caption), config.base, context.presets)
    }


def _own_folders(context: AppContext) -> list[Path]:
    """The folders that photos may be read from: uploads, examples, and the photos of earlier runs."""
    return [context.uploads_dir, context.store.runs_dir, *(example.folder for example in context.examples.values())]
