"""The Generate tab: a prompt becomes pictures, with a run's LoRA, with any LoRA file, or with the bare base model."""

import contextlib
import html
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from apt_engine.errors import EngineError
from apt_engine.runs import library
from apt_engine.runs.history import summarize
from apt_engine.settings.sampling import SampleRequest
from apt_engine.settings.training import SUBJECT_SLOT
from ui.context import AppContext, Values, plain_errors
from ui.form import build_input
from ui.plots import file_url, progress_line
from ui.scripted import scripted
from ui.vocabulary import known_prompts

BARE = ""
NAMED = ("kept", "last")  # checkpoints that need no number
BASE_TOO = "the base model"
POCKET_LIMITS = (
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
    """The tab's components.

    Attributes:
        settings: an input for each field of SampleRequest but `lora`, by its name.
        meaning: what {subject} stands for.
        suggestions: prompts worth trying.
        lora: a LoRA file in place of a run.
        keep_seed: whether the next pictures start from the same noise.
        compare: what is drawn beside the pictures asked for.
        generate: the button.
        stop: the other one.
        progress: a bar, and a preview of the next picture.
        pictures: what was drawn last.
        history: what was drawn before.
    """

    settings: dict[str, Component]
    meaning: gr.HTML
    suggestions: gr.HTML
    lora: gr.File
    keep_seed: gr.Checkbox
    compare: gr.Dropdown
    generate: gr.Button
    stop: gr.Button
    progress: gr.HTML
    pictures: gr.HTML
    history: gr.HTML

    @property
    def chosen(self) -> list[Component]:
        """What `choose_run` changes."""
        names = ("run", "checkpoint", "prompt")
        return [*(self.settings[name] for name in names), self.compare, self.meaning, self.suggestions]

    @property
    def kept(self) -> dict[str, Component]:
        """The inputs whose values a reload finds again, by name. The run is chosen anew, after the one in view."""
        settings = {name: component for name, component in self.settings.items() if name not in ("run", "checkpoint")}
        return {**settings, "keep_seed": self.keep_seed}


def build(context: AppContext) -> GenerateView:
    """Make the components."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=7, min_width=320, elem_classes="card"):
            prompt = build_input(SampleRequest, "prompt", value=suggest_prompts(BARE)[0], label="Prompt")
            meaning = gr.HTML(explain_subject(context, BARE), elem_id="meaning")
            suggestions = scripted("prompts", {"prompts": suggest_prompts(BARE)}, elem_id="suggestions")
            with gr.Row(elem_classes="prompt-row"):
                run = gr.Dropdown(
                    list_runs(context), value=BARE, label="LoRA", interactive=True, scale=3, elem_id="run"
                )
                checkpoint = gr.Dropdown(
                    list_checkpoints(context, BARE)[0],
                    value=NAMED[0],
                    label="Checkpoint",
                    interactive=True,
                    scale=3,
                    elem_id="checkpoint",
                )
                compare = gr.Dropdown(
                    [BASE_TOO],
                    value=[],
                    label="Compare with",
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
                    False, label="Same seed", info="Otherwise each press draws a new one.", elem_id="keep-seed"
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
        settings=settings,
        meaning=meaning,
        suggestions=suggestions,
        lora=lora,
        keep_seed=keep_seed,
        compare=compare,
        generate=generate,
        stop=stop,
        progress=progress,
        pictures=pictures,
        history=history,
    )


def connect(view: GenerateView, context: AppContext) -> None:
    """Wire the tab."""
    run = view.settings["run"]
    assert isinstance(run, gr.Dropdown)
    prompt = view.settings["prompt"]
    run.input(
        lambda values: choose_run(view, context, values[run], values[prompt]),
        {run, prompt},
        view.chosen,
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

    def take_prompt(event: gr.EventData) -> Values:  # Gradio finds no event data in a partial
        return {view.settings["prompt"]: str(event.prompt)}

    view.suggestions.select(
        take_prompt, None, view.settings["prompt"], show_progress="hidden", api_visibility="private"
    )

    def reuse(event: gr.EventData) -> Values:
        return use_again(view, context, int(event.index))

    reused = [*view.settings.values(), view.keep_seed, view.compare, view.meaning, view.suggestions]
    view.history.select(reuse, None, reused, show_progress="hidden", api_visibility="private")


def stop(context: AppContext) -> None:
    """Ask the engine to stop; finished pictures stay."""
    context.engine.stop()


def restore(view: GenerateView, values: Values) -> Values:
    """Put what was kept over a reload back into the form; an empty prompt becomes the suggested one."""
    prompt = view.settings["prompt"]
    own: Values = {component: values[component] for component in view.kept.values() if component in values}
    return {**own, prompt: own.get(prompt) or suggest_prompts(BARE)[0]}


def list_runs(context: AppContext) -> list[tuple[str, str]]:
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


def choose_run(view: GenerateView, context: AppContext, run_id: str, prompt: str, checkpoint: str = NAMED[0]) -> Values:
    """Choose a run, a checkpoint (the kept one where it has no such), prompts for it. A prompt that was not typed changes too."""
    changes: Values = {
        **offer_runs(view, context, run_id, prompt),
        view.meaning: explain_subject(context, run_id),
        view.suggestions: {"prompts": suggest_prompts(run_id)},
    }
    checkpoints, others = list_checkpoints(context, run_id)
    is_there = checkpoint in [value for _, value in checkpoints]
    changes[view.settings["checkpoint"]] = gr.Dropdown(checkpoints, value=checkpoint if is_there else NAMED[0])
    changes[view.compare] = gr.Dropdown(others, value=[], multiselect=True)
    return changes


def offer_runs(view: GenerateView, context: AppContext, run_id: str, prompt: str) -> Values:
    """Offer the runs and the checkpoints of the chosen one as they are now; what is chosen stays."""
    checkpoints, others = list_checkpoints(context, run_id)
    changes: Values = {
        view.settings["run"]: gr.Dropdown(list_runs(context), value=run_id),
        view.settings["checkpoint"]: gr.Dropdown(checkpoints),
        view.compare: gr.Dropdown(others, multiselect=True),
    }
    if prompt in (SUBJECT_PROMPTS[0], suggest_prompts(BARE)[0]):
        changes[view.settings["prompt"]] = suggest_prompts(run_id)[0]
    return changes


def list_checkpoints(context: AppContext, run_id: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Checkpoints of a run as (words, value), the kept and the last one first, then newest first; and what may stand beside."""
    steps, kept = [], 0
    if run_id:
        with contextlib.suppress(EngineError):
            run = context.store.open(run_id)
            kept = summarize(run).kept_step
            steps = [item.step for item in reversed(run.checkpoints())]
    best = f"kept: step {kept:,}" if kept else "kept: the last"
    last = f"last: step {steps[0]:,}" if steps else "last"
    choices = [*zip((best, last), NAMED, strict=True), *((f"step {step:,}", str(step)) for step in steps)]
    return choices, [BASE_TOO, *(["last"] if kept else []), *(f"step {step}" for step in steps)]


def suggest_prompts(run_id: str) -> list[str]:
    """Prompts worth trying: for a run, its subject in places that the photos do not show; else what the pocket model knows."""
    if run_id:
        return list(SUBJECT_PROMPTS)
    return list(known_prompts())


def explain_subject(context: AppContext, run_id: str) -> str:
    """What {subject} means in a prompt."""
    if not run_id:
        hint = f"No run is chosen, so write the thing's own name in place of {SUBJECT_SLOT}."
        return f'<p class="quiet">{hint} {POCKET_LIMITS}</p>'
    try:
        phrase = context.store.open(run_id).config.phrase
    except EngineError as error:
        return f'<p class="note">{html.escape(str(error))}</p>'
    return f'<p class="quiet">{SUBJECT_SLOT} means <span class="chip">{html.escape(phrase)}</span></p>'


def requests_of(view: GenerateView, values: Values) -> list[tuple[str, SampleRequest]]:
    """The requests that the form asks for, each with a caption: first the chosen model, then those beside it with equal seeds.

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
    chosen = first.checkpoint if first.checkpoint in NAMED else f"step {first.checkpoint}"
    name = Path(file).stem if file else chosen if first.run else ""
    found = [(name, first)]
    for other in values[view.compare] or ():
        if other == BASE_TOO:
            # At strength 0 the run's LoRA changes nothing, and {subject} can still be filled in.
            found.append((other, first.replace(strength=0.0)))
        elif first.run:
            found.append((other, first.replace(checkpoint=other.removeprefix("step "))))
    return found


def generate(view: GenerateView, context: AppContext, values: Values) -> Iterator[Values]:
    """Draw pictures, showing the progress. What prevents it is shown as one sentence."""
    seed = view.settings["seed"]
    if not values[view.keep_seed]:
        values = {**values, seed: random.randrange(HIGHEST_SEED)}
    with plain_errors():
        requests = requests_of(view, values)
        context.engine.refuse_if_busy()
        _, first = requests[0]
        if first.run:
            context.store.open(first.run)
    busy = {seed: values[seed], view.generate: gr.Button(interactive=False), view.stop: gr.Button(visible=True)}
    shown: Values = {}
    try:
        for shown in _draw(view, context, requests):
            yield {**shown, **busy}
    except gr.Error:
        yield {view.progress: progress_line(0.0, []), **_end(view, context)}
        raise
    # The last update is sent again: of updates that come close together the page can lose the last.
    yield {**shown, **_end(view, context)}


def _end(view: GenerateView, context: AppContext) -> Values:
    return {
        view.generate: gr.Button(interactive=True),
        view.stop: gr.Button(visible=False),
        view.history: list_history(context),
    }


def _draw(view: GenerateView, context: AppContext, requests: list[tuple[str, SampleRequest]]) -> Iterator[Values]:
    """Progress and all pictures so far, request after request; ends early when a request is stopped."""
    drawn: list[dict[str, str]] = []
    total = sum(request.count for _, request in requests)
    for number, (caption, request) in enumerate(requests):
        done: list[dict[str, str]] = []
        with plain_errors():
            for progress in context.engine.sample(request):
                done = _gallery(progress.images, caption, request.seed)
                fraction = None if progress.fraction is None else (number + progress.fraction) / len(requests)
                bar = progress_line(fraction, [(progress.message, f"{len(drawn) + len(done)} of {total}", "")])
                pictures = {view.pictures: {"pictures": drawn + done}} if drawn + done else {}
                yield {view.progress: bar + _preview(progress.preview), **pictures}
        drawn += done
        if len(done) < request.count:
            return


def list_history(context: AppContext) -> dict[str, Any]:
    """The newest pictures in the data directory, as the history shows them."""
    paths = library.recent_pictures(context.store, PICTURES_REMEMBERED)
    return {"pictures": [{"url": file_url(path), "name": path.name, "words": ""} for path in paths], "pick": True}


def use_again(view: GenerateView, context: AppContext, index: int) -> Values:
    """Put the settings inside a picture of the history into the form; its seed is kept."""
    with plain_errors():
        request = library.settings_inside(library.recent_pictures(context.store, PICTURES_REMEMBERED)[index])
    values = request.to_dict()
    known = [run_id for _, run_id in list_runs(context)]
    if values["run"] not in known:
        gr.Warning("The run behind this picture is gone; its other settings are taken over.")
        values["run"] = BARE
    chosen = choose_run(view, context, values["run"], "", values["checkpoint"])
    return {**{component: values[name] for name, component in view.settings.items()}, **chosen, view.keep_seed: True}


def _gallery(paths: Sequence[Path], name: str, first_seed: int) -> list[dict[str, str]]:
    """Pictures with their captions; each has the seed after that of the one before."""
    return [
        {"url": file_url(path), "name": path.name, "words": _caption(name, first_seed + number)}
        for number, path in enumerate(paths)
    ]


def _caption(name: str, seed: int) -> str:
    return f"{name}, seed {seed}" if name else f"seed {seed}"


def _preview(path: Path | None) -> str:
    return f'<img class="preview" src="{file_url(path)}" alt="the next picture, half done">' if path else ""
