"""One engine for many: visitors' jobs wait in line and are done one after the other. Imports no torch."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from apt_engine.errors import BusyError, EngineError
from apt_engine.jobs.engine import EngineStatus, SampleProgress
from apt_engine.jobs.worker import Worker
from apt_engine.jobs.zerogpu import SliceWorker
from apt_engine.runs.run import RunStore, refuse_restart
from apt_engine.settings.sampling import SampleRequest

SECONDS_BETWEEN_LOOKS = 0.2


@dataclass
class Ticket:
    """One job in line: a run to train, or pictures when `run_id` is empty."""

    seat: "Seat"
    run_id: str = ""
    resume: bool = False
    called: threading.Event = field(default_factory=threading.Event)


class Desk:
    """Owns the engine and the line before it.

    Args:
        worker: the engine; nobody else gives it jobs.
    """

    def __init__(self, worker: Worker | SliceWorker) -> None:
        self.worker = worker
        self._lock = threading.RLock()
        self._line: list[Ticket] = []
        self._serving: Ticket | None = None
        self._closed = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """End the engine; nobody is called any more."""
        self._closed.set()
        self.worker.close()

    def queue(self, ticket: Ticket) -> None:
        """Put a job at the end of the line.

        Raises:
            BusyError: its visitor has a job in line or in work.
        """
        with self._lock:
            ticket.seat.refuse_if_busy()
            self._line.append(ticket)

    def leave(self, ticket: Ticket) -> None:
        """Take a job out of the line, or tell that it is over."""
        with self._lock:
            if ticket in self._line:
                self._line.remove(ticket)
            if self._serving is ticket:
                self._serving = None

    def of(self, seat: "Seat") -> tuple[Ticket | None, int]:
        """The job of a visitor and how many come before it; 0 for the one in work, None for no job."""
        with self._lock:
            if self._serving and self._serving.seat is seat:
                return self._serving, 0
            for place, ticket in enumerate(self._line):
                if ticket.seat is seat:
                    return ticket, place + (1 if self._serving else 0)
            return None, 0

    def _serve(self) -> None:
        while not self._closed.wait(SECONDS_BETWEEN_LOOKS):
            with self._lock:
                self._notice_end()
                if self._serving is None and self._line:
                    self._call(self._line.pop(0))

    def _notice_end(self) -> None:
        """A training is over when the engine is idle; pictures are over when their visitor says so."""
        ticket = self._serving
        if ticket and ticket.run_id and self.worker.status.job == "idle":
            ticket.seat.message = self.worker.status.message
            self._serving = None

    def _call(self, ticket: Ticket) -> None:
        self._serving = ticket
        if ticket.run_id:
            try:
                self.worker.start_training(ticket.run_id, resume=ticket.resume, store=ticket.seat.store)
            except EngineError as error:  # the run was deleted meanwhile
                ticket.seat.message = str(error)
                self._serving = None
        ticket.called.set()


class Seat:
    """The engine as one visitor sees it: what `worker.Worker` offers, with a line before it."""

    def __init__(self, desk: Desk, store: RunStore) -> None:
        self.store = store
        self.message = ""
        self._desk = desk

    @property
    def status(self) -> EngineStatus:
        ticket, ahead = self._desk.of(self)
        if ticket is None:
            return EngineStatus(message=self.message)
        if not ticket.called.is_set():
            return EngineStatus("waiting", ticket.run_id, ahead=ahead)
        return EngineStatus("training" if ticket.run_id else "sampling", ticket.run_id)

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
        self._desk.queue(Ticket(self, run.id, resume))

    def sample(self, request: SampleRequest) -> Iterator[SampleProgress]:
        """Wait in line, then make pictures, telling how far they are.

        Raises:
            BusyError: this visitor has a job already.
            EngineError: the pictures cannot be made; says why.
        """
        ticket = Ticket(self)
        self._desk.queue(ticket)
        return self._sample(ticket, request)

    def stop(self) -> None:
        """Leave the line, or ask the job to stop after its step; returns at once."""
        ticket, _ = self._desk.of(self)
        if ticket is None:
            return
        if ticket.called.is_set():
            self._desk.worker.stop()
        else:
            self._desk.leave(ticket)
            ticket.called.set()

    def close(self) -> None:
        """The engine belongs to the desk."""

    def _sample(self, ticket: Ticket, request: SampleRequest) -> Iterator[SampleProgress]:
        try:
            while not ticket.called.wait(SECONDS_BETWEEN_LOOKS):
                _, ahead = self._desk.of(self)
                yield SampleProgress(f"In line, {ahead} before you" if ahead else "Your turn comes next", None, ())
            if self._desk.of(self)[0] is ticket:
                yield from self._desk.worker.sample(request, self.store)
            else:
                yield SampleProgress("Stopped", None, ())
        finally:
            self._finish(ticket)

    def _finish(self, ticket: Ticket) -> None:
        """Also when the page is gone: the pictures go on being drawn, and the next one waits for their end."""
        end = time.monotonic() + 60
        while ticket.called.is_set() and self._desk.worker.status.job == "sampling" and time.monotonic() < end:
            self._desk.worker.stop()
            time.sleep(SECONDS_BETWEEN_LOOKS)
        self._desk.leave(ticket)
