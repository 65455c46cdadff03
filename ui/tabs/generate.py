"""The Generate tab: a prompt becomes pictures, with a run's LoRA, with any LoRA file, or with the bare base model."""

import random
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from apt_engine.errors import BusyError, EngineError
from apt_engine.runs import library
from apt_engine.runs.grid import Axes, axes_inside, save_grid
from apt_engine.settings.sampling import SampleRequest, name_of
from ui import grid, model_folders, models, more_loras
from ui.context import SECONDS_SHOWN, AppContext, Values, plain_errors
from ui.models import BARE, KEPT
from ui.picture_form import read_axes, read_settings, show_axes, show_settings
from ui.picture_view import GenerateView
from ui.pictures import gallery, gallery_of_grid, preview, remembered, show_drawn, show_history, show_line
from ui.plots import progress_line
from ui.scripted import settle
from ui.words import say, told

HIGHEST_SEED = 2**31 - 1


def connect(view: GenerateView, context: AppContext) -> None:
    """Wire the tab."""
    prompt = view.settings["prompt"]
    settle(
        view.model.input,
        lambda values: choose_model(
            view, context, values[view.model]["chosen"], values[prompt], rows=rows_in(view, values)
        ),
        {view.model, view.more, prompt},
        view.chosen,
    )
    settle(
        view.lora.upload,
        partial(bring_lora, view, context),
        {view.lora, view.more, prompt},
        [view.lora, *view.chosen],
    )
    view.generate.click(
        partial(generate, view, context),
        {*view.settings.values(), *view.form.axes.values(), view.model, view.more, view.form.keep_seed, view.compare},
        [view.progress, view.settings["seed"], view.generate, view.stop, *view.drawn],
        show_progress="hidden",
        api_visibility="private",
        # While it draws, a press puts more in line.
        trigger_mode="multiple" if context.pictures else "once",
        concurrency_limit=None,
    )
    model_folders.connect(view.folders, context, view.settings["base"])
    view.stop.click(partial(stop, context), None, None, queue=False, api_visibility="private")

    def take_prompt(event: gr.EventData) -> Values:  # Gradio finds no event data in a partial
        return {view.settings["prompt"]: str(event.prompt)}

    def reuse(event: gr.EventData) -> Values:
        return use_again(view, context, int(event.index))

    def drop_lora(values: Values, event: gr.EventData) -> Values:
        return forget_lora(view, context, str(event.id), values[view.model]["chosen"], rows_in(view, values))

    def move(event: gr.EventData) -> Values:
        return move_wish(view, context, str(event.id), str(event.move))

    settle(view.suggestions.select, take_prompt, None, [view.settings["prompt"]])
    reused = [*view.settings.values(), *view.form.axes.values(), view.form.keep_seed, *view.chosen]
    settle(view.history.select, reuse, None, reused)
    settle(
        view.form.source.upload, partial(take_settings, view, context), {view.form.source}, [view.form.source, *reused]
    )
    settle(view.model.delete, drop_lora, {view.model, view.more}, view.chosen)
    view.waiting.submit(move, None, view.waiting, show_progress="hidden", api_visibility="private")


def stop(context: AppContext) -> None:
    """Ask the engine to stop; finished pictures stay."""
    context.engine.stop()


def restore(view: GenerateView, values: Values) -> Values:
    """Put what was kept over a reload back into the form; an empty prompt becomes the suggested one."""
    prompt = view.settings["prompt"]
    own: Values = {component: values[component] for component in view.kept.values() if component in values}
    return {**own, prompt: own.get(prompt) or models.suggest_prompts(BARE)[0]}


def rows_in(view: GenerateView, values: Values) -> list[more_loras.Row]:
    """The LoRAs beside the chosen one."""
    return list(values[view.more]["rows"])


def choose_model(
    view: GenerateView,
    context: AppContext,
    model: str,
    prompt: str,
    checkpoint: str = KEPT,
    *,
    rows: Sequence[more_loras.Row] = (),
) -> Values:
    """Choose what to draw with, a checkpoint (the kept one where it has no such), prompts. A prompt that was typed stays."""
    changes: Values = {
        **offer_models(view, context, model, prompt, rows=rows),
        view.meaning: models.explain_subject(context, model),
        view.suggestions: {"prompts": models.suggest_prompts(model)},
    }
    checkpoints, others = models.list_checkpoints(context, model)
    is_there = checkpoint in [value for _, value in checkpoints]
    changes[view.settings["checkpoint"]] = gr.Dropdown(checkpoints, value=checkpoint if is_there else KEPT)
    changes[view.compare] = gr.Dropdown(others, value=[], multiselect=True)
    return changes


