"""What runs amount to, kept by the process and read on: each event of a run is read once, however many ask and however often."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from apt_engine.runs.run import Run


class Fold(Protocol):
    """Something that the events of a run amount to, up to a cursor."""

    cursor: int

    @property
    def is_dense(self) -> bool:
        """Whether it has become larger than one that is read anew."""
        ...

    def read_on(self) -> bool:
        """Take in the events since the last reading."""
        ...


Kind = TypeVar("Kind", bound=Fold)


class Folds(Generic[Kind]):
    """The folds of runs, those asked for last.

    Args:
        begin: reads a run from its first event on.
        most: so many are kept.
    """

    def __init__(self, begin: Callable[[Run], Kind], most: int) -> None:
        self._begin, self._most = begin, most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Path, tuple[object, Kind]] = OrderedDict()  # the one asked for longest ago comes first

    def of(self, run: Run, taken: Callable[[Kind], Kind] = lambda fold: fold) -> Kind:
        """The fold of a run until now; read anew where its settings or events are no longer those that were read, or it is dense.

        Args:
            run: whose events they are.
            taken: what to make of it while no other thread reads on, such as a copy.

        Raises:
            RunError: the run's settings or events cannot be read.
        """
        with self._lock:
            mark = _mark(run.path / "config.json")
            kept_mark, fold = self._kept.pop(run.path, (None, None))
            if fold is None or fold.is_dense or kept_mark != mark or _size(run.events_path) < fold.cursor:
                fold = self._begin(run)
            else:
                fold.read_on()
            self._kept[run.path] = mark, fold
            if len(self._kept) > self._most:
                self._kept.popitem(last=False)
            return taken(fold)


def _mark(path: Path) -> object:
    """What is different once a file was written again; None where there is none."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_mtime_ns, about.st_size, about.st_ino


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
