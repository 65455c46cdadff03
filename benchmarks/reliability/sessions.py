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

PATIENCE_SECONDS = 120
LOADED = [
    "apt_engine.cli",
    "apt_engine.training.trainer",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl",
    "diffusers.models.unets.unet_2d_condition",
    "transformers.models.clip.modeling_clip",
    "peft",
]


class NeverError(Exception):
    """What was waited for never came."""


@cache
def _context() -> ForkServerContext:
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    return context


class Session:
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
        values = (run.path, self.log, prepare, arguments, terminal)
        self.process: ForkServerProcess = _context().Process(target=_resume, args=values)
        self.process.start()

    def wait(self) -> int:
        """Its exit code, negative where a signal ended it.

        Raises:
            NeverError: it does not end.
        """
        self.process.join(PATIENCE_SECONDS)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise NeverError(f"{self.run.id} did not end")
        return self.process.exitcode

    def wait_for(self, words: str) -> None:
        """Wait until the run's events have these words, in this session or before.

        Raises:
            NeverError: it ended before, or they do not come.
        """
        end = time.monotonic() + PATIENCE_SECONDS
        while words not in self.run.events_path.read_text(encoding="utf-8", errors="replace"):
            if self.process.exitcode is not None or time.monotonic() > end:
                raise NeverError(f"{words} never came: {self.log.read_text(errors='replace')[-500:]}")
            time.sleep(0.01)

    def send(self, number: signal.Signals, *, to_group: bool = False) -> float:
        """Send a signal; returns after how many seconds the process has ended."""
        started = time.monotonic()
        assert self.process.pid
        os.kill(-self.process.pid if to_group else self.process.pid, number)
        self.wait()
        return time.monotonic() - started


def _resume(
    path: Path, log: Path, prepare: Callable[..., None] | None, arguments: tuple[Any, ...], terminal: str
) -> None:
    from apt_engine import cli

    os.setsid()
    output = os.open(terminal or log, os.O_RDWR | (0 if terminal else os.O_CREAT | os.O_APPEND))
    if terminal:
        fcntl.ioctl(output, termios.TIOCSCTTY, 0)
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.stdout = os.fdopen(1, "w")
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
