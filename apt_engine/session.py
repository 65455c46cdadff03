"""One training session under the data directory's lock: whoever trains, page or command line, does it alone."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from filelock import FileLock, Timeout  # comes with torch and the hub client

from apt_engine.errors import BusyError, EngineError
from apt_engine.events import Event
from apt_engine.runs import Run, RunStore, writing
from apt_engine.trainer import Trainer

OUT_OF_MEMORY = (
    "The memory ran out; close other programs, turn on gradient_checkpointing, or lower resolution or batch_size."
)


@contextlib.contextmanager
def alone(store: RunStore) -> Iterator[None]:
    """Hold the right to train. The system drops the lock with the process, however that ends.

    Raises:
        BusyError: another process trains with the same data directory.
    """
    with writing(store.data_dir):
        store.data_dir.mkdir(parents=True, exist_ok=True)
        lock = FileLock(store.data_dir / "training.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise BusyError(
                f"Another run is training in {store.data_dir}; wait for it to finish, or choose another --data-dir."
            ) from None
    try:
        yield
    finally:
        lock.release()


def train(store: RunStore, run: Run, should_stop: Callable[[], bool]) -> Iterator[Event]:
    """Train a run and append each event to it before passing it on.

    Raises:
        EngineError: as `alone` and `Trainer.run` do.
    """
    with alone(store):
        try:
            for event in Trainer(run).run(should_stop):
                run.append(event)
                yield event
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise EngineError(OUT_OF_MEMORY) from error
