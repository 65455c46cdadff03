"""One training session under the data directory's lock: whoever trains, page or command line, does it alone."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from filelock import FileLock, Timeout  # comes with torch and the hub client

from apt_engine.bases.registry import choose_device
from apt_engine.errors import BusyError, EngineError
from apt_engine.runs.events import Event
from apt_engine.runs.files import writing
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.process_rank import process_count, process_rank
from apt_engine.training.trainer import Trainer

OUT_OF_MEMORY = (
    "The memory ran out; close other programs, turn on gradient_checkpointing, or lower resolution or batch_size."
)


@contextlib.contextmanager
def alone(store: RunStore) -> Iterator[None]:
    """Hold the right to train. The system drops the lock with the process, however that ends.

    Raises:
        BusyError: another process trains with the same data directory.
    """
    if process_rank():  # process 0 holds it for all
        yield
        return
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


def create(store: RunStore, config: TrainingConfig, save_photos: Callable[[Path], None]) -> Run:
    """A new run, made by process 0 and known to all.

    Raises:
        BusyError: somebody trains with the same data directory; nothing is left behind.
        DiskError: the run cannot be written.
    """
    made = [""]
    with alone(store):
        if not process_rank():
            made = [store.create(config, save_photos).id]
    if process_count() > 1:
        PartialState(cpu=choose_device(config.device).type == "cpu")
        broadcast_object_list(made)
    return store.open(made[0])


def train(
    store: RunStore, run: Run, should_stop: Callable[[], bool], should_pause: Callable[[], bool] = lambda: False
) -> Iterator[Event]:
    """Train a run and append each event to it before passing it on; see `Trainer`.

    Raises:
        EngineError: as `alone` and `Trainer.run` do.
    """
    with alone(store):
        try:
            for event in Trainer(run, should_stop, should_pause).run():
                if not process_rank():
                    run.append(event)
                yield event
        except (MemoryError, torch.OutOfMemoryError) as error:
            raise EngineError(OUT_OF_MEMORY) from error
