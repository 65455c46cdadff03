"""What a person at a terminal is told, and what one writes after --set."""

import os
from collections.abc import Callable

from apt_engine.errors import ConfigError
from apt_engine.runs.events import (
    CheckpointSaved,
    Event,
    ExportReady,
    Noticed,
    RunFinished,
    RunStarted,
    SplitMeasured,
    StageChanged,
    StepFinished,
)
from apt_engine.runs.process_rank import process_rank


def say(line: str) -> None:
    """Print, once for all processes of a run. A terminal that was closed ends no training."""
    if process_rank():
        return
    try:
        print(line, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what Python still holds for it goes there


def show(event: Event) -> None:
    """One line for what a person at a terminal wants to know."""
    match event:
        case RunStarted():
            is_trained = event.first_step == event.last_step
            steps = "all steps done" if is_trained else f"steps {event.first_step + 1} to {event.last_step}"
            line = f"{event.photo_count} photos of {event.subject}, base {event.base}, {steps}"
        case StageChanged(stage="training"):
            return
        case StageChanged() | Noticed():
            line = event.message
        case StepFinished():
            if event.step % 10:
                return
            line = f"step {event.step}: loss {event.loss:.4f}, {event.seconds:.2f} s"
        case SplitMeasured():
            line = f"check at step {event.step}: {event.message}"
        case CheckpointSaved():
            line = f"checkpoint {event.path}"
        case ExportReady():
            line = f"{event.layout} file {event.path}: {event.keys} keys, pictures differ by at most {event.difference:.3f}"
        case RunFinished():
            line = f"{event.reason} {event.seconds:.0f} s, peak memory {event.peak_memory_bytes / 2**30:.2f} GiB"
        case _:
            return
    say(line)


def tell_stage() -> Callable[[str, float | None], None]:
    """Says each stage of a work once."""
    told: list[str] = []

    def tell(message: str, _fraction: float | None) -> None:
        if message not in told:
            told.append(message)
            say(message)

    return tell


def assignment(text: str) -> tuple[str, str]:
    """Field and value of what was written as FIELD=VALUE.

    Raises:
        ConfigError: there is no value.
    """
    name, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"--set {text} has no value; write it as --set field=value.")
    return name.strip(), value
