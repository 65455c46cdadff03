"""The rows of a sweep as trials of an Optuna study: any number of workers, here or elsewhere, take them from one database.

A row is done when one of its trials is complete. A trial whose worker has shown no sign of life for a while fails, and the row
waits again; so does one that a worker gives back. What the row's folder holds is taken up by whoever trains it next.
"""

import contextlib
import datetime
import importlib.util
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apt_engine.errors import ConfigError
from apt_engine.jobs.sweep.plan import Plan, Row, differing

if TYPE_CHECKING:
    import optuna

ROW, MESSAGE, RUN, PLAN = "row", "message", "run", "plan"  # what trials and studies are marked with
DIRECTIONS = ("maximize", "minimize", "minimize")  # of gain, memorized, drift
METRICS = ("gain", "memorized", "drift")
HEARTBEAT_SECONDS = 30
SILENT_HEARTBEATS = 3  # after so many a worker is taken for dead
# Between taking a row and the first sign of life lie milliseconds.
UNBEGUN_SECONDS = SILENT_HEARTBEATS * HEARTBEAT_SECONDS
MOST_DEATHS = 3  # of workers on one row: it may be the row that kills them
SQLITE = "sqlite:///"
ATTEMPTS = 3
INSTALL = "A sweep needs Optuna, which is not installed; run: python -m pip install -r requirements-sweep.txt"


@dataclass(frozen=True)
class Standing:
    """Where a row is.

    Attributes:
        state: done, training, waiting or failed.
        values: as METRICS, where done; infinite where the run did not measure it.
        message: why it failed.
        run: id of the run that came of it.
    """

    row: Row
    state: str
    values: tuple[float, ...] = ()
    message: str = ""
    run: str = ""


def open_study(plan: Plan, url: str, heartbeat: int = HEARTBEAT_SECONDS) -> "optuna.Study":
    """The study of a plan, made unless it is there.

    Raises:
        ConfigError: Optuna is missing, the database cannot be opened, or its study of this name is of another plan.
    """
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError(INSTALL)
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with _experimental():
        study = _connect(plan.name, url, heartbeat)
    written = study.user_attrs.get(PLAN)
    if written is None:
        study.set_user_attr(PLAN, plan.content)
    elif parts := differing(written, plan.content):
        raise ConfigError(
            f"There is already a sweep called {plan.name}, with other {' and '.join(parts)}; write another name into "
            f"{plan.path.name}, or take back what was changed."
        )
    return study


def _connect(name: str, url: str, heartbeat: int) -> "optuna.Study":
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    for attempt in range(1, ATTEMPTS + 1):
        try:
            storage = optuna.storages.RDBStorage(
                url,
                engine_kwargs={"connect_args": {"timeout": 60}} if url.startswith(SQLITE) else {"pool_pre_ping": True},
                heartbeat_interval=heartbeat,
                grace_period=SILENT_HEARTBEATS * heartbeat,
                heartbeat_stale_trial_callback=optuna.storages.RetryHeartbeatStaleTrialCallback(max_retry=MOST_DEATHS),
            )
            return optuna.create_study(
                storage=storage, study_name=name, directions=DIRECTIONS, load_if_exists=True, sampler=_sampler()
            )
        except (SQLAlchemyError, ImportError, RuntimeError, ValueError) as error:
            if attempt == ATTEMPTS:  # two that begin at once both make the tables; one of them fails
                reason = str(error).splitlines()[0]
                raise ConfigError(f"The database of the sweep cannot be opened ({reason}); check --storage.") from error
            time.sleep(attempt)
    raise AssertionError


def _sampler() -> "optuna.samplers.BaseSampler":
    """Asked by nobody: every trial comes with its values."""
    import optuna

    return optuna.samplers.RandomSampler(seed=0)


def enqueue_missing(study: "optuna.Study", plan: Plan) -> int:
    """Let each row wait that is not done and that nobody has; returns how many those are.

    Two that do this at once may let a row wait twice; whoever gets the second finds it done.
    """
    missing = [standing.row for standing in standings(study, plan) if standing.state in ("new", "failed")]
    for row in missing:
        enqueue(study, row)
    return len(missing)


def enqueue(study: "optuna.Study", row: Row) -> None:
    """Let a row wait for a worker."""
    study.enqueue_trial(dict(row.choices), user_attrs={ROW: row.number})


def standings(study: "optuna.Study", plan: Plan) -> list[Standing]:
    """Where each row is, in the order of the plan; `new` for one that was never in the study."""
    by_row: dict[int, list[optuna.trial.FrozenTrial]] = {}
    for trial in study.get_trials(deepcopy=False):
        by_row.setdefault(trial.user_attrs.get(ROW, -1), []).append(trial)
    return [_standing(row, by_row.get(row.number, [])) for row in plan.rows]


def _standing(row: Row, trials: "list[optuna.trial.FrozenTrial]") -> Standing:
    found = {trial.state.name: trial for trial in trials}  # the newest of each state
    if done := found.get("COMPLETE"):
        return Standing(row, "done", tuple(done.values), run=done.user_attrs.get(RUN, ""))
    for name, state in (("RUNNING", "training"), ("WAITING", "waiting")):
        if name in found:
            return Standing(row, state)
    if failed := found.get("FAIL"):
        died = "its worker died again and again; look for what ends it, such as too little memory"
        return Standing(row, "failed", message=failed.user_attrs.get(MESSAGE, died))
    return Standing(row, "new")


def release_the_dead(study: "optuna.Study", plan: Plan) -> None:
    """Let rows wait again whose workers have shown no sign of life for a while."""
    from optuna.storages import fail_stale_trials

    with _experimental():
        fail_stale_trials(study)
    _release_the_unbegun(study, plan)


def _release_the_unbegun(study: "optuna.Study", plan: Plan) -> None:
    """Rows whose workers died between taking them and the first sign of life: Optuna calls none dead that never showed one."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    latest = datetime.datetime.now() - datetime.timedelta(seconds=UNBEGUN_SECONDS)  # local time, as Optuna writes it
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.params or trial.datetime_start is None or trial.datetime_start > latest:
            continue
        try:
            study.tell(trial.number, state=TrialState.FAIL)
        except (ValueError, UpdateFinishedTrialError):  # another worker did so
            continue
        if (number := trial.user_attrs.get(ROW)) is not None:
            enqueue(study, plan.rows[number])


def show_life(study: "optuna.Study", trial: "optuna.Trial") -> None:
    """The first sign of life, before anything is told of a trial: Optuna's thread gives it at some time after that."""
    storage: Any = study._storage  # noqa: SLF001  # Optuna has no public way
    storage.record_heartbeat(trial._trial_id)  # noqa: SLF001


@contextlib.contextmanager
def _experimental() -> Iterator[None]:
    """Heartbeats have been called experimental since 2021."""
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield
