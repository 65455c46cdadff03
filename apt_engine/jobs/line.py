"""Runs in line for the engine of this computer, in an order kept in a file, and so over a restart. Imports no torch."""

import json
import threading
from collections.abc import Callable

from apt_engine.errors import BusyError, EngineError
from apt_engine.jobs.engine import Engine
from apt_engine.runs.files import write_atomically
from apt_engine.runs.history import summarize
from apt_engine.runs.store import RunStore

POLL_SECONDS = 1.0
CUT_OFF = ("training", "stopped")  # an engine whose app is gone stops by itself; one that was killed could not say so


class RunLine:
    """The runs of one store that one engine trains in turn. Safe to call from several threads.

    The first in line stays there while it trains. So one that was interrupted with the app goes on when that is started again.

    Args:
        store: whose runs they are; the order lies in its `line.json`.
        engine: who trains them; others may give it jobs, too.
    """

    def __init__(self, store: RunStore, engine: Engine) -> None:
        self._store = store
        self._engine = engine
        self._path = store.data_dir / "line.json"
        self._lock = threading.Lock()
        self._begun = ""
        self._closed = threading.Event()

    def waiting(self) -> list[str]:
        """Ids of the runs in line, the next one first; without the one that trains."""
        status = self._engine.status
        at_work = status.run_id if status.job == "training" else ""
        return [run_id for run_id in self._read() if run_id != at_work]

    def add(self, run_id: str) -> None:
        """Put a run at the end.

        Raises:
            DiskError: that cannot be written down.
        """
        self._change(lambda ids: [*(one for one in ids if one != run_id), run_id])

    def remove(self, run_id: str) -> None:
        """Take a run out; one that trains goes on. Raises as `add`."""
        self._change(lambda ids: [one for one in ids if one != run_id])

    def hasten(self, run_id: str) -> None:
        """Let a run change places with the one before it. Raises as `add`."""

        def moved(ids: list[str]) -> list[str]:
            place = ids.index(run_id) if run_id in ids else 0
            if place and ids[place - 1] in self.waiting():
                ids[place - 1], ids[place] = ids[place], ids[place - 1]
            return ids

        self._change(moved)

    def start(self) -> None:
        """From now on begin one run after the other, in a thread."""
        threading.Thread(target=self._keep_going, daemon=True).start()

    def close(self) -> None:
        """Begin no further run."""
        self._closed.set()

    def go_on(self) -> None:
        """If the engine is free, begin the first run in line; those that have ended, whichever way, leave it."""
        with self._lock:
            ids = self._read()
            while ids and self._engine.status.job == "idle" and not self._has_begun(ids[0]):
                self._write(ids[1:])
                ids = ids[1:]

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
            self.go_on()

    def _change(self, changed: Callable[[list[str]], list[str]]) -> None:
        with self._lock:
            self._write(changed(self._read()))

    def _read(self) -> list[str]:
        try:
            ids = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):  # nothing was ever in line, or another program wrote the file
            return []
        return [str(one) for one in ids] if isinstance(ids, list) else []

    def _write(self, ids: list[str]) -> None:
        write_atomically(self._path, json.dumps(ids).encode())
