"""The file of a run's events, read in little time and memory however long it is and whatever else stands in it."""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from apt_engine.reading.regular import open_regular
from apt_engine.runs.events import Event, from_json

STEPS_KEPT = 5_000  # at least, of a long file: a curve has no use for more
# How `to_json` begins the lines that are written again and again, and how many are kept: of the stages the last one counts.
FREQUENT = {b'{"kind": "StepFinished"': STEPS_KEPT, b'{"kind": "StageChanged"': 100}
LAST_KEPT = 20  # of each of these, whatever else is left out: they tell the pace and where the run stands
MOST_LINES = 100_000  # of other kinds; where there are more, only the last part of the file is looked at
LONGEST_LINE = 1_000_000  # bytes
BLOCK = 1 << 22
TAIL = 1 << 18  # bytes that are looked at however short their lines are


def read_events(path: Path, since: int, *, is_whole: bool) -> tuple[list[Event], int]:
    """The events after byte `since`, and the byte to go on from: the end of the last whole line.

    Args:
        path: of the file.
        since: where a line begins.
        is_whole: whether all of them are wanted; else a long account is thinned out evenly.

    Raises:
        OSError: it cannot be read.
    """
    events: list[Event] = []
    end = since
    with open_regular(path) as file:
        start, counts = (since, {}) if is_whole else _look_over(file, since)
        seen = dict.fromkeys(counts, 0)
        for end, line in _lines(file, start):  # noqa: B007 - the last one is returned
            kind = line[:23]
            if kind in counts:
                seen[kind] += 1
                every = 1 + counts[kind] // FREQUENT[kind]
                if seen[kind] % every and seen[kind] <= counts[kind] - LAST_KEPT:
                    continue
            event = _event(line)
            if event:
                events.append(event)
    return events, end


def _look_over(file: BinaryIO, since: int) -> tuple[int, dict[bytes, int]]:
    """Where to begin, and how many frequent lines come after that: a quick count, which may miss one across two blocks."""
    file.seek(since)
    counts = dict.fromkeys(FREQUENT, 0)
    lines = size = 0
    while block := file.read(BLOCK):
        lines, size = lines + block.count(b"\n"), size + len(block)
        for kind in counts:
            counts[kind] += block.count(kind)
    others = lines - sum(counts.values())
    share = min(1.0, MOST_LINES / max(1, others))
    start = min(round(size * (1 - share)), max(0, size - TAIL))
    return since + start, {kind: round(count * share) for kind, count in counts.items()}


def _lines(file: BinaryIO, start: int) -> Iterator[tuple[int, bytes]]:
    """Each whole line and where it ends. One that is too long is empty; a last one without its end waits to be finished."""
    file.seek(start)
    end = start
    while line := file.readline(LONGEST_LINE):
        end += len(line)
        if line.endswith(b"\n"):
            yield end, line
        elif len(line) == LONGEST_LINE:
            while line and not line.endswith(b"\n"):
                line = file.readline(LONGEST_LINE)
                end += len(line)
            yield end, b""


def _event(line: bytes) -> Event | None:
    """None for a line torn by a crash, or one that never was an event."""
    try:
        return from_json(line.decode())
    except ValueError:
        return None
