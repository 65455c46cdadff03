"""What is claimed of the verdict is what its rows say."""

from typing import Any

import numpy
import pytest

from benchmarks.evidence.curves import Trajectory, trajectories
from benchmarks.evidence.rows import Finished, Judged, Photos, Pictures, Row, read
from benchmarks.evidence.verdict import MEASURED, POINTS, ranks, report, spearman
from benchmarks.likeness import ROOT


def judged(subject: str, step: int, native: float) -> Judged:
    """One whose measures all grow together, but the prompt's, which falls."""
    return Judged(
        subject=subject,
        method="plain" if step else "base",
        seed=1 if step else 0,
        step=step,
        likeness=[native],
        follows=[-native],
        copies=[native],
        drift=native,
        photos={},
    )


def seen(subject: str, values: dict[int, float]) -> list[Row]:
    """What others saw of a run: all measures grow together, but the prompt's."""
    of_base: dict[str, Any] = {"subject": subject, "method": "base", "seed": 0, "step": 0}
    of_run: dict[str, Any] = {"subject": subject, "method": "plain", "seed": 1}
    rows: list[Row] = [Photos(**of_base, two_views=0.7, nearest=[0.8])]
    for step, value in values.items():
        own = {**of_run, "step": step} if step else of_base
        measures: dict[str, Any] = {"likeness": [value], "copies": [value], "moved": [value], "captioned": [value]}
        rows.append(Pictures(**own, **measures, follows=[-value], drift=value))
    return [*rows, Finished(**of_run, step=500, seconds=1.0, photos=5, settings={}, version="x")]


def rows_of(role: str) -> list[Judged]:
    return [row for row in read(MEASURED / f"verdict-{role}.jsonl") if isinstance(row, Judged)]


def runs_of(role: str) -> list[Trajectory]:
    return trajectories(read(MEASURED / f"{role}.jsonl"))


def test_ranks_share_what_is_equal_and_correlate() -> None:
    assert ranks(numpy.array([3.0, 1.0, 3.0])).tolist() == [2.5, 1.0, 2.5]
    assert spearman(numpy.array([1.0, 2.0, 3.0]), numpy.array([10.0, 20.0, 30.0])) == pytest.approx(1)
    assert spearman(numpy.array([1.0, 2.0, 3.0]), numpy.array([9.0, 4.0, 1.0])) == pytest.approx(-1)
    assert spearman(numpy.array([1.0, 2.0]), numpy.array([5.0, 5.0])) == 0


def test_points_are_held_against_the_untrained_model_of_their_own_subject() -> None:
    """A subject that is likelier from the start is no further overfitted by that."""
    rows = [
        judged("cat", 0, 0.0),
        judged("cat", 50, 0.1),
        judged("cat", 99, 0.3),
        judged("cow", 0, 9.0),
        judged("cow", 50, 9.9),
    ]
    rows += [judged("dog", 0, 5.0), judged("dog", 50, 5.2), judged("dog", 99, 5.4)]
    runs = trajectories([*seen("cat", {0: 0.0, 50: 0.1, 99: 0.3}), *seen("dog", {0: 1.0, 50: 1.2, 99: 1.4})])
    told = report(rows, runs).splitlines()
    assert told[0] == "n = 4 checkpoints of 2 subjects"
    assert [line.split()[-1] for line in told[2:7]] == ["1.00"] * 5
    assert [line.split("  ")[-1] for line in told[-4:]] == [
        "cat, plain, 50",
        "dog, plain, 50",
        "cat, plain, 99",
        "dog, plain, 99",
    ]


def test_the_page_says_what_the_rows_say() -> None:
    told = (ROOT / "docs" / "verdict.md").read_text(encoding="utf-8")
    for role in POINTS:
        assert report(rows_of(role), runs_of(role)) in told


def test_forty_points_of_evidence_subjects_are_measured_and_overfitting_shows() -> None:
    rows = rows_of("evidence")
    assert {(row.subject, row.method, row.step) for row in rows if row.step} == {*POINTS["evidence"]}
    assert len(POINTS["evidence"]) == 40
    plain: dict[str, list[Judged]] = {}
    for row in sorted(rows, key=lambda row: row.step):
        if row.method == "plain":
            plain.setdefault(row.subject, []).append(row)
    for first, last in plain.values():
        assert numpy.mean(first.follows) > numpy.mean(last.follows)
        assert numpy.mean(first.copies) < numpy.mean(last.copies)
