"""One training session. Whoever trains, page or command line, does it here, and here alone is written how a session failed.

Both happen under the data directory's lock, so nothing is ever written into a run that another process trains. Torch is
imported once a session begins: the page's process only writes down the death of its engine.
"""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from apt_engine.bases.precision import check_precision
from apt_engine.errors import EngineError
from apt_engine.jobs.failures import explain, lighter
from apt_engine.jobs.reporting import Reporter
from apt_engine.runs.events import Event, Noticed, RunFailed
from apt_engine.runs.process_rank import process_count, process_rank
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.runs.training_lock import training_lock
from apt_engine.settings.training import TrainingConfig


def create(store: RunStore, config: TrainingConfig, save_photos: Callable[[Path], None]) -> Run:
    """A new run, made by process 0 and known to all.

    Raises:
        ConfigError: the base cannot be kept in the precision that is wished.
        BusyError: somebody trains with the same data directory; nothing is left behind.
        DiskError: the run cannot be written.
    """
    check_precision(config.base_precision)
    made = [""]
    with _locked(store):
        if not process_rank():
            made = [store.create(config, save_photos).id]
    if process_count() > 1:
        from accelerate.utils import broadcast_object_list

        _meet(config)
        broadcast_object_list(made)
    return store.open(made[0])


def train(
    store: RunStore,
    run: Run,
    should_stop: Callable[[], bool],
    should_pause: Callable[[], bool] = lambda: False,
    *,
    steps: int | None = None,
    is_leaving: Callable[[], bool] = lambda: False,
    should_hurry: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    """Train a run and append each event to it before passing it on; see `Trainer`.

    Args:
        store: where the run is.
        run: to begin or to go on with.
        should_stop: whether to save and end after this step, with exports.
        should_pause: whether to save and leave the rest to another session.
        steps: train to this step, now and in the sessions to come.
        is_leaving: whether the program is about to end: save after this step, and leave the rest to another session.
        should_hurry: whether the samples of the step it stops at are to be left out.

    Raises:
        BusyError: another process trains with the same data directory; the run is as it was.
        EngineError: the session broke, for whatever reason, and the run tells why; or it was refused, and the run is as it was.
    """
    has_begun = False
    with _locked(store, run.id):
        try:
            run.refuse_links()
            if steps is not None and not process_rank():
                run.replace_config(run.config.replace(steps=steps))
            _meet(run.config)
            for event in _reported(run, _learn(run, should_stop, should_pause, is_leaving, should_hurry)):
                if not process_rank():
                    run.append(event)
                has_begun = True
                yield event
        except EngineError as error:
            if has_begun:
                _write_failure(run, str(error))
            raise
        except Exception as error:
            message = explain(error, f"events.jsonl of run {run.id}")
            _write_failure(run, message, "".join(traceback.format_exception(error)))
            raise EngineError(message) from error


def _learn(run: Run, *wishes: Callable[[], bool]) -> Iterator[Event]:
    """The events of a session. Where a step does not fit into memory, it goes on from the last checkpoint with less."""
    from apt_engine.training.memory import release_memory
    from apt_engine.training.trainer import Trainer

    while True:
        try:
            yield from Trainer(run, *wishes).run()
            return
        except Exception as error:
            found = lighter(run.config, error) if process_count() == 1 else None
            if found is None:
                raise
            config, sentence = found
        # Out here the error is gone, and with it the frames that hold the tensors of the step.
        release_memory()
        run.replace_config(config)
        yield Noticed(message=sentence)


def _reported(run: Run, events: Iterator[Event]) -> Iterator[Event]:
    """The same events, handed on to where the settings say; what goes wrong there is told among them."""
    if process_rank():
        yield from events
        return
    reporter = Reporter(run)
    try:
        for event in events:
            yield event
            reporter.tell(event)
            if problem := reporter.problem():
                yield Noticed(message=problem)
    finally:
        reporter.close()


def judge(store: RunStore, run: Run, on_progress: Callable[[str, float | None], None]) -> None:
    """Judge a run's checkpoints and append the verdict to it, whole or not at all.

    Args:
        store: where the run is.
        run: that is not trained now.
        on_progress: told what is being done and how far it is (0 to 1); what it raises ends the work.

    Raises:
        BusyError: another process trains with the same data directory.
        EngineError: it cannot be judged; says why.
    """
    from apt_engine.training.verdict import judge_run

    run.refuse_links()
    with training_lock(store):
        for event in judge_run(run, on_progress):
            run.append(event)


def tell_death(store: RunStore, run_id: str, message: str) -> None:
    """Write down that the process which trained a run is dead, unless the run is gone or another process trains already."""
    with contextlib.suppress(EngineError), training_lock(store):
        _write_failure(store.open(run_id), message)


def _write_failure(run: Run, message: str, detail: str = "") -> None:
    """Only process 0 writes. A disk too full for the line leaves the run without an end; it can be resumed all the same."""
    if not process_rank():
        with contextlib.suppress(EngineError):
            run.append(RunFailed(message=message, detail=detail))


def _locked(store: RunStore, run_id: str = "") -> contextlib.AbstractContextManager[None]:
    """The lock, which process 0 holds for all."""
    return contextlib.nullcontext() if process_rank() else training_lock(store, run_id)


def _meet(config: TrainingConfig) -> None:
    """Wait until all processes are here, hence until process 0 has the lock and has written what it had to."""
    if process_count() > 1:
        from accelerate import PartialState

        from apt_engine.bases.registry import choose_device

        PartialState(cpu=choose_device(config.device).type == "cpu").wait_for_everyone()
