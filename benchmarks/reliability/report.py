"""The table of docs/reliability.md, between two comments; what stands around it is written by hand."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.reliability import long_run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"
BEGIN, END = "<!-- ends -->", "<!-- /ends -->"
BEGIN_LONG, END_LONG = "<!-- long -->", "<!-- /long -->"
HEADS = ("how often", "too late", "announced and lost", "not as undisturbed", "stuck", "seconds, median", "at most")


def is_defect(row: Mapping[str, Any]) -> bool:
    """Whether something was lost, wrong or stuck."""
    return bool(row["lost"] or row["wrong"] or row["is_stuck"])


def table(rows: Iterable[Mapping[str, Any]]) -> str:
    """A line for each kind of end. One that came too late, after the run's own, is counted apart: it shows nothing."""
    kinds: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        kinds[str(row["kind"])].append(row)
    lines = [f"| | {' | '.join(HEADS)} |", f"| --- {'| ---: ' * len(HEADS)}|"]
    for kind, found in kinds.items():
        late = [row for row in found if row.get("is_late")]
        seconds = [row["seconds"] for row in found if row["seconds"]]
        wrong = [sum(bool(row[name]) for row in found) for name in ("lost", "wrong", "is_stuck")]
        counts = [len(found) - len(late), len(late), *wrong]
        times = (f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}") if seconds else ("", "")
        lines.append(f"| {kind} | {' | '.join([*map(str, counts), *times])} |")
    return "\n".join(lines)


def write(rows: Iterable[Mapping[str, Any]]) -> None:
    """Put the table into the page."""
    between(PAGE, BEGIN, END, table(rows))


def write_long(rows: Sequence[Mapping[str, Any]]) -> None:
    """Put the table of the long run into the page."""
    between(PAGE, BEGIN_LONG, END_LONG, long_run.table(rows))


def between(page: Path, begin: str, end: str, text: str) -> None:
    """Replace what stands between two marks of a page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(begin)
    after = rest.partition(end)[2]
    page.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
