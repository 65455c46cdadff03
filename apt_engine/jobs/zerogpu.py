"""The engine on Hugging Face's ZeroGPU, where a GPU exists only inside a call of limited length.

Training is cut into slices: each call goes on from the last checkpoint until its time is up. Pictures take one call. This
module imports no torch: the functions that are called on the GPU do so there, in a process of their own.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from apt_engine.errors import BusyError, EngineError
from apt_engine.jobs.engine import EngineStatus, SampleProgress, SharedEngine
from apt_engine.jobs.results import draw, export
from apt_engine.jobs.session import judge, tell_death, train
from apt_engine.runs.history import refuse_restart, summarize
from apt_engine.runs.store import RunStore
from apt_engine.settings.sampling import SampleRequest

SLICE_SECONDS = 90.0  # of training in one call; loading, saving and samples come on top
CALL_SECONDS = 150  # the length of a call that ZeroGPU is asked for
FAILED_SLICES_ALLOWED = 3  # in a row, without a checkpoint between them
GpuDecorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def train_slice(data_dir: str, run_id: str, seconds: float) -> str:
    """Train for some seconds, on the GPU; returns done, paused (there is more to do) or failed."""
    store = RunStore(Path(data_dir))
    run = store.open(run_id)
    end = time.monotonic() + seconds
    is_paused = False
    try:
        stop = run.path / "stop"
        for event in train(
            store,
            run,
            stop.exists,
            lambda: time.monotonic() > end,
            should_hurry=lambda: stop.exists() and stop.stat().st_size > 0,
        ):
            is_paused = getattr(event, "stage", "") == "waiting"
    except EngineError:
        return "failed"
    return "paused" if is_paused else "done"


def draw_pictures(data_dir: str, request: dict[str, Any], folder: str) -> tuple[list[str], str]:
    """Make the pictures of a request, on the GPU; returns their paths, and a sentence where that failed."""
    try:
        wanted = SampleRequest.from_dict(request)
        return [str(path) for path in draw(RunStore(Path(data_dir)), wanted, Path(folder), lambda *_: None)], ""
    except EngineError as error:
        return [], str(error)


def write_files(data_dir: str, run_id: str, checkpoint: str) -> tuple[list[str], str]:
    """Export a checkpoint, on the GPU; returns the files' paths, and a sentence where that failed."""
    store = RunStore(Path(data_dir))
    try:
        folder = store.open(run_id).path
        return [str(folder / file.path) for file in export(store, run_id, checkpoint)], ""
    except EngineError as error:
        return [], str(error)


def judge_run(data_dir: str, run_id: str) -> tuple[list[str], str]:
    """Judge a run, on the GPU; the verdict is in its events. Returns no files, and a sentence where that failed."""
    store = RunStore(Path(data_dir))
    try:
        judge(store, store.open(run_id), lambda *_: None)
        return [], ""
    except EngineError as error:
        return [], str(error)


class ZeroGpuEngine(SharedEngine):
    """An engine over a GPU that is borrowed call by call.

    Args:
        store: whose runs it works on, unless a job names another.
        borrow: makes of a function one that runs on the GPU, such as `spaces.GPU(duration=...)`.
        seconds: of training in one call.
    """

    def __init__(self, store: RunStore, borrow: GpuDecorator, seconds: float = SLICE_SECONDS) -> None:
        self._default_store = store
        self._seconds = seconds
        self._train, self._draw = borrow(train_slice), borrow(draw_pictures)
        self._write, self._judge = borrow(write_files), borrow(judge_run)
        self._status = EngineStatus()
        self._lock = threading.Lock()
        self._stop_file: Path | None = None

    @property
    def status(self) -> EngineStatus:
        return self._status

    def refuse_if_busy(self) -> None:
        if self._status.job != "idle":
            raise BusyError("The engine is at work; wait until it is done, or stop it first.")

    def start_training(self, run_id: str, *, resume: bool = False, store: RunStore | None = None) -> None:
        store = store or self._default_store
        run = store.open(run_id)
        with self._lock:
            self.refuse_if_busy()
            if not resume:
                refuse_restart(run)
            self._stop_file = run.path / "stop"
            self._stop_file.unlink(missing_ok=True)
            self._status = EngineStatus("training", run.id)
        threading.Thread(target=self._train_in_slices, args=(store, run.id), daemon=True).start()

    def sample(self, request: SampleRequest, store: RunStore | None = None) -> Iterator[SampleProgress]:
        store = store or self._default_store
        folder = store.next_pictures_dir()
        with self._lock:
            self.refuse_if_busy()
            self._status = EngineStatus("sampling")
        return self._call(self._draw, str(store.data_dir), request.to_dict(), str(folder))

    def export(self, run_id: str, checkpoint: str, store: RunStore | None = None) -> Iterator[SampleProgress]:
        store = store or self._default_store
        with self._lock:
            self.refuse_if_busy()
            self._status = EngineStatus("exporting")
        return self._call(self._write, str(store.data_dir), run_id, checkpoint)

    def judge(self, run_id: str, store: RunStore | None = None) -> Iterator[SampleProgress]:
        store = store or self._default_store
        with self._lock:
            self.refuse_if_busy()
            self._status = EngineStatus("judging")
        return self._call(self._judge, str(store.data_dir), run_id)

    def stop(self) -> None:
        """Ask a training to stop after its step, asked twice without samples of it; pictures in work are finished."""
        with self._lock:
            if self._status.job == "training" and self._stop_file:
                with contextlib.suppress(OSError):
                    self._stop_file.write_text("now" if self._stop_file.exists() else "")

    def close(self) -> None:
        """A call that is under way ends with its process."""
        self.stop()

    def _train_in_slices(self, store: RunStore, run_id: str) -> None:
        """Make call after call until the run is done; one that is cut off is made again, from the last checkpoint."""
        message, failures = "", 0
        run = store.open(run_id)
        while True:
            before = summarize(run).saved_step
            try:
                outcome = self._train(str(store.data_dir), run_id, self._seconds)
            except Exception as error:  # noqa: BLE001 - ZeroGPU raises its limits and timeouts as many types
                failures = 0 if summarize(run).saved_step > before else failures + 1
                if failures < FAILED_SLICES_ALLOWED:
                    continue
                message = f"The GPU was taken away {failures} times in a row ({error}); press Resume to go on."
                tell_death(store, run.id, message)
                break
            if outcome != "paused":
                break
        if self._stop_file:
            self._stop_file.unlink(missing_ok=True)
        self._status = EngineStatus(message=message)

    def _call(self, borrowed: Callable[..., Any], *arguments: Any) -> Iterator[SampleProgress]:
        try:
            yield SampleProgress("Borrowing a GPU", None, ())
            paths, sentence = borrowed(*arguments)
            if sentence:
                raise EngineError(sentence)
            yield SampleProgress("Done", 1.0, tuple(Path(path) for path in paths))
        finally:
            self._status = EngineStatus()
