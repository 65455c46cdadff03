"""What goes on with a run, in the words of the page."""

import statistics
import time

from apt_engine.jobs.engine import EngineStatus
from apt_engine.runs.history import STEPS_TIMED, History, RunSummary
from apt_engine.runs.run import Run
from apt_engine.runs.training_lock import Training

AT_WORK = ("waiting", "waking", "training")
WORN = 0.5  # from here on the indicator is worth a word


def state_under(status: EngineStatus, training: Training | None, summary: RunSummary) -> str:
    """The state given what the engine and other processes do: also waiting, waking, before a first event, and interrupted."""
    if is_at_work(status, summary.run.id):
        return "waiting" if status.job == "waiting" else summary.state_while(True)
    return summary.state_while(is_trained_elsewhere(status, training, summary.run.id))


def is_at_work(status: EngineStatus, run_id: str) -> bool:
    """Whether the page's own engine trains a run, or will when its turn comes."""
    return status.job in ("waiting", "training") and status.run_id == run_id


def is_trained_elsewhere(status: EngineStatus, training: Training | None, run_id: str) -> bool:
    """Whether another process trains a run; it cannot be stopped from here."""
    return training is not None and training.run == run_id and not is_at_work(status, run_id)


def engine_notes(status: EngineStatus, training: Training | None, history: History) -> list[str]:
    """What the run's own events cannot tell: that another process trains it, or why a session never began."""
    if training and is_trained_elsewhere(status, training, history.run.id):
        return [f"Another program on this computer trains it (process {training.process_id}); stop it there."]
    is_its = status.job == "idle" and status.run_id == history.run.id
    is_told = any(status.message in told for told in (history.message, *history.notices))
    return [status.message] if is_its and not is_told else []


def sentence(history: History, state: str, ahead: int = 0) -> str:
    """What is going on, for somebody who sees this for the first time; `ahead` jobs come first while it waits."""
    subject = history.subject
    match state:
        case "new":
            return f"Ready to learn your {subject}; nothing is trained yet."
        case "waiting":
            return f"Your {subject} " + (f"is in line: {ahead} before it." if ahead else "comes next.")
        case "waking":
            return f"Waking the engine for your {subject}."
        case "training":
            is_learning = history.stage in ("", "training")
            return f"Learning your {subject}.{_remark(history)}" if is_learning else history.message
        case "finished":
            return f"{'It knows your' if history.kept_step else 'Trained on your'} {subject}. {history.message}{_kept(history)}"
        case "stopped":
            return f"{history.message}{_kept(history)} Resume goes on from there."
        case "interrupted":
            saved = history.saved_step
            kept = f"from step {saved:,}, the last one saved" if saved else "from the beginning"
            return f"Training was interrupted at step {history.step:,} of {history.last_step:,}; Resume goes on {kept}."
        case _:
            return history.message


def in_line(subject: str, place: int) -> str:
    """A run that waits for the engine, at a place counted from 1."""
    before = "it begins when the engine is free" if place < 2 else f"{place - 1} before it"
    return f"Your {subject} is in line: {before}. The Runs tab shows the order."


def begun_at(run: Run) -> str:
    """When a run was begun, as its folder says; empty where that has another name."""
    try:
        return time.strftime("%d %b, %H:%M", time.strptime(run.id[:15], "%Y%m%d-%H%M%S"))
    except ValueError:
        return ""


def _kept(history: History) -> str:
    """Which step is kept, where that can be told."""
    if not history.kept_step:
        return ""
    return f" Step {history.kept_step:,} is kept."


def _remark(history: History) -> str:
    """What the newest check says, or how closely the photos are fitted; nothing while there is nothing to say."""
    if history.splits:
        return f" {history.splits[-1].message}"
    if not history.gammas:
        return ""
    gamma = history.gammas[-1][1]
    worn = max(gamma)
    if worn < WORN:
        return ""
    what = ("Fine detail", "Shape", "Layout")[min(2, 3 * gamma.index(worn) // len(gamma))]
    remark = f" {what} fits the photos closely ({worn:.1f})"
    chance = statistics.fmean(chance for _, chance in history.chances[-STEPS_TIMED:]) if history.chances else 0.0
    return f"{remark}, so {_share(chance)} of the photos are now re-framed." if chance >= 0.05 else f"{remark}."


def _share(chance: float) -> str:
    return f"{round(10 * chance)} in 10" if chance >= 0.1 else "some"