def offer_models(
    view: GenerateView, context: AppContext, model: str, prompt: str, *, rows: Sequence[more_loras.Row] = ()
) -> Values:
    """Offer the models and the checkpoints of the chosen one as they are now; what is chosen stays."""
    checkpoints, others = models.list_checkpoints(context, model)
    changes: Values = {
        view.model: {"choices": models.list_models(context), "chosen": model},
        view.more: more_loras.show(context, rows, model),
        view.settings["checkpoint"]: gr.Dropdown(checkpoints),
        view.compare: gr.Dropdown(others, multiselect=True),
    }
    if models.is_suggested(prompt):
        changes[view.settings["prompt"]] = models.suggest_prompts(model)[0]
    return changes


def bring_lora(view: GenerateView, context: AppContext, values: Values) -> Values:
    """Make a LoRA file one of the models, and choose it."""
    if context.tenants.is_shared or not values[view.lora]:  # a guest's page has no such field
        return gr.skip()
    try:
        model = models.keep_lora(context, Path(values[view.lora]))
    except EngineError as error:
        return _refused(view.lora, error)
    prompt, rows = values[view.settings["prompt"]], rows_in(view, values)
    return {view.lora: None, **choose_model(view, context, model, prompt, rows=rows)}


def forget_lora(
    view: GenerateView, context: AppContext, model: str, chosen: str, rows: Sequence[more_loras.Row] = ()
) -> Values:
    """Delete a LoRA file that was brought; what is chosen stays, if it is not that."""
    path = models.file_of(context, model)
    if path:
        path.unlink(missing_ok=True)
    left = models.chosen_or_bare(models.list_models(context), chosen)
    return choose_model(view, context, left, "", rows=rows)


def requests_of(view: GenerateView, context: AppContext, values: Values) -> list[tuple[str, SampleRequest]]:
    """The requests that the form asks for, each with a caption: first the chosen model, then those beside it with equal seeds.

    Raises:
        ConfigError: a setting is empty or not allowed.
        RunError: there is no such run.
    """
    given = read_settings({name: values[component] for name, component in view.settings.items()})
    model = str(values[view.model]["chosen"])
    file = models.file_of(context, model)
    beside = more_loras.read(context, rows_in(view, values))
    first = SampleRequest.from_dict({**given, "run": models.run_of(model), "lora": str(file or ""), "loras": beside})
    if first.run:
        context.store.open(first.run)

    def named(request: SampleRequest) -> tuple[str, SampleRequest]:
        name = file.stem if file else models.name_of(context, request.run, request.checkpoint)
        return more_loras.caption(context, name, request), request

    found = [named(first)]
    for other in values[view.compare] or ():
        if other == models.BASE_TOO:
            # At strength 0 the run's LoRA changes nothing, and {subject} can still be filled in.
            found.append((say("the base model"), first.replace(strength=0.0, loras=[])))
        elif first.run:
            found.append(named(first.replace(checkpoint=other)))
    return found


def generate(view: GenerateView, context: AppContext, values: Values) -> Iterator[Values]:
    """Draw pictures, showing the progress, or put them in line. What prevents it is shown as one sentence."""
    seed = view.settings["seed"]
    if not values[view.form.keep_seed] or values[seed] in (None, ""):
        values = {**values, seed: str(random.randrange(HIGHEST_SEED))}
    with plain_errors():
        requests = requests_of(view, context, values)
        axes = read_axes(view.form, values, requests[0][1])
        if axes:
            beside = more_loras.caption(context, "", requests[0][1])
            requests = grid.requests_of(requests[0][1], axes, beside)
        if context.pictures and context.engine.status.job != "idle":
            context.pictures.add(requests, axes)
            yield {seed: values[seed], view.waiting: show_line(context)}
            return
        context.engine.refuse_if_busy()
    yield {seed: values[seed]}  # once: by the next update a person may have typed another
    button = gr.Button(say("Generate next: put in line")) if context.pictures else gr.Button(interactive=False)
    busy = {view.generate: button, view.stop: gr.Button(visible=True)}
    shown: Values = {}
    try:
        for shown in _draw(view, context, requests, axes):
            yield {**shown, **busy}
    except gr.Error as error:
        if not (context.pictures and isinstance(error.__cause__, BusyError)):
            yield {view.progress: progress_line(0.0, []), **_end(view, context)}
            raise
        context.pictures.add(requests, axes)  # somebody was faster
        shown = {view.progress: progress_line(0.0, []), view.waiting: show_line(context)}
    # The last update is sent again: of updates that come close together the page can lose the last.
    yield {**shown, **_end(view, context)}


