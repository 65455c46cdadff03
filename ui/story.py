"""What a run's events amount to: enough to draw the Watch tab, updated event by event. Pure; reads no disk."""

import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import TypeVar

from apt_engine.jobs.engine import EngineStatus
from apt_engine.runs.events import (
    CheckpointSaved,
    DriftMeasured,
    Event,
    ExportReady,
    Noticed,
    RunFailed,
    RunFinished,
    RunStarted,
    SampleReady,
    StageChanged,
    StepFinished,
    ViewsShown,
)
from apt_engine.settings.training import TrainingConfig

STEPS_TIMED = 20
WORN = 0.5  # from here on the indicator is worth a word
Point = TypeVar("Point")
NOTICES_KEPT = 3


@dataclass
class Story:
    """One run so far. `state` is new, training, finished, stopped or failed, as the events alone tell it."""

    run_id: str
    subject: str
    prompts: tuple[str, ...]
    last_step: int
    state: str = "new"
    stage: str = ""
    message: str = ""
    fraction: float | None = None
    step: int = 0
    saved_step: int = 0
    ahead: int = 0
    losses: list[tuple[int, float]] = field(default_factory=list)
    gammas: list[tuple[int, tuple[float, ...]]] = field(default_factory=list)
    references: list[tuple[int, float]] = field(default_factory=list)
    kept_features: list[tuple[int, float]] = field(default_factory=list)
    kept_attention: list[tuple[int, float]] = field(default_factory=list)
    chances: list[tuple[int, float]] = field(default_factory=list)
    drifts: list[tuple[int, float]] = field(default_factory=list)
    views: tuple[str, ...] = ()
    memory: int = 0
    samples: dict[tuple[int, int], str] = field(default_factory=dict)
    exports: dict[str, ExportReady] = field(default_factory=dict)
    notices: list[str] = field(default_factory=list)
    recent_seconds: deque[float] = field(default_factory=lambda: deque(maxlen=STEPS_TIMED))

    @classmethod
    def of(cls, run_id: str, config: TrainingConfig, photo_count: int) -> "Story":
        """The story of a run before its first event."""
        prompts = tuple(config.fill(prompt) for prompt in config.sample_prompts) if config.sample_every_steps else ()
        return cls(run_id, config.subject, prompts, config.steps_for(photo_count))

    @classmethod
    def empty(cls) -> "Story":
        """The story of no run."""
        return cls("", "thing", (), 1)

    def tell(self, events: list[Event]) -> None:
        """Take in what happened since."""
        for event in events:
            self._tell(event)

    def _tell(self, event: Event) -> None:
        """What happens: sessions, stages, steps."""
        match event:
            case RunStarted():
                self._start(event)
            case StageChanged():
                self.stage, self.message, self.fraction = event.stage, event.message, event.fraction
            case StepFinished():
                self._step(event)
            case Noticed():
                self.notices = [*self.notices, event.message][-NOTICES_KEPT:]
            case RunFinished():
                self.state, self.message = ("finished" if event.is_complete else "stopped"), event.reason
            case RunFailed() if self.state == "finished":  # a wish to go on; what was learnt is as it was
                self.notices = [*self.notices, event.message][-NOTICES_KEPT:]
            case RunFailed():
                self.state, self.message = "failed", event.message
            case _:
                self._keep(event)

    def _keep(self, event: Event) -> None:
        """What comes of it: pictures, measurements, files."""
        match event:
            case DriftMeasured():
                self.drifts = [*before(self.drifts, event.step), (event.step, event.drift)]
            case ViewsShown():
                self.views = event.paths
            case SampleReady():
                self.samples[event.step, event.index] = event.path
            case CheckpointSaved():
                self.saved_step = event.step
            case ExportReady():
                self.exports[event.layout] = event
            case _:
                pass

    def _step(self, event: StepFinished) -> None:
        self.step = event.step
        self.losses.append((event.step, event.loss))
        if event.gamma:
            self.gammas.append((event.step, event.gamma))
        for kept, value in (
            (self.references, event.reference_loss),
            (self.kept_features, event.stabilization),
            (self.kept_attention, event.alignment),
            (self.chances, statistics.fmean(event.chances) if event.chances else None),
        ):
            if value is not None:
                kept.append((event.step, value))
        self.memory = event.memory_bytes or self.memory
        self.recent_seconds.append(event.seconds)

    def _start(self, event: RunStarted) -> None:
        """A session goes on from a checkpoint: steps after it are about to be done again."""
        self.state, self.stage, self.message, self.notices = "training", "", "", []
        self.step, self.last_step = event.first_step, event.last_step
        after = event.first_step + 1
        self.losses, self.gammas = before(self.losses, after), before(self.gammas, after)
        self.references, self.chances = before(self.references, after), before(self.chances, after)
        self.kept_features, self.kept_attention = before(self.kept_features, after), before(self.kept_attention, after)
        self.drifts = before(self.drifts, after)
        self.recent_seconds.clear()

    @property
    def seconds_per_step(self) -> float | None:
        """The median of the last steps' durations; None before the first."""
        return statistics.median(self.recent_seconds) if self.recent_seconds else None

    def state_under(self, status: EngineStatus) -> str:
        """The state given what the engine does: also waiting in line, waking, before a session's first event, and interrupted.

        Only the engine knows whether a run without an end is still worked on.
        """
        if status.job == "waiting" and status.run_id == self.run_id:
            self.ahead = status.ahead
            return "waiting"
        if status.job == "training" and status.run_id == self.run_id:
            return "training" if self.state == "training" else "waking"
        return "interrupted" if self.state == "training" else self.state

    def sentence(self, state: str) -> str:
        """What is going on, for somebody who sees this for the first time."""
        where = f"step {self.step:,} of {self.last_step:,}"
        match state:
            case "new":
                return f"Ready to learn your {self.subject}; nothing is trained yet."
            case "waiting":
                return f"Your {self.subject} " + (
                    f"is in line: {self.ahead} before it." if self.ahead else "comes next."
                )
            case "waking":
                return f"Waking the engine for your {self.subject}."
            case "training":
                is_learning = self.stage in ("", "training")
                return f"Learning your {self.subject} ({where}).{self._remark()}" if is_learning else self.message
            case "finished":
                return f"It knows your {self.subject}. {self.message}"
            case "stopped":
                return f"{self.message} Resume goes on from there."
            case "interrupted":
                kept = f"from step {self.saved_step:,}, the last one saved" if self.saved_step else "from the beginning"
                return f"Training was interrupted at {where}; Resume goes on {kept}."
            case _:
                return self.message

    def _remark(self) -> str:
        """How closely the photos are fitted, and what is done about it; nothing while there is nothing to say."""
        if not self.gammas:
            return ""
        gamma = self.gammas[-1][1]
        worn = max(gamma)
        if worn < WORN:
            return ""
        what = ("Fine detail", "Shape", "Layout")[min(2, 3 * gamma.index(worn) // len(gamma))]
        remark = f" {what} fits the photos closely ({worn:.2f})"
        chance = statistics.fmean(chance for _, chance in self.chances[-STEPS_TIMED:]) if self.chances else 0.0
        return f"{remark}, so {_share(chance)} of the photos are now re-framed." if chance >= 0.05 else f"{remark}."


def before(points: list[tuple[int, Point]], step: int) -> list[tuple[int, Point]]:
    """The points of steps before one."""
    return [point for point in points if point[0] < step]


def _share(chance: float) -> str:
    return f"{round(10 * chance)} in 10" if chance >= 0.1 else "some"
