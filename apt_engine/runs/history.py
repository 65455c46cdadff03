"""What a run's events amount to."""

from dataclasses import dataclass

from apt_engine.errors import BusyError
from apt_engine.runs.events import CheckpointSaved, RunFailed, RunFinished, RunStarted, StepFinished
from apt_engine.runs.run import Run


@dataclass(frozen=True)
class RunSummary:
    """What a list of runs shows. `state` is new, training, finished, stopped, failed or interrupted.

    `training` means that no end was written; whether somebody still works on it only the worker knows.
    """

    run: Run
    subject: str
    base: str
    state: str
    step: int
    last_step: int
    message: str


def refuse_restart(run: Run) -> None:
    """Raise if a run was started before, and must be resumed instead.

    Raises:
        BusyError: it was.
    """
    if summarize(run).state != "new":
        raise BusyError(f"Run {run.id} was started before; resume it instead.")


def summarize(run: Run) -> RunSummary:
    """The state of a run, read off its events."""
    config = run.config
    state, step, last_step, message = "new", 0, config.steps_for(len(run.photo_paths)), ""
    for event in run.events()[0]:
        match event:
            case RunStarted():
                state, last_step = "training", event.last_step
            case StepFinished() | CheckpointSaved():
                step = max(step, event.step)
            case RunFinished():
                state, message = ("finished" if event.is_complete else "stopped"), event.reason
            case RunFailed() if state != "finished":  # else it was a wish to go on that failed
                state, message = "failed", event.message
            case _:
                pass
    return RunSummary(run, config.subject, config.base, state, step, last_step, message)
