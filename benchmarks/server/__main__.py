"""`python -m benchmarks.server [--only part ...]`: the running app asked for what it must not give, and loaded; a table.

All requests go to 127.0.0.1. Each measurement is a line of `measured.jsonl`; the table stands in docs/reliability.md.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.reliability.report import PAGE, between
from benchmarks.server import attacks, loads, odd
from benchmarks.server.modes import NAMES, Row, started
from tests.photos import draw_photos
from tests.toy import save_toy_base

MEASURED = Path(__file__).with_name("measured.jsonl")
BEGIN, END = "<!-- server -->", "<!-- /server -->"
COUNTS = {"joins": 200, "pages": 10_000, "visits": 1000, "passers-by": 10_000}


def main(arguments: list[str] | None = None) -> int:
    """Measure the parts and write the table; 0 if nothing was given that should not be."""
    parser = argparse.ArgumentParser(description="The running app, attacked and loaded.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts; all unless given")
    parser.add_argument(
        "--count", type=int, default=0, help="so many orders, page loads or requests, in place of the usual number"
    )
    options = parser.parse_args(arguments)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    defects = 0
    with tempfile.TemporaryDirectory() as place:
        for part in options.only:
            (folder := Path(place) / part).mkdir()  # what one part leaves behind is not in the next one's way
            rows = []
            for row in PARTS[part](folder, options.count):
                rows.append({"part": part, **row})
                defects += bool(row["wrong"] or row["broken"])
                print(json.dumps(rows[-1]), flush=True)
            _keep(part, rows)
    between(PAGE, BEGIN, END, table(_kept()))
    return int(defects > 0)


def table(rows: list[Row]) -> str:
    """A line for each measurement."""
    heads = ("mode", "how many", "wrong", "answers of 5xx", "MB before", "first third", "last third", "spread", "most")
    lines = [f"| | {' | '.join(heads)} |", f"| --- | --- {'| ---: ' * (len(heads) - 1)}|"]
    for row in rows:
        memory = list(row.get("MB", dict.fromkeys(range(5), "")).values())
        cells = [row["mode"], f"{row['count']:,}", row["wrong"], row["broken"], *memory]
        handles = f"; handles {min(row['handles'])} to {max(row['handles'])}" if row.get("handles") else ""
        lines.append(f"| {row['what']}{handles} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _attacks(place: Path, _count: int) -> Iterator[Row]:
    for name in NAMES:
        with started(name, place) as mode:
            yield attacks.routes(mode)
            yield attacks.remote(mode)
            yield attacks.traversals(mode)
            if name == "Space":
                yield attacks.strangers(mode)


def _joins(place: Path, count: int) -> Iterator[Row]:
    for name in NAMES:
        with started(name, place) as mode:
            yield loads.joins(mode, count or COUNTS["joins"])


def _pages(place: Path, count: int) -> Iterator[Row]:
    for name in ("local", "Space"):
        with started(name, place) as mode:
            yield loads.page_loads(mode, count or COUNTS["pages"])
            if name == "Space":
                yield loads.renewed_loads(mode, count or COUNTS["pages"])


def _visits(place: Path, count: int) -> Iterator[Row]:
    for name in ("local", "Space"):
        with started(name, place) as mode:
            yield loads.visits(mode, count or COUNTS["visits"])


def _odd(place: Path, _count: int) -> Iterator[Row]:
    for name in NAMES:
        with started(name, place) as mode:
            yield odd.requests(mode)
            yield odd.connections(mode)


def _passers_by(place: Path, count: int) -> Iterator[Row]:
    with started("Space", place) as mode:
        yield loads.passers_by(mode, count or COUNTS["passers-by"])


def _canary(place: Path, _count: int) -> Iterator[Row]:
    base, photos = save_toy_base(place / "toy"), draw_photos(place / "photos")
    yield loads.canary(place, base, photos)
    yield loads.canary_on_a_space(place, base, photos)


PARTS: dict[str, Callable[[Path, int], Iterator[Row]]] = {
    "attacks": _attacks,
    "odd": _odd,
    "joins": _joins,
    "pages": _pages,
    "visits": _visits,
    "passers-by": _passers_by,
    "canary": _canary,
}


def _kept() -> list[Row]:
    lines = MEASURED.read_text(encoding="utf-8").splitlines() if MEASURED.exists() else []
    return [json.loads(line) for line in lines]


def _keep(part: str, rows: list[Row]) -> None:
    others = [row for row in _kept() if row["part"] != part]
    MEASURED.write_text("".join(json.dumps(row) + "\n" for row in others + rows), encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
