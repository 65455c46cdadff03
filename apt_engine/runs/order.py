"""What waits for the engine, in an order kept in a file, and so over a restart. Imports no torch."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apt_engine.reading.regular import read_json
from apt_engine.runs.files import write_atomically

LARGEST = 100_000_000  # bytes; a grid's two hundred requests have two million at most


class Order:
    """Entries that JSON can say, the next one first. Safe to call from several threads of one process.

    Args:
        path: the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lock = threading.RLock()

    def read(self) -> list[Any]:
        """The entries; none where nothing ever waited, or another program wrote the file."""
        try:
            entries = read_json(self._path, LARGEST)
        except (OSError, ValueError):
            return []
        return entries if isinstance(entries, list) else []

    @property
    def mark(self) -> str:
        """What is different once the entries were changed."""
        try:
            about = self._path.stat()
        except OSError:
            return ""
        return f"{about.st_mtime_ns} {about.st_ino}"

    def change(self, changed: Callable[[list[Any]], list[Any]]) -> None:
        """Put what a function makes of the entries in their place.

        Raises:
            DiskError: that cannot be written down.
        """
        with self.lock:
            write_atomically(self._path, json.dumps(changed(self.read())).encode())


def hastened(entries: list[Any], place: int, first: int = 0) -> list[Any]:
    """Entries in which the one at a place has changed places with the one before it, unless that is before `first`."""
    if first < place < len(entries):
        entries[place - 1], entries[place] = entries[place], entries[place - 1]
    return entries
