"""What pictures can be drawn with: runs that have a LoRA, LoRA files that were brought, the bare base model."""

import contextlib
import html
import re
import shutil
from pathlib import Path
from typing import Any

from apt_engine.errors import DiskError, EngineError
from apt_engine.reading.regular import newest_first
from apt_engine.runs import library
from apt_engine.runs.history import summarize
from apt_engine.runs.run import Run
from apt_engine.settings.training import SUBJECT_SLOT
from ui.context import AppContext
from ui.plots import file_url
from ui.sentences import begun_at
from ui.vocabulary import known_prompts
from ui.words import later, say, told

BARE = ""
FILE = "file:"  # before the name of a LoRA file
LONGEST_NAME = 50  # letters of a file, of four bytes each at most; file systems take 255 bytes
KEPT, LAST = "kept", "last"  # checkpoints that need no number
BASE_TOO = "base"
POCKET_LIMITS = later(
    "The pocket model draws 64 px of a small world: some forty things, eighteen places, five styles. It cannot draw people, "
    "text, several things together, or anything else."
)
SUBJECT_PROMPTS = (
    "a photo of a {subject} on the beach",
    "a photo of a {subject} in the snow",
    "a watercolor painting of a {subject} in the forest",
    "a pencil sketch of a {subject} on a white background",
    "a photo of a {subject} in space",
    "a black and white photo of a {subject} in the city",
)
Choice = dict[str, Any]  # as `assets/models.js` draws it


def list_models(context: AppContext) -> list[Choice]:
    """Runs that have a LoRA, newest first; LoRA files, newest first; and the bare base model. Each has an id."""
    runs = [choice for run in context.store.list() if (choice := _of_run(run))]
    return [*runs, *map(_of_file, lora_files(context)), _bare_choice()]


def _of_run(run: Run) -> Choice | None:
    try:
        summary, saved = summarize(run), run.checkpoints()
    except EngineError:
        return None
    if not saved:
        return None
    kept = summary.kept_step
    step = say("kept step {step:,}", step=kept) if kept else say("step {step:,}", step=saved[-1].step)
    photo = next(iter(run.photo_paths), None)
    return {
        "id": run.id,
        "title": library.title_of(run) or summary.subject,
        "words": ", ".join(filter(None, [step, begun_at(run)])),
        "picture": file_url(photo) if photo else "",
        "mine": False,
    }


def _of_file(path: Path) -> Choice:
    return {"id": f"{FILE}{path.name}", "title": path.stem, "words": say("LoRA file"), "picture": "", "mine": True}


def _bare_choice() -> Choice:
    return {"id": BARE, "title": say("The base model"), "words": say("without a LoRA"), "picture": "", "mine": False}


def chosen_or_bare(choices: list[Choice], wanted: str) -> str:
    """The wanted one where it is among them."""
    return wanted if any(choice["id"] == wanted for choice in choices) else BARE


def lora_files(context: AppContext) -> list[Path]:
    """The LoRA files that were brought, newest first."""
    return newest_first(context.loras_dir.glob("[!.]*.safetensors"))


def file_of(context: AppContext, model: str) -> Path | None:
    """The LoRA file that a choice stands for; None where it is none of those that were brought."""
    return next((path for path in lora_files(context) if model == f"{FILE}{path.name}"), None)


def run_of(model: str) -> str:
    """The id of the run that a choice stands for, or an empty one."""
    return "" if model.startswith(FILE) else model


def keep_lora(context: AppContext, path: Path) -> str:
    """Keep a file that was brought, and make it a choice, whose id is returned. One of the same name is replaced.

    Raises:
        DiskError: it cannot be written.
    """
    name = re.sub(r"[^\w.\- ]", "_", path.stem)[-LONGEST_NAME:].lstrip(". ") or "lora"
    kept = context.loras_dir / f"{name}.safetensors"
    aside = kept.with_name(f".{kept.name}.part")
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, aside)
        aside.replace(kept)
    except OSError as error:
        sentence = say("{name} cannot be kept ({reason}); free some disk space.", name=path.name, reason=error.strerror)
        raise DiskError(sentence) from error
    return f"{FILE}{kept.name}"


def list_checkpoints(context: AppContext, model: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Checkpoints of a run as (words, value), the kept and the last one first, then newest first; and what may stand beside."""
    steps, kept = [], 0
    if run_of(model):
        with contextlib.suppress(EngineError):
            run = context.store.open(model)
            kept = summarize(run).kept_step
            steps = [item.step for item in reversed(run.checkpoints())]
    best = say("kept: step {step:,}", step=kept) if kept else say("kept: the last")
    last = say("last: step {step:,}", step=steps[0]) if steps else say("last")
    numbered = [(say("step {step:,}", step=step), str(step)) for step in steps]
    others = [(say("the base model"), BASE_TOO), *([(say("last"), LAST)] if kept else []), *numbered]
    return [(best, KEPT), (last, LAST), *numbered], others


def name_of(context: AppContext, run_id: str, checkpoint: str) -> str:
    """What stands under a picture that a run's checkpoint drew; nothing for no run.

    Raises:
        RunError: there is no such run.
    """
    if not run_id:
        return ""
    run = context.store.open(run_id)
    summary = summarize(run)
    step = int(checkpoint) if checkpoint.isdecimal() else summary.kept_step if checkpoint == KEPT else 0
    words = say("step {step:,}", step=step) if step else say("kept") if checkpoint == KEPT else say("last")
    return f"{library.title_of(run) or summary.subject}, {words}"


def suggest_prompts(model: str) -> list[str]:
    """Prompts worth trying: for a run, its subject in places that the photos do not show; else what the pocket model knows."""
    return list(SUBJECT_PROMPTS) if run_of(model) else list(known_prompts())


def is_suggested(prompt: str) -> bool:
    """Whether nobody typed a prompt: it is the first one of a suggestion."""
    return prompt in (SUBJECT_PROMPTS[0], suggest_prompts(BARE)[0])


def explain_subject(context: AppContext, model: str) -> str:
    """What {subject} means in a prompt."""
    if model.startswith(FILE):
        hint = say(
            "A LoRA file does not tell its word: write what it was trained on in place of {slot}.", slot=SUBJECT_SLOT
        )
        return f'<p class="quiet">{hint}</p>'
    if not model:
        hint = say("No run is chosen, so write the thing's own name in place of {slot}.", slot=SUBJECT_SLOT)
        return f'<p class="quiet">{hint} {say(POCKET_LIMITS)}</p>'
    try:
        phrase = context.store.open(model).config.phrase
    except EngineError as error:
        return f'<p class="note">{html.escape(told(str(error)))}</p>'
    chip = f'<span class="chip">{html.escape(phrase)}</span>'
    return f'<p class="quiet">{say("{slot} means {phrase}", slot=SUBJECT_SLOT, phrase=chip)}</p>'
