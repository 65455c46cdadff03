"""What a person at a terminal is told, and what one writes after --set."""

import os
from collections.abc import Callable

from apt_engine.errors import ConfigError
from apt_engine.runs.events import Event, RunFailed, VerdictReached
from apt_engine.runs.log import line_of
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
    """One line for what a person at a terminal wants to know. A failure is said by who catches its error."""
    if line := "" if isinstance(event, RunFailed | VerdictReached) else line_of(event):
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
