"""The side that asks: a few children, started at need, kept warm for a minute, and ended when a photo takes too long."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from apt_engine.errors import PhotoError
from apt_engine.photos.decode import KEPT_SIDE

SECONDS = 9.0  # for one photo; the largest that is taken needs two
SECONDS_TO_WAKE = 60.0  # on a machine that is very busy; alone it takes 0.1
SECONDS_KEPT = 60.0
CHILDREN = 2  # at once; other photos wait
REMEMBERED = 200  # photos that ended a child
LONGEST_ANSWER = 10_000  # bytes, before the pixels
ROOT = Path(__file__).resolve().parents[2]
# It needs no token of ours, and one arena and one thread: each more takes of its address space.
NEEDED = ("PATH", "SYSTEMROOT", "PYTHONPATH", "LD_LIBRARY_PATH")
LIMITS = {"MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONUTF8": "1"}

_turns = threading.Semaphore(CHILDREN)
_lock = threading.Lock()
_idle: dict["Child", threading.Timer] = {}
_trouble: OrderedDict[tuple[object, ...], str] = OrderedDict()


def decode(path: Path, name: str) -> Image.Image:
    """A photo as `decode.decode` makes it, in another process; it carries no metadata.

    Args:
        path: the file.
        name: what to call it in messages.

    Raises:
        PhotoError: it cannot be used, or took too much time or memory; says which and what to do.
    """
    mark = _mark(path)
    if mark not in _trouble:  # a second look would cost as much again
        with _turns:
            child = _take()
            try:
                image = child.ask(path, name)
            except Ended as end:
                _trouble[mark] = str(end)
                if len(_trouble) > REMEMBERED:
                    _trouble.popitem(last=False)
            else:
                _keep(child)
                if isinstance(image, Image.Image):
                    return image
                raise PhotoError(image)
    raise PhotoError(f"Photo {name} {_trouble[mark]}")


class Ended(Exception):
    """The child has ended over a photo; says of the photo why."""


class Child:
    """One process."""

    def __init__(self) -> None:
        environment = {name: os.environ[name] for name in NEEDED if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "apt_engine.photos.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            env={**environment, **LIMITS},
        )
        with self._ended_after(SECONDS_TO_WAKE):
            self._read_line()

    def ask(self, path: Path, name: str) -> Image.Image | str:
        """The picture, or a sentence on why there is none.

        Raises:
            Ended: it took too long, or the process broke.
        """
        asked = json.dumps({"name": name, "path": str(path.absolute())}).encode() + b"\n"
        with self._ended_after(SECONDS) as is_late:
            try:
                return self._answer(asked)
            except (OSError, ValueError, KeyError, TypeError):
                self.end()
        if is_late.is_set():
            raise Ended(f"takes more than {SECONDS:.0f} seconds to open; save it anew as JPEG or PNG.")
        raise Ended("cannot be opened; it is damaged: copy it again, or leave it out.")

    def end(self) -> None:
        """Kill the process and let go of its pipes."""
        self._process.kill()
        self._process.communicate()

    def _answer(self, asked: bytes) -> Image.Image | str:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(asked)
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._read_line())
        if "refusal" in answer:
            return str(answer["refusal"])
        width, height = (min(KEPT_SIDE, int(side)) for side in answer["size"])
        return Image.frombytes("RGB", (width, height), self._process.stdout.read(width * height * 3))

    def _read_line(self) -> bytes:
        assert self._process.stdout
        return self._process.stdout.readline(LONGEST_ANSWER)

    @contextlib.contextmanager
    def _ended_after(self, seconds: float) -> Iterator[threading.Event]:
        """Kill the process unless the block is left in time; a read that waits for it then finds its end."""
        is_late = threading.Event()
        clock = threading.Timer(seconds, lambda: is_late.set() or self._process.kill())
        clock.daemon = True
        clock.start()
        try:
            yield is_late
        finally:
            clock.cancel()


def _take() -> Child:
    with _lock:
        if not _idle:
            return Child()
        child, clock = _idle.popitem()
        clock.cancel()
        return child


def _keep(child: Child) -> None:
    clock = threading.Timer(SECONDS_KEPT, _expire, (child,))
    clock.daemon = True
    with _lock:
        _idle[child] = clock
    clock.start()


def _expire(child: Child) -> None:
    with _lock:
        is_idle = _idle.pop(child, None)
    if is_idle:
        child.end()


def _mark(path: Path) -> tuple[object, ...]:
    """What is different once a file was written again."""
    try:
        about = path.stat()
    except (OSError, ValueError):
        return (path,)
    return path, about.st_mtime_ns, about.st_size
