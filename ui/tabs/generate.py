"""The Generate tab: a prompt becomes pictures, with a run's LoRA, with any LoRA file, or with the bare base model."""

import html
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from apt_engine.errors import EngineError
from apt_engine.runs import library
from apt_engine.runs.history import summarize
from apt_engine.settings.presets import POCKET_DIR
from apt_engine.settings.sampling import SampleRequest
from apt_engine.settings.training import SUBJECT_SLOT
from ui.context import AppContext, plain_errors
from ui.form import build_input
from ui.plots import file_url, progress_line
from ui.scripted import scripted

BARE = ""
BASE_TOO = "the base model"
HONESTY = (
    "The pocket model draws 64 px of a small world: some forty things, eighteen places, five treatments. It cannot draw people, "
    "text, several things together, or anything else."
)
PICTURES_REMEMBERED = 24
SUBJECT_PROMPTS = (
    "a photo of a {subject} on the beach",
    "a photo of a {subject} in the snow",
    "a watercolor painting of a {subject} in the forest",
    "a pencil sketch of a {subject} on a white background",
    "a photo of a {subject} in space",
    "a black and white photo of a {subject} in the city",
)
HIGHEST_SEED = 2**31 - 1
MORE: tuple[tuple[str, str, bool], ...] = (  # name, label, whether it is a slider
    ("count", "Count", True),
    ("steps", "Steps", True),
    ("guidance_scale", "Guidance", True),
    ("strength", "LoRA strength", True),
    ("sampler", "Sampler", False),
    ("negative_prompt", "Not in the picture", False),
    ("width", "Width (px)", False),
    ("height", "Height (px)", False),
)


@dataclass(frozen=True)
class GenerateView:
    """The tab's components; `settings` are inputs of SampleRequest by name."""

    settings: dict[str, Component]
    chip: gr.HTML
    suggestions: gr.HTML
    lora: gr.File
    keep_seed: gr.Checkbox
    compare: gr.Dropdown
    generate: gr.Button
    stop: gr.Button
    progress: gr.HTML
    pictures: gr.HTML
    history: gr.HTML


