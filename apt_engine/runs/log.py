"""The log of a run, for people: a line an event that is worth one; without what a log should not tell."""

import os
import re
import time
from pathlib import Path

from apt_engine.runs.events import (
    CheckpointSaved,
    Event,
    ExportReady,
    Noticed,
    PromptsChanged,
    RunFailed,
    RunFinished,
    RunStarted,
    SplitMeasured,
    StageChanged,
    StepFinished,
    VerdictReached,
)
from apt_engine.runs.run import Run

TOKEN = re.compile(r"\bhf_\w{8,}")
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
CACHE_VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME")


def line_of(event: Event) -> str:
    """What a person reads of an event; empty where it is not worth a line."""
    match event:
        case RunStarted():
            is_trained = event.first_step == event.last_step
            steps = "all steps done" if is_trained else f"steps {event.first_step + 1} to {event.last_step}"
            line = f"{event.photo_count} photos of {event.subject}, base {event.base}, {steps}"
        case StageChanged(stage="training"):
            line = ""
        case StageChanged() | Noticed() | RunFailed() | VerdictReached():
            line = event.message
        case StepFinished():
            line = "" if event.step % 10 else f"step {event.step}: loss {event.loss:.4f}, {event.seconds:.2f} s"
        case SplitMeasured():
            line = f"check at step {event.step}: {event.message}"
        case CheckpointSaved():
            line = f"checkpoint {event.path}"
        case PromptsChanged():
            line = f"prompts of the samples from step {event.step} on: {'; '.join(event.prompts)}"
        case ExportReady():
            line = f"{event.layout} file {event.path}: {event.keys} keys, pictures differ by at most {event.difference:.3f}"
        case RunFinished():
            line = f"{event.reason} {event.seconds:.0f} s, peak memory {event.peak_memory_bytes / 2**30:.2f} GiB"
        case _:
            line = ""
    return line


def log_of(run: Run, *, with_details: bool) -> str:
    """A line an event with its time of day, stages once. Of a very long run steps are left out.

    Args:
        run: whose.
        with_details: whether to tell what a developer needs of a failure; it names files of this computer.

    Raises:
        RunError: its events cannot be read.
    """
    lines: list[str] = []
    stage = ""
    for event in run.events(is_whole=False)[0]:
        told = line_of(event)
        if isinstance(event, StageChanged):
            told, stage = ("" if told == stage else told), told
        if told:
            lines.append(f"{time.strftime('%H:%M:%S', time.localtime(event.time))}  {told}")
        if with_details and isinstance(event, RunFailed) and event.detail:
            lines.append(event.detail.rstrip())
    return cleaned("\n".join(lines))


def cleaned(text: str) -> str:
    """The text without tokens of the hub, without the folder of its cache and without the name of the person's own folder."""
    for secret in filter(None, map(os.environ.get, TOKEN_VARIABLES)):
        text = text.replace(secret, "(token)")
    text = TOKEN.sub("(token)", text)
    home = Path("~").expanduser()
    folders = [os.environ.get(name, "") for name in CACHE_VARIABLES] + [str(home / ".cache" / "huggingface")]
    for folder in sorted(filter(None, folders), key=len, reverse=True):
        text = re.sub(re.escape(folder) + r"[^\s\"'),;]*", "(model cache)", text)
    return text if home == Path("/") else text.replace(str(home), "~")
