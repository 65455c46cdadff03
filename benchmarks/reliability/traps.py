"""What befalls a session from inside its own process, at an exact moment: it is killed, gets a signal, or finds the disk full.

A moment is a text: `rename checkpoints/000004` before a file operation below the run's folder, `half samples/...` when half of a
file is written, `tell {"kind": ...}` before a line of events. A trap springs where a pattern is found in one.
"""

import contextlib
import errno
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_APPEND
OPERATIONS = {"os.rename": "rename", "os.remove": "remove", "os.rmdir": "rmdir", "os.mkdir": "mkdir"}
TAKES_ROOM = ("open", "half", "mkdir", "tell")  # what a full disk refuses; it may rename and delete


def note_moments(run: str, log: str) -> None:
    """Write down all moments of a session, for those who choose among them."""
    file = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    _watch(Path(run), lambda moment: os.write(file, moment.encode() + b"\n"))


def kill_at(run: str, pattern: str, count: int) -> None:
    """Die without a word before the moment that is the `count`-th (from 1) to have the pattern."""
    seen = 0

    def react(moment: str) -> None:
        nonlocal seen
        seen += bool(re.search(pattern, moment))
        if seen == count:
            os.kill(os.getpid(), signal.SIGKILL)

    _watch(Path(run), react)


def fill_at(run: str, pattern: str) -> None:
    """A disk that is full from the first moment with the pattern on. Half of a file and of a line still fit."""
    is_full = False

    def react(moment: str) -> None:
        nonlocal is_full
        is_full = is_full or bool(re.search(pattern, moment))
        action, _, what = moment.partition(" ")
        if not is_full or action not in TAKES_ROOM:
            return
        if action == "tell":
            with contextlib.suppress(OSError):
                torn = os.open(f"{run}/events.jsonl", os.O_WRONLY | os.O_APPEND)
                os.write(torn, what[: len(what) // 2].encode())
                os.close(torn)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    _watch(Path(run), react)


def signal_at(run: str, pattern: str, number: int, clock: str, *, to_group: bool) -> None:
    """Send itself, or its whole group, a signal at the first moment with the pattern; note the time of it in a file."""
    is_sent = False

    def react(moment: str) -> None:
        nonlocal is_sent
        if is_sent or not re.search(pattern, moment):
            return
        is_sent = True
        Path(clock).write_text(str(time.monotonic()), encoding="ascii")
        (os.killpg if to_group else os.kill)(os.getpid(), number)

    _watch(Path(run), react)


def _watch(run: Path, react: Callable[[str], object]) -> None:
    """Call `react` with each moment of this process, before it happens."""
    from apt_engine.runs import files
    from apt_engine.runs.events import Event, to_json
    from apt_engine.runs.files import writing
    from apt_engine.runs.run import Run

    root, is_reacting = f"{run}/", False

    def told(moment: str) -> None:
        nonlocal is_reacting
        if not is_reacting:  # what `react` does itself is none
            is_reacting = True
            try:
                react(moment)
            finally:
                is_reacting = False

    def audit(name: str, arguments: tuple[Any, ...]) -> None:
        action = OPERATIONS.get(name) or ("open" if name == "open" and _is_for_writing(arguments) else "")
        path = os.fspath(arguments[0]) if action and isinstance(arguments[0], str | Path) else ""
        if path.startswith(root):
            told(f"{action} {path[len(root) :]}")

    append, sync = Run.append, files.sync

    def append_watched(self: Run, event: Event) -> None:
        with writing(self.events_path):  # as if the disk had said it
            told(f"tell {to_json(event)}")
        append(self, event)

    def sync_watched(path: Path) -> None:
        nonlocal is_reacting
        if path.suffix == ".part" and path.is_file() and path.as_posix().startswith(root):
            content = path.read_bytes()
            os.truncate(path, len(content) // 2)
            told(f"half {path.as_posix().removeprefix(root)}")
            is_reacting = True
            path.write_bytes(content)
            is_reacting = False
        sync(path)

    Run.append = append_watched
    files.sync = sync_watched
    sys.addaudithook(audit)


def _is_for_writing(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    return any(letter in mode for letter in "wax+") if isinstance(mode, str) else bool((flags or 0) & WRITING)
