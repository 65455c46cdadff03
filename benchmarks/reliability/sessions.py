"""Training sessions in processes of their own, forked from one that has loaded the libraries: a kill costs no start of torch."""

import fcntl
import multiprocessing
import os
import signal
import sys
import termios
import time
from collections.abc import Callable
from functools import cache
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

from apt_engine.photos.photo_set import photos_in, read_photos
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig

PRELOADED = ["benchmarks.reliability.loaded"]  # who starts more than sessions adds to it first
PATIENCE_SECONDS = 600  # on a machine that does other things as well


class NeverError(Exception):
    """What was waited for never came."""


@cache
def _context() -> ForkServerContext:
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


class Process:
    """A forked process that calls `target` with `arguments`; both importable by their names."""

    log: Path

    def __init__(self, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        self.process: ForkServerProcess = _context().Process(target=target, args=arguments)
        self.process.start()

    @property
    def pid(self) -> int:
        """Its number, which is that of its group as well."""
        assert self.process.pid
        return self.process.pid

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.process.exitcode is not None

    def wait(self) -> int:
        """Its exit code, negative where a signal ended it.

        Raises:
            NeverError: it does not end.
        """
        self.process.join(PATIENCE_SECONDS)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise NeverError(f"it did not end: {self._said()}")
        return self.process.exitcode

    def wait_until(self, is_true: Callable[[], bool], what: str) -> None:
        """Wait for something that it does.

        Raises:
            NeverError: it ended before, or does not do it.
        """
        end = time.monotonic() + PATIENCE_SECONDS
        while not is_true():
            if (self.is_over and not is_true()) or time.monotonic() > end:
                raise NeverError(f"{what} never came: {self._said()}")
            time.sleep(0.01)

    def _said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-500:] if self.log.exists() else ""


class Session(Process):
    """A process that goes on with a run, as the command line does; the leader of a group of its own.

    Args:
        run: what it trains.
        prepare: called first in the process, with `arguments`; importable by its name.
        terminal: path of a terminal that it belongs to, for one that has one.
    """

    def __init__(
        self,
        run: Run,
        prepare: Callable[..., None] | None = None,
        arguments: tuple[Any, ...] = (),
        terminal: str = "",
    ) -> None:
        self.run = run
        self.log = run.path.parent.parent / f"{run.id}.log"
        super().__init__(_resume, (run.path, self.log, prepare, arguments, terminal))

    def wait_for(self, words: str) -> None:
        """Wait until the run's events have these words, in this session or before. Raises as `wait_until`."""
        self.wait_until(lambda: words in self.run.events_path.read_text(encoding="utf-8", errors="replace"), words)

    def send(self, number: signal.Signals, *, to_group: bool = False) -> float:
        """Send a signal; returns after how many seconds the process has ended."""
        started = time.monotonic()
        os.kill(-self.pid if to_group else self.pid, number)
        self.wait()
        return time.monotonic() - started


def _resume(
    path: Path, log: Path, prepare: Callable[..., None] | None, arguments: tuple[Any, ...], terminal: str
) -> None:
    from apt_engine.cli import main as cli

    os.setsid()
    output = os.open(terminal or log, os.O_RDWR | (0 if terminal else os.O_CREAT | os.O_APPEND))
    if terminal:
        fcntl.ioctl(output, termios.TIOCSCTTY, 0)
    for stream in (1, 2):
        os.dup2(output, stream)
    # What Python holds for them may be files, in which it would seek.
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    if prepare:
        prepare(*arguments)
    sys.exit(cli.main(["resume", "--data-dir", str(path.parent.parent), "--run", path.name]))


def new_run(data_dir: Path, base: Path, photos: Path, **settings: Any) -> Run:
    """A run of the toy with all parts of the method on: re-framed photos, drift, samples."""
    values: dict[str, Any] = {
        "subject": "car",
        "base": str(base),
        "resolution": 32,
        "rank": 4,
        "steps": 12,
        "save_every_steps": 2,
        "sample_every_steps": 4,
        "drift_every_steps": 4,
        "drift_prompts": ("a cat",),
        "sample_steps": 2,
        "warped_views": 2,
        "sample_prompts": ("a {subject}", "a cat"),
        **settings,
    }
    chosen = read_photos(photos_in(photos))
    return RunStore(data_dir).create(TrainingConfig(**values), lambda folder: chosen.save(folder, values["resolution"]))
