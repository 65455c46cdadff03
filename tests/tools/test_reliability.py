"""A short version of `benchmarks.reliability`, and whether it would notice what it is there for."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from apt_engine.runs.events import RunFinished
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig
from benchmarks.reliability import report, trials
from benchmarks.reliability.judge import differences, lost, was_over
from benchmarks.reliability.long_run import described, table
from benchmarks.reliability.sessions import NeverError, new_run
from benchmarks.reliability.trials import Bench, full_disk, killed_at, killed_in_training


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, toy_base: Path, photo_dir: Path) -> Bench:
    short = {"steps": 4, "sample_every_steps": 2, "drift_every_steps": 2}
    return Bench(tmp_path_factory.mktemp("bench"), lambda at: new_run(at, toy_base, photo_dir, **short))


@pytest.mark.parametrize(
    "killed",
    [
        lambda bench: killed_in_training(bench, 1),
        lambda bench: killed_at(bench, "kill -9 in saving", r"rename checkpoints/\.0+2\.part$|half .*optimizer", 2),
        lambda bench: killed_at(bench, "kill -9 in export", r"half .*diffusers|RunFinished", 2),
    ],
    ids=["training", "saving", "export"],
)
def test_whenever_it_is_killed_it_becomes_what_it_would_have_been(bench: Bench, killed: Callable[..., object]) -> None:
    rows = [vars(trial) for trial in killed(bench)]  # pyright: ignore[reportGeneralTypeIssues]
    assert len(rows) >= 2
    assert [row for row in rows if report.is_defect(row)] == []


def test_a_disk_that_is_full_is_a_sentence_and_then_it_goes_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "moments", ["half checkpoints/.000002.part/.lora.safetensors.part"])
    (trial,) = full_disk(bench)
    assert trial.name == r"half checkpoints/\.\d+\.part/\.lora\.safetensors\.part$"
    assert not report.is_defect(vars(trial))


def test_the_judge_notices_what_is_lost_changed_or_left(bench: Bench, tmp_path: Path) -> None:
    run = Run(shutil.copytree(bench.whole.path, tmp_path / "run"))
    assert (lost(run), differences(run, bench.whole)) == ([], [])
    sample = run.path / "samples" / "000002-0.png"
    sample.write_bytes(sample.read_bytes() + b"\0")
    (run.path / "checkpoints" / ".000002.part").mkdir()
    assert differences(run, bench.whole) == ["samples/000002-0.png", "checkpoints/.000002.part"]
    sample.unlink()
    (run.path / "checkpoints" / "000004" / "lora.safetensors").write_bytes(b"half")
    assert lost(run) == ["samples/000002-0.png", "checkpoints/000004", "newest checkpoint 4"]
    text = run.events_path.read_text().replace('"drift": 0.', '"drift": 1.', 1)
    run.events_path.write_text(text)
    assert "drifts" in differences(run, bench.whole)


def test_the_table_counts_each_kind() -> None:
    trial = trials.Trial(kind="signals", name="TERM", seconds=1.0)
    late = trials.Trial(kind="signals", name="TERM", is_late=True)
    rows = [vars(trial), {**vars(trial), "seconds": 3.0, "lost": ["x"]}, vars(late)]
    assert report.table(rows).splitlines()[-1] == "| signals | 2 | 1 | 1 | 0 | 0 | 2.0 | 3.0 |"


def test_an_end_that_comes_too_late_is_tried_again_and_is_neither_right_nor_wrong() -> None:
    late = trials.Trial(kind="signals", name="TERM", is_late=True)
    tried = iter([late, late, trials.Trial(kind="signals", name="TERM", wrong=["exit code 0"])])
    rows = [vars(trial) for trial in trials.in_time(lambda: next(tried))]
    assert [report.is_defect(row) for row in rows] == [False, False, True]
    with pytest.raises(NeverError, match="signals, TERM: too late 5 times"):
        list(trials.in_time(lambda: late))


def test_a_run_that_came_to_its_end_before_the_signal_is_told_from_one_that_came_after(tmp_path: Path) -> None:
    run = RunStore(tmp_path).create(TrainingConfig(subject="car"), lambda folder: (folder / "01.png").touch())
    assert not was_over(run, 1e12)
    finished = RunFinished(step=6, reason="", is_complete=True, is_by_itself=False, seconds=1, peak_memory_bytes=1)
    run.append(finished)
    assert was_over(run, finished.time)
    assert not was_over(run, finished.time - 0.001)


def test_a_signal_whose_moment_never_came_is_late(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trials.PHASES, "a step", "no such moment")
    trial = trials._signalled(bench, "a step", "TERM")
    assert (trial.is_late, trial.wrong) == (True, [])


def test_the_slope_of_a_long_run_has_an_interval_that_knows_flat_from_rising() -> None:
    numbers = random.Random(0)
    flat = [(10 * look, 100 + numbers.gauss(0, 1)) for look in range(2400)]
    rising = [(step, value + step * 1e-3) for step, value in flat]
    level = described(flat)
    assert (level["looks"], level["spread"]) == (2400, pytest.approx(1, abs=0.1))
    slope, low, high = level["slope"]
    assert low < 0 < high
    assert low < slope < high
    slope, low, high = described(rising)["slope"]
    assert (slope, low > 9, high < 11) == (pytest.approx(10, abs=0.1), True, True)
    row = {
        **level,
        "name": "page, megabytes",
        "steps": 24_000,
        "wanted": 50_000,
        "state": "finished",
        "samples": 8,
        "loads": 3,
    }
    told = table([{**row, "processes": 1}]).splitlines()
    assert told[0].startswith("24,000 of 50,000 steps of the toy with 8 samples (finished), 3 loads")
    assert told[-1].startswith("| page, MB | 1 | 2,400 | ")
    assert told[-1].endswith(" to 0.047) |")
