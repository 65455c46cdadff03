"""What a run's events amount to: the one fold of them, which reads on from where it stopped.

A list of runs, a route or the command line asks `summarize`; who draws curves keeps a `History` and lets it `read_on`.
"""

import copy
import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self, TypeVar

from apt_engine.errors import BusyError
from apt_engine.runs.event_file import STEPS_KEPT
from apt_engine.runs.events import (
    CheckpointSaved,
    DriftMeasured,
    Event,
    ExportReady,
    NewerEvent,
    Noticed,
    PhotosJudged,
    PicturesJudged,
    PicturesSeen,
    PromptsChanged,
    RunFailed,
    RunFinished,
    RunStarted,
    SampleReady,
    SplitMeasured,
    StageChanged,
    StepFinished,
    VerdictReached,
    ViewsShown,
)
from apt_engine.runs.folds import Folds
from apt_engine.runs.run import Checkpoint, Run
from apt_engine.runs.verdict import Verdict
from apt_engine.settings.ending import may_end_early
from apt_engine.settings.training import SUBJECT_SLOT, TrainingConfig

STEPS_TIMED = 20
NOTICES_KEPT = 3
MOST_JUDGED = 100  # events of a verdict; ours has nineteen at most
SUMMARIES_KEPT = 500  # of runs of a few thousand steps, about 20 kB each
HISTORIES_KEPT = 20  # about 1 kB a step
NEWER = "This run was written by a newer version of APT Studio; update this one to see all that it tells."
Point = TypeVar("Point")


