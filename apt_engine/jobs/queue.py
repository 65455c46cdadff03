"""One engine for many: visitors' jobs wait in line and are done one after the other. Imports no torch."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from apt_engine.errors import BusyError, EngineError
from apt_engine.jobs.engine import EngineStatus, SampleProgress
from apt_engine.jobs.worker import Worker
from apt_engine.jobs.zerogpu import ZeroGpuEngine
from apt_engine.runs.history import refuse_restart
from apt_engine.runs.store import RunStore
from apt_engine.settings.sampling import SampleRequest

SECONDS_BETWEEN_LOOKS = 0.2


@dataclass
class Job:
    """One job in line: a run to train, or pictures when `run_id` is empty."""

    visitor: "QueuedEngine"
    run_id: str = ""
    resume: bool = False
    begun: threading.Event = field(default_factory=threading.Event)


class JobQueue:
    """Owns the engine and the line before it.

    Args:
        engine: the engine; nobody else gives it jobs.
    """

    def __init__(self, engine: Worker | ZeroGpuEngine) -> None:
        self.engine = engine
        self._lock = threading.RLock()
        self._waiting: list[Job] = []
        self._current: Job | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._run, daemon=True).start()

    def close(self) -> None:
        """End the engine; nobody is called any more."""
        self._closed.set()
        self.engine.close()

    def add(self, job: Job) -> None:
        """Put a job at the end of the line.

        Raises:
            BusyError: its visitor has a job in line or in work.
        """
        with self._lock:
            job.visitor.refuse_if_busy()
            self._waiting.append(job)

    def remove(self, job: Job) -> None:
        """Take a job out of the line, or tell that it is over."""
        with self._lock:
            if job in self._waiting:
                self._waiting.remove(job)
            if self._current is job:
                self._current = None

    def find(self, visitor: "QueuedEngine") -> tuple[Job | None, int]:
        """The job of a visitor and how many come before it; 0 for the one in work, None for no job."""
        with self._lock:
            if self._current and self._current.visitor is visitor:
                return self._current, 0
            for place, job in enumerate(self._waiting):
                if job.visitor is visitor:
                    return job, place + (1 if self._current else 0)
            return None, 0

    def _run(self) -> None:
        while not self._closed.wait(SECONDS_BETWEEN_LOOKS):
            with self._lock:
                self._notice_end()
                if self._current is None and self._waiting:
                    self._begin(self._waiting.pop(0))

    def _notice_end(self) -> None:
        """A training is over when the engine is idle; pictures are over when their visitor says so."""
        job = self._current
        if job and job.run_id and self.engine.status.job == "idle":
            job.visitor.message = self.engine.status.message
            self._current = None

    def _begin(self, job: Job) -> None:
        self._current = job
        if job.run_id:
            try:
                self.engine.start_training(job.run_id, resume=job.resume, store=job.visitor.store)
            except EngineError as error:  # the run was deleted meanwhile
                job.visitor.message = str(error)
                self._current = None
        job.begun.set()


class QueuedEngine:
    """The engine as one visitor sees it: what `worker.Worker` offers, with a line before it."""

    def __init__(self, queue: JobQueue, store: RunStore) -> None:
        self.store = store
        self.message = ""
        self._queue = queue

    @property
    def status(self) -> EngineStatus:
        job, ahead = self._queue.find(self)
        if job is None:
            return EngineStatus(message=self.message)
        if not job.begun.is_set():
            return EngineStatus("waiting", job.run_id, ahead=ahead)
        return EngineStatus("training" if job.run_id else "sampling", job.run_id)

    def refuse_if_busy(self) -> None:
        """Raise if a job of this visitor waits or is under way.

        Raises:
            BusyError: says which.
        """
        status = self.status
        if status.job != "idle":
            what = {"training": "training", "sampling": "drawing"}.get(status.job, "waiting in line")
            raise BusyError(f"Your last job is still {what}; wait for it, or stop it first.")

    def start_training(self, run_id: str, *, resume: bool = False) -> None:
        """Put a run in line; returns at once.

        Raises:
            BusyError: this visitor has a job already, or the run was started before.
            RunError: there is no such run.
        """
        run = self.store.open(run_id)
        if not resume:
            refuse_restart(run)
        self.message = ""
        self._queue.add(Job(self, run.id, resume))

    def sample(self, request: SampleRequest) -> Iterator[SampleProgress]:
        """Wait in line, then make pictures, telling how far they are.

        Raises:
            BusyError: this visitor has a job already.
            EngineError: the pictures cannot be made; says why.
        """
        job = Job(self)
        self._queue.add(job)
        return self._sample(job, request)

    def stop(self) -> None:
        """Leave the line, or ask the job to stop after its step; returns at once."""
        job, _ = self._queue.find(self)
        if job is None:
            return
        if job.begun.is_set():
            self._queue.engine.stop()
        else:
            self._queue.remove(job)
            job.begun.set()

    def close(self) -> None:
        """The engine belongs to the desk."""

    def _sample(self, job: Job, request: SampleRequest) -> Iterator[SampleProgress]:
        try:
            while not job.begun.wait(SECONDS_BETWEEN_LOOKS):
                _, ahead = self._queue.find(self)
                yield SampleProgress(f"In line, {ahead} before you" if ahead else "Your turn comes next", None, ())
            if self._queue.find(self)[0] is job:
                yield from self._queue.engine.sample(request, self.store)
            else:
                yield SampleProgress("Stopped", None, ())
        finally:
            self._finish(job)

    def _finish(self, job: Job) -> None:
        """Also when the page is gone: the pictures go on being drawn, and the next one waits for their end."""
        end = time.monotonic() + 60
        while job.begun.is_set() and self._queue.engine.status.job == "sampling" and time.monotonic() < end:
            self._queue.engine.stop()
            time.sleep(SECONDS_BETWEEN_LOOKS)
        self._queue.remove(job)
