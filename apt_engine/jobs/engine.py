"""What an engine says about itself while it trains or draws. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class EngineStatus:
    """`job` is idle, waiting, training or sampling; `message` the sentence of the last failure, empty when there was none.

    `ahead` is how many jobs come first while this one waits.
    """

    job: str = "idle"
    run_id: str = ""
    message: str = ""
    ahead: int = 0


@dataclass(frozen=True)
class SampleProgress:
    """How far a sampling job is; `images` are the finished pictures, `fraction` (0 to 1) None where unknown.

    `preview` is a small picture of what the next one seems to become; it is gone when the job ends.
    """

    message: str
    fraction: float | None
    images: tuple[Path, ...]
    preview: Path | None = None


def describe_status(status: EngineStatus) -> str:
    """What an engine does, in a word or two."""
    if status.job == "waiting":
        return f"in line, {status.ahead} before you" if status.ahead else "your turn comes next"
    return {"idle": "ready", "training": "training", "sampling": "drawing"}[status.job]
