"""One worker of a sweep: takes a row, trains it, hands in what the run measured, until no row is left.

A row has a folder of its own, `<data dir>/sweeps/<name>/rows/<number>/`, a data directory with a lock of its own. When its run
has ended it moves to the runs of the data directory, whole, and `run.txt` in the row's folder says as what.
"""

import contextlib
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from apt_engine.errors import BusyError, EngineError, is_device_lost
from apt_engine.jobs.session import train
from apt_engine.jobs.sweep.plan import Plan, Row
from apt_engine.jobs.sweep.study import DIRECTIONS, MESSAGE, ROW, RUN, enqueue, release_the_dead, show_life
from apt_engine.runs import library
from apt_engine.runs.files import free_path, write_atomically, writing
from apt_engine.runs.history import RunSummary, summarize
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.runs.training_lock import training_lock

if TYPE_CHECKING:
    import optuna

WAIT_SECONDS = 1.0
MOVED = "run.txt"
MakeRun = Callable[[RunStore, Row], Run]


def folder_of(store: RunStore, plan: Plan) -> Path:
    """Where a sweep keeps its rows, its database, its table and its plot."""
    return store.data_dir / "sweeps" / plan.name


class SweepWorker:
    """Trains rows of one plan, one after the other.

    Args:
        plan: what may be asked for.
        study: whom to ask.
        store: where finished runs go.
        make_run: makes the run of a row in the row's own store; raises `EngineError` where its photos are no good.
        should_stop: whether to save, give the row back and end.
        tell: hears a line about each row.
    """

    def __init__(
        self,
        plan: Plan,
        study: "optuna.Study",
        store: RunStore,
        make_run: MakeRun,
        should_stop: Callable[[], bool],
        tell: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._study = study
        self._store = store
        self._make_run = make_run
        self._should_stop = should_stop
        self._tell = tell
        self._lost: EngineError | None = None

    def work(self) -> None:
        """Until every row is done, has failed, or this worker is told to stop.

        Raises:
            EngineError: the device does not answer any more; the row is given back.
        """
        while not self._should_stop():
            release_the_dead(self._study, self._plan)
            states = {trial.state.name for trial in self._study.get_trials(deepcopy=False)}
            if "WAITING" in states:
                self._take_one()
            elif "RUNNING" in states:  # by others, one of whom may die
                time.sleep(WAIT_SECONDS)
            else:
                return
            if self._lost:
                raise self._lost

    def _take_one(self) -> None:
        trial: list[optuna.Trial] = []

        def objective(taken: "optuna.Trial") -> tuple[float, ...]:
            trial.append(taken)
            return self._measure(taken)

        try:
            self._study.optimize(objective, n_trials=1, catch=(EngineError,))
        except ValueError:
            state = self._study.trials[trial[0].number].state if trial else None
            if state is None or state.name != "FAIL":
                raise
            # This worker was silent for so long that it was taken for dead. Whoever has the row now finds the run as it is.

    def _measure(self, trial: "optuna.Trial") -> tuple[float, ...]:
        """Optuna's objective: what the run of the trial's row measured.

        Raises:
            TrialPruned: there was nothing to do, or the row is given back.
            EngineError: the row failed; the trial says why.
        """
        from optuna import TrialPruned

        number = trial.user_attrs.get(ROW)
        if number is None:  # another worker was quicker, and Optuna made a trial of its own accord
            raise TrialPruned
        row = self._plan.rows[number]
        show_life(self._study, trial)
        for name, values in self._plan.axes.items():
            trial.suggest_categorical(name, values)
        self._tell(f"row {number + 1} of {len(self._plan.rows)}: {row.label}")
        try:
            run = self._finish(row)
        except EngineError as error:
            if error.__cause__ and is_device_lost(error.__cause__):
                self._lost = error
            else:
                trial.set_user_attr(MESSAGE, str(error))
                self._tell(f"row {number + 1} failed: {error}")
                raise
            run = None
        if run is None:
            enqueue(self._study, row)
            raise TrialPruned
        trial.set_user_attr(RUN, run.id)
        self._tell(f"row {number + 1} is run {run.id}")
        return metrics(summarize(run))

    def _finish(self, row: Row) -> Run | None:
        """The run of a row, trained to its end and moved to the others; None where this worker is told to stop before."""
        place = RunStore(folder_of(self._store, self._plan) / "rows" / f"{row.number:04d}")
        while not self._should_stop():
            try:
                run = self._moved(place) or self._train(place, row)
                return run if run is None else self._move(place, run, row)
            except BusyError:  # a worker that was taken for dead is still at it
                time.sleep(WAIT_SECONDS)
        return None

    def _train(self, place: RunStore, row: Row) -> Run | None:
        run = next(iter(place.list()), None) or self._make_run(place, row)
        if summarize(run).state != "finished":
            for _ in train(place, run, self._should_stop):
                pass
        return run if summarize(run).state == "finished" else None

    def _moved(self, place: RunStore) -> Run | None:
        """The run of a row where it has moved already."""
        with contextlib.suppress(OSError, EngineError):
            if not place.list():
                return self._store.open((place.data_dir / MOVED).read_text(encoding="utf-8"))
        return None

    def _move(self, place: RunStore, run: Run, row: Row) -> Run:
        if run.path.parent != place.runs_dir:
            return run
        with training_lock(place), writing(self._store.runs_dir):
            if moved := self._moved(place):  # by one who was taken for dead, just now
                return moved
            library.rename(run, f"{self._plan.name}: {row.label}")
            self._store.runs_dir.mkdir(parents=True, exist_ok=True)
            while True:
                target = free_path(self._store.runs_dir / run.id)
                write_atomically(place.data_dir / MOVED, target.name.encode())
                try:
                    moved = Run(run.path.rename(target))
                except OSError:
                    if not target.exists():
                        raise
                    continue  # another worker's run took the name meanwhile
                shutil.rmtree(place.runs_dir, ignore_errors=True)
                return moved


def metrics(summary: RunSummary) -> tuple[float, ...]:
    """Of the kept step: gain on new views, what the photos gained beyond that, drift. Infinitely bad where not measured."""
    step = summary.kept_step or summary.step
    split = next((split for split in reversed(summary.splits) if split.step <= step), None)
    drift = next((drift for at, drift in reversed(summary.drifts) if at <= step), None)
    measured = (split and split.views, split and split.shots - split.views, drift)
    worst = (-math.inf if direction == "maximize" else math.inf for direction in DIRECTIONS)
    return tuple(
        value if value is not None and math.isfinite(value) else bad for value, bad in zip(measured, worst, strict=True)
    )
