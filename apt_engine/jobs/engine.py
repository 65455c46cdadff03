"""The engine as the page sees it: one protocol, and what an engine says about itself. Imports no torch.

Three classes implement it. `worker.Worker` owns a child process that holds the device; `zerogpu.ZeroGpuEngine` borrows a
GPU call by call; `queue.QueuedEngine` is one visitor's place in the queue before one of the other two.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from apt_engine.errors import EngineError
from apt_engine.runs.store import RunStore
from apt_engine.settings.sampling import SampleRequest


@dataclass(frozen=True)
class EngineStatus:
    """What an engine does at the moment.

    Attributes:
        job: what it is busy with; waiting means that jobs of others come first.
        run_id: the run that is trained or waits to be, or while idle the one whose training failed last; empty otherwise.
        message: the sentence of the last failure; empty when there was none.
        ahead: how many jobs come first while this one waits.
    """

    job: Literal["idle", "waiting", "training", "sampling", "exporting", "judging", "describing"] = "idle"
    run_id: str = ""
    message: str = ""
    ahead: int = 0


@dataclass(frozen=True)
class SampleProgress:
    """How far a sampling job, an export, a verdict or a description is.

    Attributes:
        message: what is being done, in a few words.
        fraction: of the work, 0 to 1; None where unknown.
        images: the finished pictures; of an export the finished files, of a verdict none.
        preview: a small picture of what the next one seems to become; the file is gone when the job ends.
        captions: what a captioner said of the first photos.
    """

    message: str
    fraction: float | None
    images: tuple[Path, ...]
    preview: Path | None = None
    captions: tuple[str, ...] = ()


class Engine(Protocol):
    """Trains runs and draws pictures, one job at a time. Safe to call from several threads."""

    @property
    @abstractmethod
    def status(self) -> EngineStatus: ...

    @abstractmethod
    def refuse_if_busy(self) -> None:
        """Raise if a job waits or is under way.

        Raises:
            BusyError: says which.
        """

    @abstractmethod
    def start_training(self, run_id: str, *, resume: bool = False) -> None:
        """Submit the training of a run, from its beginning or from its last checkpoint; returns at once.

        Raises:
            BusyError: there is a job already, or the run was started before and `resume` is not set.
            RunError: there is no such run.
        """

    @abstractmethod
    def sample(self, request: SampleRequest) -> Iterator[SampleProgress]:
        """Submit a request for pictures; yields how far they are. They are kept under `generated/` in the data directory.

        Raises:
            BusyError: there is a job already.
            EngineError: the pictures cannot be made; says why.
        """

    @abstractmethod
    def export(self, run_id: str, checkpoint: str) -> Iterator[SampleProgress]:
        """Submit the writing of a checkpoint's LoRA files for other programs; yields how far that is.

        Args:
            run_id: the run.
            checkpoint: kept, last, or a step.

        Raises:
            BusyError: there is a job already.
            EngineError: the files cannot be written, or do not hold what was trained; says why.
        """

    @abstractmethod
    def judge(self, run_id: str) -> Iterator[SampleProgress]:
        """Submit the judging of a run's checkpoints; yields how far that is. The verdict is told in the run's events.

        Raises:
            BusyError: there is a job already.
            EngineError: the run cannot be judged; says why.
        """

    def describe(self, captioner: str, photos: Sequence[Path]) -> Iterator[SampleProgress]:  # noqa: ARG002 - of those that can
        """Submit photos to a captioner of the hub's cache; yields how far it is. Only one's own computer offers it.

        Raises:
            BusyError: there is a job already.
            EngineError: the captioner cannot be used; says why.
        """
        raise EngineError(f"Here photos are not described by {captioner}; write the captions by hand.")

    @abstractmethod
    def stop(self) -> None:
        """Ask the job to stop after its step, or take it out of the queue; returns at once.

        A training draws the samples of that step first, unless it is asked twice.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop the job and let go of the device."""


class SharedEngine(Engine, Protocol):
    """An engine that can work for several stores of runs; a job queue stands on it."""

    @abstractmethod
    def start_training(self, run_id: str, *, resume: bool = False, store: RunStore | None = None) -> None:
        """As `Engine.start_training`, for a run of another store."""

    @abstractmethod
    def sample(self, request: SampleRequest, store: RunStore | None = None) -> Iterator[SampleProgress]:
        """As `Engine.sample`, with the runs of another store."""

    @abstractmethod
    def export(self, run_id: str, checkpoint: str, store: RunStore | None = None) -> Iterator[SampleProgress]:
        """As `Engine.export`, for a run of another store."""

    @abstractmethod
    def judge(self, run_id: str, store: RunStore | None = None) -> Iterator[SampleProgress]:
        """As `Engine.judge`, for a run of another store."""


def describe_status(status: EngineStatus) -> str:
    """What an engine does, in a word or two."""
    if status.job == "waiting":
        return f"in line, {status.ahead} before you" if status.ahead else "your turn comes next"
    words = {"idle": "ready", "sampling": "drawing", "exporting": "writing files"}
    return words.get(status.job, status.job)