def build(context: AppContext) -> GenerateView:
    """Make the components."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=7, min_width=320, elem_classes="card"):
            prompt = build_input(SampleRequest, "prompt", value=suggested(BARE)[0], label="Prompt")
            chip = gr.HTML(chip_of(context, BARE), elem_id="chip")
            suggestions = scripted("prompts", {"prompts": suggested(BARE)}, elem_id="suggestions")
            with gr.Row(elem_classes="prompt-row"):
                run = gr.Dropdown(
                    runs_offered(context), value=BARE, label="LoRA", interactive=True, scale=3, elem_id="run"
                )
                checkpoint = gr.Dropdown(["last"], value="last", label="Checkpoint", interactive=True, scale=2)
                compare = gr.Dropdown(
                    [BASE_TOO],
                    value=[],
                    label="Beside it",
                    multiselect=True,
                    interactive=True,
                    scale=3,
                    elem_id="compare",
                )
            with gr.Row(elem_classes="actions"):
                generate = gr.Button("Generate", variant="primary", elem_id="generate", min_width=180)
                stop = gr.Button("Stop", visible=False, elem_id="stop-drawing", min_width=90)
            progress = gr.HTML(progress_line(0.0, []), elem_id="drawing")
            pictures = scripted("gallery", {"pictures": []}, elem_id="pictures")
        with gr.Column(scale=4, min_width=280, elem_classes="card"):
            gr.HTML('<h2 class="title">Settings</h2><p>saved inside every PNG</p>')
            with gr.Row(elem_classes=["prompt-row", "seed-row"]):
                seed = build_input(SampleRequest, "seed", label="Seed")
                keep_seed = gr.Checkbox(
                    False, label="keep it", info="Otherwise each press draws a new one.", elem_id="keep-seed"
                )
            more = {
                name: build_input(SampleRequest, name, label=label, is_slider=is_slider)
                for name, label, is_slider in MORE
            }
            with gr.Accordion("Another LoRA file, or another base", open=False, visible=not context.tenants.is_shared):
                base = build_input(SampleRequest, "base", label="Base model")
                lora = gr.File(
                    label="LoRA file (kohya or diffusers)", file_types=[".safetensors"], height=90, elem_id="lora-file"
                )
            gr.HTML('<h2 class="title second">History</h2><p>click one to use its settings again</p>')
            history = scripted("gallery", {"pictures": [], "pick": True}, elem_id="history")
    settings = {"prompt": prompt, "run": run, "checkpoint": checkpoint, "seed": seed, "base": base, **more}
    return GenerateView(
        settings, chip, suggestions, lora, keep_seed, compare, generate, stop, progress, pictures, history
    )


def connect(view: GenerateView, context: AppContext) -> None:
    """Wire the tab."""
    run = view.settings["run"]
    assert isinstance(run, gr.Dropdown)
    run.change(
        partial(follow_run, context),
        [run, view.settings["prompt"]],
        [view.settings["checkpoint"], view.compare, view.chip, view.suggestions, view.settings["prompt"]],
        show_progress="hidden",
    )
    view.generate.click(
        partial(generate, view, context),
        {*view.settings.values(), view.lora, view.keep_seed, view.compare},
        [view.progress, view.pictures, view.settings["seed"], view.generate, view.stop, view.history],
        show_progress="hidden",
        api_visibility="private",
    )
    view.stop.click(partial(stop, context), None, None, queue=False, api_visibility="private")

    def take(event: gr.EventData) -> str:  # Gradio finds no event data in a partial
        return str(event.prompt)

    view.suggestions.select(take, None, view.settings["prompt"], show_progress="hidden", api_visibility="private")

    def reuse(event: gr.EventData) -> list[Any]:  # Gradio finds no event data in a partial
        return use_again(view, context, int(event.index))

    view.history.select(
        reuse, None, [*view.settings.values(), view.keep_seed], show_progress="hidden", api_visibility="private"
    )


def stop(context: AppContext) -> None:
    """Ask the engine to stop drawing; what is done stays."""
    context.engine.stop()


def remembered_fields(view: GenerateView) -> list[Component]:
    """What a reload must find again; the run in view is chosen anew."""
    return [component for name, component in view.settings.items() if name not in ("run", "checkpoint")] + [
        view.keep_seed
    ]


def restore(view: GenerateView, values: list[Any]) -> list[Any]:
    """The values of `remembered_fields`; an emptied prompt begins with the usual one."""
    names = [name for name in view.settings if name not in ("run", "checkpoint")]
    return [
        (value or suggested(BARE)[0]) if name == "prompt" else value
        for name, value in zip([*names, ""], values, strict=True)
    ]


def runs_offered(context: AppContext) -> list[tuple[str, str]]:
    """Runs that have a LoRA, newest first, and the bare base model."""
    offered = []
    for run in context.store.list():
        try:
            summary = summarize(run)
        except EngineError:
            continue
        if run.checkpoints():
            began = f"{run.id[9:11]}:{run.id[11:13]}"
            name = library.title_of(run) or summary.subject
            offered.append((f"{name}, {summary.step:,} steps, begun {began}", run.id))
    return [*offered, ("no run: the base model as it is", BARE)]


def offer_runs(context: AppContext, chosen: str | None, preferred: str) -> Any:
    """The runs as they are now; a run in view is chosen where nothing was."""
    offered = runs_offered(context)
    ids = [run_id for _, run_id in offered]
    value = next(run_id for run_id in (chosen or preferred, preferred, *ids) if run_id in ids)
    return gr.Dropdown(offered, value=value)


def follow_run(context: AppContext, run_id: str, prompt: str) -> list[Any]:
    """The checkpoints of a run, newest first, what can be drawn beside it, its name in prompts; and the prompt, if still ours."""
    try:
        steps = [str(item.step) for item in reversed(context.store.open(run_id).checkpoints())] if run_id else []
    except EngineError:
        steps = []
    others = [BASE_TOO, *(f"step {step}" for step in steps)] if run_id else [BASE_TOO]
    return [
        gr.Dropdown(["last", *steps], value="last"),
        gr.Dropdown(others, value=[], multiselect=True),
        chip_of(context, run_id),
        {"prompts": suggested(run_id)},
        suggested(run_id)[0] if prompt in (suggested("any")[0], suggested(BARE)[0]) else gr.skip(),
    ]


def suggested(run_id: str) -> list[str]:
    """Prompts worth trying: those that show the pocket model off, or the subject in places its photos do not show."""
    if run_id:
        return list(SUBJECT_PROMPTS)
    try:
        found: list[str] = json.loads((POCKET_DIR / "prompts.json").read_text(encoding="utf-8"))["sample_prompts"]
    except (OSError, ValueError, KeyError):
        found = []
    return found or ["a photo of a teddy bear"]


def chip_of(context: AppContext, run_id: str) -> str:
    """What {subject} means in a prompt."""
    if not run_id:
        return f'<p class="quiet">No run is chosen, so write the thing\'s own name in place of {SUBJECT_SLOT}. {HONESTY}</p>'
    try:
        phrase = context.store.open(run_id).config.phrase
    except EngineError as error:
        return f'<p class="note">{html.escape(str(error))}</p>'
    return f'<p class="quiet">{SUBJECT_SLOT} is <span class="chip">{html.escape(phrase)}</span></p>'


def requests_of(view: GenerateView, values: dict[Component, Any]) -> list[tuple[str, SampleRequest]]:
    """What to draw, with a caption each: the model asked for, then what shall stand beside it, at the same seeds.

    Raises:
        ConfigError: a setting is empty or not allowed.
    """
    settings = {name: values[component] for name, component in view.settings.items()}
    given = {name: value for name, value in settings.items() if value is not None}
    file = values[view.lora]
    if file:
        given |= {"run": BARE, "lora": str(file)}
    else:
        given["run"] = settings["run"] or BARE
    first = SampleRequest.from_dict(given)
    name = (
        Path(file).stem if file else ("" if not first.run else f"step {first.checkpoint}".replace("step last", "last"))
    )
    found = [(name if values[view.compare] else "", first)]
    for other in values[view.compare] or ():
        if other == BASE_TOO:
            # Strength 0 is the base model itself, and {subject} still has its meaning.
            found.append((other, first.replace(strength=0.0)))
        elif first.run:
            found.append((other, first.replace(checkpoint=other.removeprefix("step "))))
    return found


def generate(view: GenerateView, context: AppContext, values: dict[Component, Any]) -> Iterator[list[Any]]:
    """Draw, showing how far it is; what cannot be drawn is one sentence."""
    if not values[view.keep_seed]:
        values = {**values, view.settings["seed"]: random.randrange(HIGHEST_SEED)}
    with plain_errors():
        wanted = requests_of(view, values)
        context.engine.refuse_if_busy()
        if wanted[0][1].run:
            context.store.open(wanted[0][1].run)
    busy = [values[view.settings["seed"]], gr.Button(interactive=False), gr.Button(visible=True), gr.skip()]
    free = [gr.skip(), gr.Button(interactive=True), gr.Button(visible=False), remembered(context)]
    pictures: list[dict[str, str]] = []
    try:
        for bar, pictures in _draw(context, wanted):
            yield [bar, {"pictures": pictures} if pictures else gr.skip(), *busy]
    except gr.Error:
        yield [progress_line(0.0, []), gr.skip(), *free]
        raise
    # All once more: of updates that come close together the page can lose the last.
    yield [gr.skip(), {"pictures": pictures} if pictures else gr.skip(), *free[:-1], remembered(context)]


def _draw(context: AppContext, wanted: list[tuple[str, SampleRequest]]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """The progress bar and all pictures so far, request after request, until one is stopped."""
    shown: list[dict[str, str]] = []
    total = sum(request.count for _, request in wanted)
    for place, (caption, request) in enumerate(wanted):
        done: list[dict[str, str]] = []
        with plain_errors():
            for progress in context.engine.sample(request):
                done = [
                    {"url": file_url(path), "name": path.name, "words": _caption(caption, request.seed + number)}
                    for number, path in enumerate(progress.images)
                ]
                fraction = None if progress.fraction is None else (place + progress.fraction) / len(wanted)
                bar = progress_line(fraction, [(progress.message, f"{len(shown) + len(done)} of {total}", "")])
                yield bar + _preview(progress.preview), shown + done
        shown += done
        if len(done) < request.count:
            return  # stopped


def remembered(context: AppContext) -> dict[str, Any]:
    """The newest pictures made, over restarts of the app."""
    paths = library.recent_pictures(context.store, PICTURES_REMEMBERED)
    return {"pictures": [{"url": file_url(path), "name": path.name, "words": ""} for path in paths], "pick": True}


def use_again(view: GenerateView, context: AppContext, index: int) -> list[Any]:
    """The settings inside a picture of the history, into the form; its seed is kept."""
    with plain_errors():
        request = library.settings_inside(library.recent_pictures(context.store, PICTURES_REMEMBERED)[index])
    values = request.to_dict()
    known = [run_id for _, run_id in runs_offered(context)]
    if values["run"] not in known:
        gr.Warning("The run behind this picture is gone; its other settings are taken over.")
        values["run"] = BARE
    return [*(values[name] for name in view.settings), True]


def _caption(name: str, seed: int) -> str:
    return f"{name}, seed {seed}" if name else f"seed {seed}"


def _preview(path: Path | None) -> str:
    return f'<img class="preview" src="{file_url(path)}" alt="the next picture, half done">' if path else ""