def _end(view: GenerateView, context: AppContext) -> Values:
    return {
        view.generate: gr.Button(say("Generate"), interactive=True),
        view.stop: gr.Button(visible=False),
        view.history: show_history(context),
    }


def _draw(
    view: GenerateView, context: AppContext, requests: list[tuple[str, SampleRequest]], axes: Axes | None
) -> Iterator[Values]:
    """Progress and all pictures so far, request after request, at last the grid; ends early when a request is stopped."""
    drawn: list[tuple[str, int, Path]] = []
    total = sum(request.count for _, request in requests)
    for number, (caption, request) in enumerate(requests):
        done: list[tuple[str, int, Path]] = []
        with plain_errors():
            for progress in context.engine.sample(request):
                done = [(caption, request.seed + at, path) for at, path in enumerate(progress.images)]
                fraction = None if progress.fraction is None else (number + progress.fraction) / len(requests)
                bar = progress_line(fraction, [(told(progress.message), _share(len(drawn) + len(done), total), "")])
                pictures = {view.pictures: gallery(drawn + done)} if drawn + done else {}
                yield {view.progress: bar + preview(progress), **pictures}
        drawn += done
        if len(done) < request.count:
            return
    if axes:
        with plain_errors():
            first, paths = requests[0][1], [path for *_, path in drawn]
            whole = save_grid(paths[-1].parent, first, axes, paths)
        bar = progress_line(1.0, [(say("Done"), _share(total, total), "")])
        yield {view.progress: bar, view.pictures: gallery_of_grid(whole, first.seed, drawn)}


def _share(done: int, total: int) -> str:
    return say("{done} of {total}", done=done, total=total)


def move_wish(view: GenerateView, context: AppContext, wish_id: str, where: str) -> Values:
    """Let pictures in line be drawn sooner, or take them out."""
    if context.pictures:
        with plain_errors():
            (context.pictures.hasten if where == "sooner" else context.pictures.remove)(wish_id)
    return {view.waiting: show_line(context)}


def follow_line(view: GenerateView, context: AppContext, shown: dict[str, Any]) -> Values:
    """What has become of the pictures in line since they were shown; nothing where nothing has."""
    now = show_line(context)
    if now == shown or not context.pictures:
        return {}
    changes: Values = {view.waiting: now}
    if now["done"] != shown["done"]:
        changes[view.history] = show_history(context)
        changes[view.pictures] = show_drawn(context.pictures.drawn)
    return changes


def use_again(view: GenerateView, context: AppContext, index: int) -> Values:
    """Put the settings inside a picture of the history into the form; its seed is kept."""
    with plain_errors():
        return _use(view, context, remembered(context)[index])


def take_settings(view: GenerateView, context: AppContext, values: Values) -> Values:
    """Put the settings inside a picture that was brought into the form."""
    if not values[view.form.source]:
        return gr.skip()
    try:
        return {view.form.source: None, **_use(view, context, Path(values[view.form.source]))}
    except EngineError as error:
        return _refused(view.form.source, error)


def _refused(field: gr.File, error: EngineError) -> Values:
    """Say why a file is not taken, and empty its field for another."""
    gr.Warning(told(str(error)), duration=SECONDS_SHOWN, title=say("Not yet"))
    return {field: None}


def _use(view: GenerateView, context: AppContext, path: Path) -> Values:
    request = library.settings_inside(path)
    values = show_settings(request)
    wanted = f"{models.FILE}{name_of(request.lora)}" if request.lora else request.run
    model = models.chosen_or_bare(models.list_models(context), wanted)
    rows, gone = more_loras.rows_of(context, request)
    base = None if request.run else model_folders.find(context, request.base)
    missing = [
        *([wanted.removeprefix(models.FILE)] if model != wanted else []),
        *gone,
        *([request.base] if base is None and not request.run else []),
    ]
    if missing:
        said = say(
            "Behind this picture, but not here: {names}; its other settings are taken over.", names=", ".join(missing)
        )
        gr.Warning(said)
    chosen = choose_model(view, context, model, "", values["checkpoint"], rows=rows)
    values["base"] = base or gr.skip()
    settings = {component: values[name] for name, component in view.settings.items()}
    return {**settings, **show_axes(view.form, axes_inside(path)), **chosen, view.form.keep_seed: True}