@dataclass
class RunSummary:
    """A run so far, without what is known of each single step.

    `state` is new, training, finished, stopped or failed, as the events alone tell it; `training` means that no end was
    written, see `state_while`. `last_step` is planned, `saved_step` in the newest checkpoint. `samples` has paths relative to
    the run's folder by (step, index), `sampled` their prompts; `sample_prompts` are those of the samples to come, as written.
    `ended_by_itself` stays true when the run is taken further. `verdict` is the newest whole one, of checkpoints that are still
    there. `may_end` says whether settings and photos let it end before its last step. `cursor` is how far the events were read.
    """

    run: Run
    subject: str
    base: str
    sample_prompts: tuple[str, ...]
    last_step: int
    cursor: int = 0
    state: str = "new"
    stage: str = ""
    message: str = ""
    fraction: float | None = None
    step: int = 0
    saved_step: int = 0
    drifts: list[tuple[int, float]] = field(default_factory=list)
    splits: list[SplitMeasured] = field(default_factory=list)
    ended_by_itself: bool = False
    views: tuple[str, ...] = ()
    memory: int = 0
    samples: dict[tuple[int, int], str] = field(default_factory=dict)
    sampled: dict[tuple[int, int], str] = field(default_factory=dict)
    exports: dict[str, ExportReady] = field(default_factory=dict)
    recent_notices: list[str] = field(default_factory=list)
    recent_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=STEPS_TIMED))
    is_newer: bool = False
    phrase: str = ""
    is_sampled: bool = True
    may_end: bool = True
    verdict: Verdict | None = None
    judged: list[PhotosJudged | PicturesJudged | PicturesSeen] = field(default_factory=list)  # not whole yet

    @classmethod
    def new(cls, run: Run, config: TrainingConfig, photo_count: int) -> Self:
        """That of a run before its first event."""
        steps, is_sampled = config.steps_for(photo_count), config.sample_every_steps > 0
        made = cls(run, config.subject, config.base, config.sample_prompts, steps, is_sampled=is_sampled)
        made.may_end = may_end_early(config, photo_count)
        made.phrase = config.phrase
        return made

    @classmethod
    def of(cls, run: Run) -> Self:
        """That of a run as its folder tells it.

        Raises:
            RunError: its settings or events cannot be read.
        """
        made = cls.new(run, run.config, len(run.photo_paths))
        made.read_on()
        return made

    @property
    def prompts(self) -> tuple[str, ...]:
        """Those of the samples to come, filled; none where samples are switched off."""
        filled = (prompt.replace(SUBJECT_SLOT, self.phrase) for prompt in self.sample_prompts)
        return tuple(filled) if self.is_sampled else ()

    @property
    def notices(self) -> list[str]:
        """What the user should know of the newest session, as sentences."""
        return [NEWER, *self.recent_notices] if self.is_newer else self.recent_notices

    @property
    def kept_step(self) -> int:
        """The checkpoint that is best so far; 0 while none can be told."""
        return self.splits[-1].kept_step if self.splits else 0

    @property
    def may_end_early(self) -> bool:
        """Whether it may end before its last step: its settings let it, and its checks can tell when."""
        return self.may_end and (self.kept_step > 0 or not self.splits)

    @property
    def is_dense(self) -> bool:
        """Never: nothing in it grows with each step."""
        return False

    @property
    def seconds_per_step(self) -> float | None:
        """The median of the last steps' durations; None before the first."""
        return statistics.median(self.recent_seconds) if self.recent_seconds else None

    def state_while(self, is_trained: bool) -> str:
        """The state, given whether somebody trains the run now: also waking, before a session's first event, and interrupted."""
        if is_trained:
            return "training" if self.state == "training" else "waking"
        return "interrupted" if self.state == "training" else self.state

    def drawn_samples(self, step: int) -> set[int]:
        """Which samples of a step were drawn of the prompts of now and are there, by their index."""
        wanted = dict(enumerate(prompt.replace(SUBJECT_SLOT, self.phrase) for prompt in self.sample_prompts))
        return {
            index
            for (at, index), path in self.samples.items()
            if at == step and self.sampled[at, index] == wanted.get(index) and (self.run.path / path).exists()
        }

    def has_drift(self, step: int) -> bool:
        """Whether the drift of a step was measured."""
        return any(at == step for at, _ in self.drifts)

    def splits_until(self, step: int) -> list[SplitMeasured]:
        """Those measured at a step or before."""
        return [split for split in self.splits if split.step <= step]

    def newest_sample(self, prompt: str) -> tuple[int, str] | None:
        """Step and path of the newest sample of a prompt."""
        found = [(*at, path) for at, path in self.samples.items() if self.sampled[at] == prompt]
        return max(((step, path) for step, _, path in found), default=None)

    def read_on(self) -> bool:
        """Take in the events since the last reading; returns whether there were any.

        Raises:
            RunError: they cannot be read.
        """
        events, self.cursor = self.run.events(self.cursor, is_whole=False)
        self.add(events)
        return bool(events)

    def add(self, events: Iterable[Event]) -> None:
        """Take in what happened next."""
        for event in events:
            self._add(event)

    def _add(self, event: Event) -> None:
        """What happens: sessions, stages, steps."""
        match event:
            case RunStarted():
                self._start(event)
            case StageChanged():
                self.stage, self.message, self.fraction = event.stage, event.message, event.fraction
            case StepFinished():
                self._step(event)
            case Noticed():
                self._notice(event.message)
            case RunFinished():
                self.state, self.message = ("finished" if event.is_complete else "stopped"), event.reason
                self.ended_by_itself = self.ended_by_itself or event.is_by_itself
            case RunFailed() if self.state in ("finished", "stopped"):  # a wish to go on; what was learnt is as it was
                self._notice(event.message)
            case RunFailed():
                self.state, self.message = "failed", event.message
            case _:
                self._keep(event)

    def _keep(self, event: Event) -> None:
        """What comes of it: pictures, measurements, files."""
        match event:
            case DriftMeasured():
                self.drifts = before(self.drifts, event.step)
                self.drifts.append((event.step, event.drift))
            case SplitMeasured():
                self.splits = [*self.splits_until(event.step - 1), event]
            case ViewsShown():
                self.views = event.paths
            case SampleReady():
                self.samples[event.step, event.index] = event.path
                self.sampled[event.step, event.index] = event.prompt
            case PromptsChanged():
                self.sample_prompts = event.prompts
                self.samples = {at: path for at, path in self.samples.items() if at[0] != event.step}
            case CheckpointSaved():
                self.saved_step = event.step
                self.step = max(self.step, event.step)
            case ExportReady():
                self.exports[event.layout] = event
            case NewerEvent():
                self.is_newer = True
            case _:
                self._judge(event)

    def _judge(self, event: Event) -> None:
        """What a verdict is made of: the photos, the pictures, the end of it."""
        match event:
            case PhotosJudged():
                self.judged = [event]
            case PicturesJudged() | PicturesSeen() if len(self.judged) < MOST_JUDGED:
                self.judged.append(event)
            case VerdictReached() if self.judged and isinstance(self.judged[0], PhotosJudged):
                pictures = tuple(one for one in self.judged if isinstance(one, PicturesJudged))
                seen = tuple(one for one in self.judged if isinstance(one, PicturesSeen))
                if pictures:
                    self.verdict = Verdict(self.judged[0], pictures, event.message, event.seconds, seen)
                self.judged = []
            case _:
                pass

    def _start(self, event: RunStarted) -> None:
        """A session goes on from a checkpoint: steps after it are about to be done again."""
        self.state, self.stage, self.message, self.recent_notices = "training", "", "", []
        self.step, self.last_step = event.first_step, event.last_step
        self.drifts = before(self.drifts, event.first_step + 1)
        self.splits = self.splits_until(event.first_step)
        if self.verdict and self.verdict.pictures[-1].step > event.first_step:
            self.verdict = None
        self.recent_seconds.clear()

    def _step(self, event: StepFinished) -> None:
        self.step = event.step
        self.memory = event.memory_bytes or self.memory
        self.recent_seconds.append(event.seconds)

    def _notice(self, sentence: str) -> None:
        self.recent_notices = [*self.recent_notices, sentence][-NOTICES_KEPT:]


