"""A learning rate that ends well whatever the load of the machine: a function of the clock, not of the step."""

import math
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta


@dataclass
class Clock:
    """How much of a training stage's time is spent, over all its interruptions.

    Args:
        deadline: When the stage must end, in seconds since the epoch.
        spent: Seconds of training before this start.
    """

    deadline: float
    spent: float = 0.0
    started: float = field(default_factory=time.time)

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return self.spent + time.time() - self.started

    @property
    def progress(self) -> float:
        """The spent share of all the time this stage gets, 0 to 1."""
        seconds, left = self.seconds, max(self.deadline - time.time(), 0.0)
        return seconds / (seconds + left) if left else 1.0


def read_deadline(until: str | None, minutes: float) -> float:
    """Turns "--until HH:MM" (today, or tomorrow if that is over by half a day) or "--minutes" into a moment."""
    if until is None:
        return time.time() + minutes * 60
    now = datetime.now()
    hour, minute = (int(part) for part in until.split(":"))
    moment = now.replace(hour=hour, minute=minute, second=0, microsecond=0)
    if moment < now - timedelta(hours=12):
        moment += timedelta(days=1)
    return moment.timestamp()


def cosine_rate(progress: float, warm_up: float = 0.02) -> float:
    """A short linear warm-up, then half a cosine down to a hundredth."""
    if progress < warm_up:
        return max(progress / warm_up, 0.02)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up))) / 2


def trapezoid_rate(progress: float, warm_up: float = 0.02, warm_down: float = 0.35) -> float:
    """Linear up, constant, then linear down to a hundredth over the last `warm_down` of the time."""
    if progress < warm_up:
        return max(progress / warm_up, 0.02)
    return max(min(1.0, (1 - progress) / warm_down), 0.01)
