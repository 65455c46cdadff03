"""One engine for many visitors: their jobs wait in a queue and are done one after the other. Imports no torch."""

import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from apt_engine.errors import BusyError, EngineError
from apt_engine.jobs import limits
from apt_engine.jobs.engine import Engine, EngineStatus, SampleProgress, SharedEngine
from apt_engine.runs.events import Noticed
from apt_engine.runs.history import refuse_restart, summarize
from apt_engine.runs.store import RunStore
from apt_engine.settings.sampling import SampleRequest

POLL_SECONDS = 0.2
SECONDS_TO_STOP = 60  # after that the next job is begun in any case


@dataclass
class Job:
    """A run to train, or another job when `run_id` is empty: pictures to draw, files to write, a run to judge.

    Attributes:
        visitor: whose job it is.
        run_id: the run to train.
        resume: whether from its last checkpoint.
        kind: what it is.
        stopped_at: when it has had its time, on the monotonic clock.
        ended_for: why it had to end before it was done; empty if it had not to.
        begun: set when the job's turn has come, or when it was taken out of the queue.
    """

    visitor: "QueuedEngine"
    run_id: str = ""
    resume: bool = False
    kind: Literal["training", "sampling", "exporting", "judging"] = "training"
    begun: threading.Event = field(default_factory=threading.Event)
    stopped_at: float = math.inf
    ended_for: str = ""


class JobQueue:
    """Owns the engine and gives it one visitor's job after the other.

    Args:
        engine: the engine; nobody else gives it jobs.
    """

    def __init__(self, engine: SharedEngine) -> None:
        self.engine = engine
        self._lock = threading.RLock()
        self._waiting: list[Job] = []
        self._current: Job | None = None
        self._closed = threading.Event()
        self._tally = limits.Tally()
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        """End the engine; no further job is begun."""
        self._closed.set()
        self.engine.close()

    def add(self, job: Job) -> None:
        """Put a job at the end of the queue.

        Raises:
            BusyError: its visitor has a job that waits or is under way.
            LimitError: the queue is full, the visitor's folder is, or there were too many jobs within an hour.
        """
        limits.check_room(job.visitor.store.data_dir)
        with self._lock:
            job.visitor.refuse_if_busy()
            if len(self._waiting) >= limits.MOST_WAITING:
                raise limits.LimitError(f"{limits.MOST_WAITING} jobs wait already; try again later.")
            self._tally.count(str(job.visitor.store.data_dir), job.visitor.address)
            self._waiting.append(job)

    def remove(self, job: Job) -> None:
        """Take a job out of the queue, or say that it is over."""
        with self._lock:
            if job in self._waiting:
                self._waiting.remove(job)
            if self._current is job:
                self._current = None

    def find(self, visitor: "QueuedEngine") -> tuple[Job | None, int]:
        """A visitor's job, None if there is none, and how many come before it; 0 for the one under way."""
        with self._lock:
            if self._current and self._current.visitor is visitor:
                return self._current, 0
            for ahead, job in enumerate(self._waiting):
                if job.visitor is visitor:
                    return job, ahead + (1 if self._current else 0)
            return None, 0

    def _run(self) -> None:
        looked_at = 0.0
        while not self._closed.wait(POLL_SECONDS):
            with self._lock:
                self._clear_finished()
                if self._current is None and self._waiting:
                    self._begin(self._waiting.pop(0))
                job = self._current
            if job and time.monotonic() - looked_at >= limits.SECONDS_BETWEEN_LOOKS:
                self._hold_to_limits(job)
                looked_at = time.monotonic()

    def _hold_to_limits(self, job: Job) -> None:
        """End a job that may not go on; it saves what it has, as when its visitor stops it."""
        reason = "" if job.ended_for else limits.why_to_end(job.visitor.store.data_dir, job.stopped_at)
        with self._lock:
            if reason and self._current is job:
                job.ended_for = reason
                self.engine.stop()

    def _clear_finished(self) -> None:
        """A training is over when the engine is idle. Any other job is over when `QueuedEngine` removes it."""
        job = self._current
        if job and job.run_id and self.engine.status.job == "idle":
            job.visitor.message = self.engine.status.message
            if job.ended_for:
                self._tell(job)
            self._current = None

    def _tell(self, job: Job) -> None:
        """Write into the run why it ended, where its own reason is only that it was asked to."""
        try:
            run = job.visitor.store.open(job.run_id)
            if summarize(run).state != "finished":
                run.append(Noticed(message=job.ended_for))
        except EngineError:  # it was deleted, or there is no room even for this
            job.visitor.message = job.ended_for

    def _begin(self, job: Job) -> None:
        self._current = job
        job.stopped_at = time.monotonic() + limits.JOB_SECONDS
        if job.run_id:
            try:
                self.engine.start_training(job.run_id, resume=job.resume, store=job.visitor.store)
            except EngineError as error:  # the run was deleted meanwhile
                job.visitor.message = str(error)
                self._current = None
        job.begun.set()


