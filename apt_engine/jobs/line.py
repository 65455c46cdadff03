"""Runs in line for the engine of this computer, in an order kept in a file, and so over a restart. Imports no torch."""

import threading
from collections.abc import Callable

from apt_engine.errors import BusyError, EngineError
from apt_engine.jobs.engine import Engine
from apt_engine.runs.history import summarize
from apt_engine.runs.order import Order, hastened
from apt_engine.runs.store import RunStore

POLL_SECONDS = 1.0
CUT_OFF = ("training", "stopped")  # an engine whose app is gone stops by itself; one that was killed could not say so


class RunLine:
    """The runs of one store that one engine trains in turn. Safe to call from several threads.

    The first in line stays there while it trains. So one that was interrupted with the app goes on when that is started again.

    Args:
        store: whose runs they are; the order lies in its `line.json`.
        engine: who trains them; others may give it jobs, too.
        first: what comes before all runs, such as pictures; says whether it took the engine.
    """

    def __init__(self, store: RunStore, engine: Engine, first: Callable[[], bool] = lambda: False) -> None:
        self._store = store
        self._engine = engine
        self._first = first
        self._order = Order(store.data_dir / "line.json")
        self._begun = ""
        self._closed = threading.Event()

    def waiting(self) -> list[str]:
        """Ids of the runs in line, the next one first; without the one that trains."""
        status = self._engine.status
        at_work = status.run_id if status.job == "training" else ""
        return [run_id for run_id in map(str, self._order.read()) if run_id != at_work]

    def add(self, run_id: str) -> None:
        """Put a run at the end.

        Raises:
            DiskError: that cannot be written down.
        """
        self._order.change(lambda ids: [*(one for one in ids if one != run_id), run_id])

    def remove(self, run_id: str) -> None:
        """Take a run out; one that trains goes on. Raises as `add`."""
        self._order.change(lambda ids: [one for one in ids if one != run_id])

    def hasten(self, run_id: str) -> None:
        """Let a run change places with the one before it. Raises as `add`."""

        def moved(ids: list[str]) -> list[str]:
            place = ids.index(run_id) if run_id in ids else 0
            return hastened(ids, place, first=0 if ids[:1] == self.waiting()[:1] else 1)

        self._order.change(moved)

    def start(self) -> None:
        """From now on begin one run after the other, in a thread."""
        threading.Thread(target=self._keep_going, daemon=True).start()

    def close(self) -> None:
        """Begin no further run."""
        self._closed.set()

    def go_on(self) -> None:
        """If the engine is free, begin the first run in line; those that have ended, whichever way, leave it."""
        with self._order.lock:
            ids = list(map(str, self._order.read()))
            while ids and self._engine.status.job == "idle" and not self._has_begun(ids[0]):
                ids = ids[1:]
                self._order.change(lambda _, left=ids: left)

    def _has_begun(self, run_id: str) -> bool:
        """Begin a run or wait for the device; False for one that was begun before and is over, or cannot be begun at all."""
        if run_id == self._begun:
            self._begun = ""
            return False
        try:
            state = summarize(self._store.open(run_id)).state
            if state not in ("new", *CUT_OFF):
                return False
            self._engine.start_training(run_id, resume=state in CUT_OFF)
        except BusyError:
            return True
        except EngineError:
            return False
        self._begun = run_id
        return True

    def _keep_going(self) -> None:
        while not self._closed.wait(POLL_SECONDS):
            if not self._first():
                self.go_on()
