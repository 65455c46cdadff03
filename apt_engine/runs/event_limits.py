"""What a value in an event may be, beside its type: a file of events may be damaged, or come from a stranger."""

import math
from pathlib import PurePosixPath
from typing import Any

LARGEST = 1e15  # bytes, seconds, steps: more than any has, and exact as a float
PATHS = frozenset({"path", "paths"})  # relative to the run's folder
FINITE = frozenset({"fraction", "seconds", "gamma", "chances"})  # losses and the like may become infinite
LAST_TIME = 3e10  # seconds since 1970; the year 2920, further than which not every system can tell a date
MOST_ITEMS = 10_000


def check(name: str, value: Any) -> Any:
    """The value of a field as it is; of a list, each item counts.

    Raises:
        ValueError: it is negative where things are counted, too large or long, not finite, no text, or a path to elsewhere.
    """
    if isinstance(value, tuple):
        if len(value) > MOST_ITEMS:
            raise ValueError(f"{name} has too many items")
        for item in value:
            _check_one(name, item)
    else:
        _check_one(name, value)
    return value


def _check_one(name: str, value: Any) -> None:
    if isinstance(value, str):
        _check_text(name, value)
    elif name == "time":
        if not 0 <= value <= LAST_TIME:
            raise ValueError(f"{name} is out of range")
    elif isinstance(value, int):
        if not 0 <= value <= LARGEST:
            raise ValueError(f"{name} is out of range")
    elif isinstance(value, float) and name in FINITE and not math.isfinite(value):
        raise ValueError(f"{name} cannot be {value}")


def _check_text(name: str, text: str) -> None:
    text.encode()  # half of a surrogate pair can be read from JSON and never be written again
    if name in PATHS and (
        not text or text.startswith("/") or {*":\\\0"} & {*text} or ".." in PurePosixPath(text).parts
    ):
        raise ValueError(f"{name} leads out of the run: {text[:80]!r}")
