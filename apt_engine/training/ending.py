"""Why a session of training ends, and how a wish to stop is heard: asked of every process, obeyed by all at the same place."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from apt_engine.sampling.sampler import Stopped
from apt_engine.training.processes import Processes

SECONDS_FOR_PICTURES = 60.0  # after a press of Stop; as many as a visitor's next in line waits for it


@dataclass(frozen=True)
class Ending:
    """How a session's loop ended.

    Attributes:
        kind: complete, all steps are done; enough, by itself; stopped, as asked; paused, to go on in another session; broken, by
            its numbers.
        step: the last one done.
        reason: a sentence for the user.
    """

    kind: Literal["complete", "enough", "stopped", "paused", "broken"]
    step: int
    reason: str


class StopSignal:
    """A wish to stop. Once heard it stays.

    Args:
        should_stop: whether it is wished, in this process.
        processes: all that must agree.
    """

    def __init__(self, should_stop: Callable[[], bool], processes: Processes) -> None:
        self._should_stop = should_stop
        self._processes = processes
        self._is_heard = False

    def is_heard(self) -> bool:
        """Whether any process heard it. All processes ask together: each waits here for the others."""
        self._is_heard = self._processes.any(self._hear())
        return self._is_heard

    def obey(self) -> None:
        """Leave off work that all processes do alike; to be called by all of them together.

        Raises:
            Stopped: any process heard the wish.
        """
        if self.is_heard():
            raise Stopped("Stopped, as asked.")

    def obey_alone(self, _fraction: float = 0.0) -> None:
        """Leave off work that this process does while the others wait; the wish stays, so they hear of it afterwards.

        Raises:
            Stopped: this process heard the wish.
        """
        if self._hear():
            raise Stopped("Stopped, as asked.")

    def is_heard_alone(self) -> bool:
        """Whether this process heard it; it stays, so the others hear of it afterwards."""
        return self._hear()

    def _hear(self) -> bool:
        self._is_heard = self._is_heard or self._should_stop()
        return self._is_heard


class LastPictures:
    """How long pictures of a step are drawn on once a wish to stop was heard.

    Args:
        stop: the wish.
        should_hurry: whether there is no time for them at all: a second wish, or the program is to end.
        seconds: they may take after the wish.
    """

    def __init__(
        self, stop: StopSignal, should_hurry: Callable[[], bool], seconds: float = SECONDS_FOR_PICTURES
    ) -> None:
        self._stop = stop
        self._should_hurry = should_hurry
        self._seconds = seconds
        self._until = float("inf")

    def obey(self, _fraction: float = 0.0) -> None:
        """To be called between denoising steps.

        Raises:
            Stopped: the time is over, or there is none.
        """
        now = time.monotonic()
        if self._until == float("inf") and self._stop.is_heard_alone():
            self._until = now + self._seconds
        if now >= self._until or self._should_hurry():
            raise Stopped("Stopped, as asked.")