class QueuedEngine(Engine):
    """The engine as one visitor sees it: their jobs wait in the queue, and all others' are hidden.

    Args:
        queue: of the engine that all visitors share.
        store: the visitor's runs.

    Attributes:
        address: where the visitor's last request came from.
    """

    def __init__(self, queue: JobQueue, store: RunStore) -> None:
        self.store = store
        self.message = ""
        self.address = ""
        self._queue = queue

    @property
    def status(self) -> EngineStatus:
        job, ahead = self._queue.find(self)
        if job is None:
            return EngineStatus(message=self.message)
        if not job.begun.is_set():
            return EngineStatus("waiting", job.run_id, ahead=ahead)
        return EngineStatus(job.kind, job.run_id)

    def refuse_if_busy(self) -> None:
        status = self.status
        if status.job != "idle":
            what = {"sampling": "drawing", "exporting": "writing files", "waiting": "waiting in line"}
            raise BusyError(
                f"Your last job is still {what.get(status.job, status.job)}; wait for it, or stop it first."
            )

    def start_training(self, run_id: str, *, resume: bool = False) -> None:
        run = self.store.open(run_id)
        if not resume:
            refuse_restart(run)
        limits.check_training(run.config, len(run.photo_paths))
        self.message = ""
        self._queue.add(Job(self, run.id, resume))

    def sample(self, request: SampleRequest) -> Iterator[SampleProgress]:
        limits.check_request(request, self.store)
        job = Job(self, kind="sampling")
        self._queue.add(job)
        return self._follow(job, lambda: self._queue.engine.sample(request, self.store))

    def export(self, run_id: str, checkpoint: str) -> Iterator[SampleProgress]:
        job = Job(self, kind="exporting")
        self._queue.add(job)
        return self._follow(job, lambda: self._queue.engine.export(run_id, checkpoint, self.store))

    def judge(self, run_id: str) -> Iterator[SampleProgress]:
        job = Job(self, kind="judging")
        self._queue.add(job)
        return self._follow(job, lambda: self._queue.engine.judge(run_id, self.store))

    def stop(self) -> None:
        job, _ = self._queue.find(self)
        if job is None:
            return
        if job.begun.is_set():
            self._queue.engine.stop()
        else:
            self._queue.remove(job)
            job.begun.set()

    def close(self) -> None:
        """Do nothing: the engine belongs to all, and the queue closes it."""

    def _follow(self, job: Job, begin: Callable[[], Iterator[SampleProgress]]) -> Iterator[SampleProgress]:
        try:
            while not job.begun.wait(POLL_SECONDS):
                _, ahead = self._queue.find(self)
                yield SampleProgress(f"In line, {ahead} before you" if ahead else "Your turn comes next", None, ())
            if self._queue.find(self)[0] is job:
                yield from begin()
                if job.ended_for:
                    raise limits.LimitError(job.ended_for)
            else:
                yield SampleProgress("Stopped", None, ())
        finally:
            self._finish(job)

    def _finish(self, job: Job) -> None:
        """Let the next job begin, but only once the engine has stopped drawing for a page that was closed."""
        end = time.monotonic() + SECONDS_TO_STOP
        followed = ("sampling", "exporting", "judging")
        while job.begun.is_set() and self._queue.engine.status.job in followed and time.monotonic() < end:
            self._queue.engine.stop()
            time.sleep(POLL_SECONDS)
        self._queue.remove(job)
