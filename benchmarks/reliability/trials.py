"""The trials: each is an end that comes while a run is trained, what is left then, and what becomes of the run afterwards."""

import itertools
import random
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from apt_engine.runs.events import StepFinished
from apt_engine.runs.history import History
from apt_engine.runs.run import Run
from benchmarks.reliability import traps
from benchmarks.reliability.judge import SESSIONS_TO_END, differences, lost, seconds_since
from benchmarks.reliability.sessions import NeverError, Session

KILLS_IN_A_ROW = 12
TRIES = 5  # of an end that comes too late again and again
PHASES = {
    "loading": r'tell .*"stage": "loading"',
    "encoding": r'tell .*"stage": "encoding"',
    "a step": r'tell .*"StepFinished".*"step": 5,',
    "saving": r"half checkpoints/.*optimizer",
    "sampling": r'tell .*"stage": "sampling".*step 4',
    "exporting": r"half exports/",
}
SIGNALS = {
    "Ctrl-C": (signal.SIGINT, False),
    "TERM": (signal.SIGTERM, False),
    "HUP": (signal.SIGHUP, False),
    "TERM to the group": (signal.SIGTERM, True),
    "HUP to the group": (signal.SIGHUP, True),
}


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One end.

    Attributes:
        kind: the row of the table that it belongs to.
        name: when it came.
        lost: what was announced and is gone, just after the end.
        wrong: in what the finished run differs from an undisturbed one, or how the end itself was wrong.
        is_stuck: whether the run could not be finished.
        seconds: from the signal to the end of the process; 0 where there was none.
        is_late: whether the run had ended before the end came, so that this shows nothing.
    """

    kind: str
    name: str
    lost: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    is_stuck: bool = False
    seconds: float = 0.0
    is_late: bool = False


class Bench:
    """A run that nothing disturbed, and copies of it as it was before its first session.

    Args:
        folder: for the runs.
        make: makes a new run below a data directory.
    """

    def __init__(self, folder: Path, make: Callable[[Path], Run]) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        new = make(folder / "new")
        self._new = new.path
        self.whole = self.copy()
        moments = folder / "moments"
        if Session(self.whole, traps.note_moments, (str(self.whole.path), str(moments))).wait():
            raise NeverError("an undisturbed run failed")
        self.moments = moments.read_text(encoding="utf-8").splitlines()

    def copy(self, of: Path | None = None) -> Run:
        """A run of its own data directory, new or as another one is."""
        data_dir = self._folder / str(next(self._numbers))
        return Run(shutil.copytree(of or self._new, data_dir / "runs" / self._new.name))

    def end(self, run: Run) -> tuple[list[str], bool]:
        """Resume until the run is finished; in what it differs from the whole one, and whether it is stuck."""
        for _ in range(SESSIONS_TO_END):
            if Session(run).wait() == 0:
                wrong = differences(run, self.whole)
                if not wrong:
                    shutil.rmtree(run.path.parent.parent)
                return wrong, False
        return [run.events_path.read_text(encoding="utf-8")[-300:]], True


def in_time(attempt: Callable[[], Trial]) -> Iterator[Trial]:
    """An end that is tried again where it came too late; each that did is a row of its own, neither right nor wrong.

    Raises:
        NeverError: it always comes too late.
    """
    for tried in itertools.count(1):
        trial = attempt()
        yield trial
        if not trial.is_late:
            return
        if tried == TRIES:
            raise NeverError(f"{trial.kind}, {trial.name}: too late {TRIES} times")


def killed_in_training(bench: Bench, count: int, seed: int = 0) -> Iterator[Trial]:
    """Killed at any time, again and again, a few steps after each resumption."""
    numbers = random.Random(seed)
    while count > 0:
        run, killed = bench.copy(), 0
        while killed < min(count, KILLS_IN_A_ROW):
            session = Session(run)
            steps = _steps(run) + numbers.randint(1, 5)
            session.wait_until(
                lambda session=session, run=run, steps=steps: session.is_over or _steps(run) >= steps, "a step"
            )
            time.sleep(numbers.uniform(0, 0.15))
            if session.is_over:
                break  # it was finished meanwhile
            session.process.kill()
            session.wait()
            killed += 1
            yield Trial(kind="kill -9 in training", name=f"step {History.of(run).step}", lost=lost(run))
        wrong, is_stuck = bench.end(run)
        if killed:
            count -= killed
            yield Trial(kind="finished after kills in training", name=f"{killed}", wrong=wrong, is_stuck=is_stuck)


def killed_at(bench: Bench, kind: str, pattern: str, count: int) -> Iterator[Trial]:
    """Killed at each moment with the pattern: in one session at the first, in the next at the second; later in any order."""
    numbers = random.Random(0)
    within = sum(bool(re.search(pattern, moment)) for moment in bench.moments)
    done = 0
    while done < count:
        run, killed = bench.copy(), 0
        for number in numbers.sample(range(1, within + 1), within) if done else range(1, within + 1):
            code = Session(run, traps.kill_at, (str(run.path), pattern, number)).wait()
            if code != -signal.SIGKILL:
                break  # no moment was left: it is finished
            killed += 1
            yield Trial(kind=kind, name=f"moment {number}", lost=lost(run))
        wrong, is_stuck = (
            bench.end(run) if History.of(run).state != "finished" else (differences(run, bench.whole), False)
        )
        done += killed
        yield Trial(
            kind=kind.replace("kill -9 in", "finished after kills in"), name=f"{killed}", wrong=wrong, is_stuck=is_stuck
        )


def signalled(bench: Bench) -> Iterator[Trial]:
    """Each signal in each phase: it ends soon with its exit code, the step is saved, and the run goes on."""
    for phase, name in itertools.product(PHASES, SIGNALS):
        yield from in_time(partial(_signalled, bench, phase, name))


def _signalled(bench: Bench, phase: str, name: str) -> Trial:
    run = bench.copy()
    clock, (number, to_group) = run.path.parent / "clock", SIGNALS[name]
    code = Session(run, _signal_at, (str(run.path), PHASES[phase], int(number), str(clock), to_group)).wait()
    if not clock.exists():  # its moment never came
        return Trial(kind="signals", name=f"{name}, {phase}", is_late=True)
    seconds = seconds_since(clock)
    events = run.events()[0]
    done = max((event.step for event in events if isinstance(event, StepFinished)), default=0)
    saved = run.checkpoints()[-1].step if run.checkpoints() else 0
    wrong = [] if code == 128 + number else [f"exit code {code}"]
    wrong += [] if saved == done else [f"step {done} done, {saved} saved"]
    wrong += ["exported"] if (run.path / "exports").exists() and phase != "exporting" else []
    gone = lost(run)
    more, is_stuck = bench.end(run)
    return Trial(
        kind="signals", name=f"{name}, {phase}", lost=gone, wrong=wrong + more, is_stuck=is_stuck, seconds=seconds
    )


def full_disk(bench: Bench) -> Iterator[Trial]:
    """A disk that is full from each kind of moment on at which something is written: a sentence, and afterwards it goes on."""
    kinds = dict.fromkeys(_kind(moment) for moment in bench.moments if moment.split(" ")[0] in traps.TAKES_ROOM)
    for kind in kinds:
        run = bench.copy()
        code = Session(run, traps.fill_at, (str(run.path), kind)).wait()
        log = run.path.parent.parent / f"{run.id}.log"
        said = log.read_text(encoding="utf-8").splitlines()[-1:]
        wrong = [] if code == 1 and said and "free some disk space" in said[0] else [f"exit code {code}: {said}"]
        gone = lost(run)
        more, is_stuck = bench.end(run)
        yield Trial(kind="disk full", name=kind, lost=gone, wrong=wrong + more, is_stuck=is_stuck)


def _signal_at(run: str, pattern: str, number: int, clock: str, to_group: bool) -> None:
    traps.signal_at(run, pattern, number, clock, to_group=to_group)


def _kind(moment: str) -> str:
    """A pattern for a moment and its like, at other steps."""
    action, _, what = moment.partition(" ")
    if action == "tell":
        told = re.match(r'{"kind": "(\w+)"', what)
        stage = re.search(r'"stage": "(\w+)"', what)
        return f'tell .*"{told[1] if told else ""}"' + (f'.*"{stage[1]}"' if stage else "")
    return f"{action} " + re.sub(r"\\?\d+", r"\\d+", re.escape(what)) + "$"


def _steps(run: Run) -> int:
    return run.events_path.read_bytes().count(b'{"kind": "StepFinished"')
