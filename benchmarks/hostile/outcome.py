"""What becomes of a hostile file: accepted and right, or one sentence. Anything else is a defect."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from apt_engine.errors import EngineError

SENTINEL = "APT_HOSTILE_SENTINEL"  # the environment variable that names the file which code inside a file would make
LONGEST_SENTENCE = 700
MOST_SECONDS = 10.0


@dataclass(frozen=True)
class Outcome:
    """Of one file: `verdict` is accepted, refused or a defect; `words` are the sentence, or what was wrong."""

    name: str
    verdict: str
    seconds: float
    words: str = ""

    @property
    def is_defect(self) -> bool:
        return self.verdict not in ("accepted", "refused") or self.seconds > MOST_SECONDS


def judge(name: str, act: Callable[[], Any], wrong: Callable[[Any], str] = lambda _: "") -> Outcome:
    """Do something with a hostile file.

    Args:
        name: of the file.
        act: does it.
        wrong: says of what came of it why that is not right; empty if it is.
    """
    started = time.monotonic()
    try:
        result = act()
    except EngineError as error:
        verdict, words = "refused", str(error)
        if "\n" in words or len(words) > LONGEST_SENTENCE or not words.endswith((".", ".)")):
            verdict = "no sentence"
    except BaseException as error:  # noqa: BLE001 - a panic in Rust is no Exception
        verdict, words = "untyped", f"{type(error).__name__}: {error}"[:300]
    else:
        words = wrong(result)
        verdict = "wrong" if words else "accepted"
    return Outcome(name, verdict, time.monotonic() - started, words)
