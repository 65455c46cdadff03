"""A file of events: read in little time and memory, whatever stands in it."""

import json
import os
import tracemalloc
from pathlib import Path

import pytest

from apt_engine.errors import RunError
from apt_engine.reading.regular import open_regular, read_json, read_regular
from apt_engine.runs import event_file
from apt_engine.runs.events import CheckpointSaved, Event, Noticed, StageChanged, StepFinished, from_json, to_json
from apt_engine.runs.history import History, summarize
from apt_engine.runs.run import Run, config_bytes
from apt_engine.settings.training import TrainingConfig
from benchmarks.hostile.lines import lines
from tests.histories import step


def run_with(folder: Path, content: bytes) -> Run:
    (folder / "config.json").write_bytes(config_bytes(TrainingConfig(subject="cat")))
    (folder / "events.jsonl").write_bytes(content)
    return Run(folder)


def written(*events: Event) -> bytes:
    return b"".join(to_json(event).encode() + b"\n" for event in events)


def test_of_very_many_steps_some_are_left_out_and_never_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(event_file.FREQUENT, b'{"kind": "StepFinished"', 100)
    saved = CheckpointSaved(step=500, path="checkpoints/000500")
    steps = [step(number, seconds=number) for number in range(1, 1001)]
    run = run_with(tmp_path, written(*steps[:500], saved, *steps[500:]))
    history = History.new(run, run.config, 3)
    history.read_on()
    assert 100 <= len(history.losses) <= 220
    assert list(history.recent_seconds) == list(range(981, 1001))
    assert (history.step, history.saved_step, history.cursor) == (1000, 500, run.events_path.stat().st_size)
    assert len(run.events()[0]) == 1001


def test_a_flood_of_lines_is_read_from_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_file, "MOST_LINES", 10)
    monkeypatch.setattr(event_file, "TAIL", 100)
    run = run_with(tmp_path, b"{}\n" * 1000 + written(Noticed(message="Look.")))
    assert summarize(run).notices == ["Look."]


def test_a_line_that_never_ends_costs_neither_memory_nor_what_comes_after(tmp_path: Path) -> None:
    run = run_with(tmp_path, b"x" * 30_000_000 + b"\n" + written(Noticed(message="Look.")))
    tracemalloc.start()
    assert summarize(run).notices == ["Look."]
    assert tracemalloc.get_traced_memory()[1] < 15_000_000
    tracemalloc.stop()


def test_a_torn_line_waits_for_its_end(tmp_path: Path) -> None:
    whole, torn = written(Noticed(message="One.")), written(Noticed(message="Two."))
    run = run_with(tmp_path, whole + torn[:20])
    assert run.events() == ([from_json(whole.decode())], len(whole))
    with run.events_path.open("ab") as file:
        file.write(torn[20:])
    assert run.events(len(whole))[1] == len(whole + torn)


def test_no_odd_line_breaks_the_account(tmp_path: Path) -> None:
    odd = [line for line in lines().values() if len(line) < 10_000]
    run = run_with(tmp_path, b"\n".join(odd) + b"\n" + written(step(7)))
    history = History.new(run, run.config, 3)
    history.read_on()
    assert history.step == 7
    assert not any(path.startswith("/") or ".." in path for path in history.samples.values())


@pytest.mark.parametrize(
    ("event", "field", "value"),
    [
        (step(1), "step", -1),
        (step(1), "step", 10**400),
        (step(1), "seconds", float("inf")),
        (step(1), "gamma", [float("nan")]),
        (step(1), "gamma", [0.5] * 20_000),
        (StageChanged(stage="a", message="b"), "message", "\ud800"),
        (CheckpointSaved(step=1, path="a"), "path", "/etc/passwd"),
        (CheckpointSaved(step=1, path="a"), "path", "a/../../b"),
        (CheckpointSaved(step=1, path="a"), "path", "C:\\b"),
        (CheckpointSaved(step=1, path="a"), "path", ""),
        (CheckpointSaved(step=1, path="a"), "time", 1e300),
        (CheckpointSaved(step=1, path="a"), "time", -1.0),
        (CheckpointSaved(step=1, path="a"), "time", 10**12),
    ],
)
def test_a_value_no_run_has_is_refused(event: Event, field: str, value: object) -> None:
    with pytest.raises(ValueError, match=r"out of range|cannot be|too many items|surrogates|leads out"):
        from_json(json.dumps({**json.loads(to_json(event)), field: value}))


def test_broken_numbers_of_a_training_are_told(tmp_path: Path) -> None:
    broken = StepFinished(step=1, loss=float("nan"), gradient_norm=float("inf"), learning_rate=1e-4, seconds=1)
    assert summarize(run_with(tmp_path, written(broken))).step == 1


def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 50_000)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(tmp_path / "a.json")
    with pytest.raises(OSError, match="larger than 10 bytes"):
        read_regular(tmp_path / "a.json", 10)
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            open_regular(path)
    run = run_with(tmp_path, b"")
    run.events_path.unlink()
    os.mkfifo(run.events_path)
    with pytest.raises(RunError, match="cannot be read"):
        run.events()
