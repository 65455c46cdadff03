"""What a person at a terminal is told, and what one writes after --set."""

import ctypes
import io
import os
import re
import signal
import sys
from collections.abc import Callable

from apt_engine.errors import ConfigError
from apt_engine.runs.events import Event, RunFailed, VerdictReached
from apt_engine.runs.log import line_of
from apt_engine.runs.process_rank import process_rank

CUT = (
    "A file that is in use, most likely the base model's, was cut short or its drive went away; put it back whole, and resume "
    "the run if one was being trained."
)
ONCE = ", once: "  # of a download's sentence, before how far it is
# By these a name in a stranger's file would move the cursor, or give the window another title.
CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_handlers: list[object] = []  # of signals; one that was collected would be called all the same


def tell_cut_files() -> None:
    """From now on the program ends with a sentence where a file's pages are gone that it has mapped, instead of a bus error.

    Weights on a CPU are pages of their file. Python's own handlers run only after the read, which never ends; this one is called
    within it, where nothing but an end is possible.
    """
    if not hasattr(signal, "SIGBUS"):  # Windows refuses to cut such a file
        return

    def end(_number: int) -> None:
        os.write(2, f"apt_engine: {CUT}\n".encode())
        os._exit(1)

    _handlers.append(handler := ctypes.CFUNCTYPE(None, ctypes.c_int)(end))
    ctypes.CDLL(None).signal(int(signal.SIGBUS), handler)


def take_any_letter() -> None:
    """From now on a letter that the terminal, or a file behind `>`, has no place for is written as its number."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def complain(error: object) -> None:
    """The one sentence that ends a command."""
    print(f"apt_engine: {CONTROLS.sub('?', str(error))}", file=sys.stderr)


def say(line: str) -> None:
    """Print, once for all processes of a run. A terminal that was closed ends no training."""
    if process_rank():
        return
    try:
        print(CONTROLS.sub("?", line), flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what Python still holds for it goes there


def show(event: Event) -> None:
    """One line for what a person at a terminal wants to know. A failure is said by who catches its error."""
    if line := "" if isinstance(event, RunFailed | VerdictReached) else line_of(event):
        say(line)


def tell_stage() -> Callable[[str, float | None], None]:
    """Says each stage of a work once, and of a download each tenth."""
    told: list[str] = []

    def tell(message: str, fraction: float | None) -> None:
        name, is_download, _ = message.partition(ONCE)
        stage = f"{name}{int(10 * (fraction or 0))}" if is_download else message
        if stage not in told:
            told.append(stage)
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
