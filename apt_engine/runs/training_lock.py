"""The right to train in a data directory: one process holds it at a time, and others can see for which run.

Two files lie in the data directory: `training.lock`, which the system unlocks when its holder ends, however that happens, and
beside it `training.json`, which says what the holder trains. Whoever sees the second while the first is free deletes it.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import FileLock, Timeout  # comes with torch and the hub client

from apt_engine.errors import BusyError, DiskError
from apt_engine.reading.regular import read_json
from apt_engine.runs.files import write_atomically, writing
from apt_engine.runs.store import RunStore

SECONDS_TRIED = 1.0  # those who only look hold the lock too, for less than a thousandth of that


@dataclass(frozen=True)
class Training:
    """What a process trains now."""

    run: str
    process_id: int


@contextlib.contextmanager
def training_lock(store: RunStore, run_id: str = "") -> Iterator[None]:
    """Hold the right to train, or to write how a training ended; with `run_id`, as the one who trains that run.

    Raises:
        BusyError: another process trains with the same data directory.
        DiskError: the data directory cannot be written.
    """
    lock, note = _lock(store), _note(store)
    with writing(store.data_dir):
        store.data_dir.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=SECONDS_TRIED)
        except Timeout:
            raise _busy(store) from None
    try:
        with contextlib.suppress(OSError, DiskError):  # training matters more than being seen to train
            note.unlink(missing_ok=True)
            if run_id:
                write_atomically(note, json.dumps(asdict(Training(run_id, os.getpid()))).encode())
        yield
    finally:
        with contextlib.suppress(OSError):
            note.unlink(missing_ok=True)
        lock.release()


def training_in(store: RunStore) -> Training | None:
    """What is being trained in a data directory now, by whichever process; cheap enough to ask every second."""
    try:
        values = read_json(_note(store))
        training = Training(str(values["run"]), int(values["process_id"]))
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return None
    lock = _lock(store)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return training
    except OSError:  # not ours to lock
        return None
    with contextlib.suppress(OSError):
        _note(store).unlink(missing_ok=True)
    lock.release()
    return None


def refuse_if_trained(store: RunStore) -> None:
    """Raise if any process trains with a data directory.

    Raises:
        BusyError: one does; says which run.
    """
    if training_in(store):
        raise _busy(store)


def _busy(store: RunStore) -> BusyError:
    training = training_in(store)
    what = f"Run {training.run}" if training else "Another run"
    return BusyError(f"{what} is training in {store.data_dir}; wait for it to finish, or choose another --data-dir.")


def _lock(store: RunStore) -> FileLock:
    return FileLock(store.data_dir / "training.lock")


def _note(store: RunStore) -> Path:
    return store.data_dir / "training.json"