@dataclass
class History(RunSummary):
    """A run so far with its curves, each a list of (step, value); they take about 1 kB a step, some of which a long run keeps."""

    losses: list[tuple[int, float]] = field(default_factory=list)
    gammas: list[tuple[int, tuple[float, ...]]] = field(default_factory=list)
    references: list[tuple[int, float]] = field(default_factory=list)
    kept_features: list[tuple[int, float]] = field(default_factory=list)
    kept_attention: list[tuple[int, float]] = field(default_factory=list)
    chances: list[tuple[int, float]] = field(default_factory=list)

    @classmethod
    def empty(cls) -> "History":
        """The history of no run."""
        return cls(Run(Path()), "thing", "", (), 1)

    @property
    def is_dense(self) -> bool:
        """Whether it followed a run for so long that one that is read anew, with some steps left out, is far smaller."""
        return len(self.losses) > 2 * STEPS_KEPT

    def copy(self) -> "History":
        """One that does not change when this one reads on; the events themselves are shared."""
        own = {name: copy.copy(value) for name, value in vars(self).items() if isinstance(value, list | dict | deque)}
        return replace(self, **own)

    def _start(self, event: RunStarted) -> None:
        super()._start(event)
        after = event.first_step + 1
        self.losses, self.gammas = before(self.losses, after), before(self.gammas, after)
        self.references, self.chances = before(self.references, after), before(self.chances, after)
        self.kept_features, self.kept_attention = before(self.kept_features, after), before(self.kept_attention, after)

    def _step(self, event: StepFinished) -> None:
        super()._step(event)
        self.losses.append((event.step, event.loss))
        if event.gamma and len(event.gamma) == len(self.gammas[0][1] if self.gammas else event.gamma):
            self.gammas.append((event.step, event.gamma))
        for kept, value in (
            (self.references, event.reference_loss),
            (self.kept_features, event.stabilization),
            (self.kept_attention, event.alignment),
            (self.chances, statistics.fmean(event.chances) if event.chances else None),
        ):
            if value is not None:
                kept.append((event.step, value))


def before(points: list[tuple[int, Point]], step: int) -> list[tuple[int, Point]]:
    """The points of steps before one."""
    if not points or points[-1][0] < step:  # as always but after a resume; a copy at each event would take minutes
        return points
    return [point for point in points if point[0] < step]


def summarize(run: Run) -> RunSummary:
    """The summary of a run; this process reads each event once, however often it asks. Only to be read, and at once.

    Raises:
        RunError: the run's settings or events cannot be read.
    """
    return _summaries.of(run)


def follow(run: Run) -> History:
    """The history of a run until now, the caller's own; this process reads each event once, however many pages ask.

    Raises:
        RunError: the run's settings or events cannot be read.
    """
    return _histories.of(run, History.copy)


def checkpoint_of(run: Run, which: str = "kept") -> Checkpoint:
    """The intact checkpoint called `kept` (the best; the newest where none could be told), `last`, or of a step.

    Raises:
        RunError: there is none, the one asked for is damaged, or the run cannot be read.
    """
    if which == "kept":
        kept = summarize(run).kept_step
        which = str(kept) if kept else "last"
    return run.checkpoint(which)


def refuse_restart(run: Run) -> None:
    """Raise if a run was started before, and must be resumed instead.

    Raises:
        BusyError: it was.
    """
    if summarize(run).state != "new":
        raise BusyError(f"Run {run.id} was started before; resume it instead.")


_summaries = Folds(RunSummary.of, SUMMARIES_KEPT)
_histories = Folds(History.of, HISTORIES_KEPT)
