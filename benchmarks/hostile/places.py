"""Names that lead to no regular file, and files that run code when they are unpacked. For loras and bases alike."""

import os
import pickle
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

from benchmarks.hostile.outcome import SENTINEL

HOLE = 9_000_000_000  # bytes, of which none is on the disk

PLACES: dict[str, Callable[[Path], object]] = {
    "a folder": lambda path: path.mkdir(),
    "not there": lambda path: None,
    "a loop of links": lambda path: path.symlink_to(path),
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a terminal": lambda path: path.symlink_to("/dev/tty"),
    "a pipe": os.mkfifo,
    "a large hole": lambda path: (path.touch(), os.truncate(path, HOLE)),
}


class Code:
    """Unpickled, it makes the sentinel."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch {os.environ.get(SENTINEL, '/dev/null')}",)


def pickled() -> bytes:
    """A pickle that runs code."""
    return pickle.dumps(Code())


def zipped() -> bytes:
    """What torch.load takes for a checkpoint, which runs code."""
    content = BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", pickled())
        archive.writestr("archive/version", "3\n")
    return content.getvalue()


def python() -> str:
    """A module that makes the sentinel when it is imported, whatever is asked of it."""
    made = os.environ.get(SENTINEL, "/dev/null")
    return f"import pathlib\npathlib.Path({made!r}).touch()\ndef __getattr__(name): return object\n"
