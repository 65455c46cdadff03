"""What goes on with a run, in the words of the page."""

import statistics
import time

from apt_engine.jobs.engine import EngineStatus
from apt_engine.runs.history import STEPS_TIMED, History, RunSummary
from apt_engine.runs.run import Run
from apt_engine.runs.training_lock import Training
from ui.words import gap, later, say, told

AT_WORK = ("waiting", "waking", "training")
STATES = {
    "new": later("new"),
    "waiting": later("waiting"),
    "waking": later("starting"),
    "training": later("training"),
    "finished": later("finished"),
    "stopped": later("stopped"),
    "interrupted": later("interrupted"),
    "failed": later("failed"),
}
WORN = 0.5  # from here on the indicator is worth a word
FITTED = (
    later("Fine detail fits the photos closely ({value:.1f})."),
    later("Shape fits the photos closely ({value:.1f})."),
    later("Layout fits the photos closely ({value:.1f})."),
)
MONTHS = (
    later("Jan"),
    later("Feb"),
    later("Mar"),
    later("Apr"),
    later("May"),
    later("Jun"),
    later("Jul"),
    later("Aug"),
    later("Sep"),
    later("Oct"),
    later("Nov"),
    later("Dec"),
)


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
        process = training.process_id
        return [say("Another program on this computer trains it (process {process}); stop it there.", process=process)]
    is_its = status.job == "idle" and status.run_id == history.run.id
    is_told = any(status.message in said for said in (history.message, *history.notices))
    return [status.message] if is_its and not is_told else []


def sentence(history: History, state: str, ahead: int = 0) -> str:
    """What is going on, for somebody who sees this for the first time; `ahead` jobs come first while it waits."""
    subject = history.subject
    match state:
        case "new":
            return say("Ready to learn your {subject}; nothing is trained yet.", subject=subject)
        case "waiting":
            comes_next = say("Your {subject} comes next.", subject=subject)
            return (
                say("Your {subject} is in line: {ahead} before it.", subject=subject, ahead=ahead)
                if ahead
                else comes_next
            )
        case "waking":
            return say("Starting the engine for your {subject}.", subject=subject)
        case "training":
            is_learning = history.stage in ("", "training")
            doing = say("Learning your {subject}.", subject=subject)
            return _joined(doing, _remark(history)) if is_learning else told(history.message)
        case "finished":
            done = say("Trained on your {subject}.", subject=subject)
            return _joined(done, told(history.message), _kept(history))
        case "stopped":
            return _joined(told(history.message), _kept(history), say("Resume goes on from there."))
        case "interrupted":
            return _interrupted(history)
        case _:
            return told(history.message)


def in_line(subject: str, place: int) -> str:
    """A run that waits for the engine, at a place counted from 1."""
    if place < 2:
        sentence = say("Your {subject} is in line: it begins when the engine is free.", subject=subject)
    else:
        sentence = say("Your {subject} is in line: {ahead} before it.", subject=subject, ahead=place - 1)
    return _joined(sentence, say("The Runs tab shows the order."))


def begun_at(run: Run) -> str:
    """When a run was begun, as its folder says; empty where that has another name."""
    try:
        begun = time.strptime(run.id[:15], "%Y%m%d-%H%M%S")
    except ValueError:
        return ""
    month = say(MONTHS[begun.tm_mon - 1])
    return say("{day} {month}, {time}", day=f"{begun.tm_mday:02}", month=month, time=time.strftime("%H:%M", begun))


def _joined(*sentences: str) -> str:
    return gap().join(filter(None, sentences))


def _interrupted(history: History) -> str:
    step, last, saved = history.step, history.last_step, history.saved_step
    if saved:
        return say(
            "Training was interrupted at step {step:,} of {last:,}; Resume goes on from step {saved:,}, the last one saved.",
            step=step,
            last=last,
            saved=saved,
        )
    return say(
        "Training was interrupted at step {step:,} of {last:,}; Resume goes on from the beginning.",
        step=step,
        last=last,
    )


def _kept(history: History) -> str:
    """Which step is kept, where that can be told."""
    return say("Step {step:,} is kept.", step=history.kept_step) if history.kept_step else ""


def _remark(history: History) -> str:
    """What the newest check says, or how closely the photos are fitted; nothing while there is nothing to say."""
    if history.splits:
        return told(history.splits[-1].message)
    if not history.gammas:
        return ""
    gamma = history.gammas[-1][1]
    worn = max(gamma)
    if worn < WORN:
        return ""
    what = FITTED[min(2, 3 * gamma.index(worn) // len(gamma))]
    remark = say(what, value=worn)
    chance = statistics.fmean(chance for _, chance in history.chances[-STEPS_TIMED:]) if history.chances else 0.0
    if chance < 0.05:
        return remark
    if chance < 0.1:
        return _joined(remark, say("So some of the photos are now re-framed."))
    return _joined(remark, say("So {share} in 10 photos are now re-framed.", share=round(10 * chance)))
