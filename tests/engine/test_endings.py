"""A run that died at its last step: whatever was missing, the next session ends it and trains no more."""

import errno
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apt_engine.errors import DiskError, RunError
from apt_engine.jobs.session import train
from apt_engine.runs import files
from apt_engine.runs import run as runs
from apt_engine.runs.events import (
    DriftMeasured,
    Event,
    ExportReady,
    RunFailed,
    RunFinished,
    SampleReady,
    StepFinished,
    to_json,
)
from apt_engine.runs.files import writing
from apt_engine.runs.history import History, summarize
from apt_engine.runs.library import pack
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore

STEPS = 2
# What is about to be written when a session dies: the path of a file, or the line of an event.
MOMENTS = {
    "checkpoint": r'"CheckpointSaved".*"step": 2,',
    "first sample": r"samples/\.000002-0\.png\.part",
    "second sample told": r'"SampleReady".*"step": 2, "index": 1,',
    "export": r'"stage": "exporting"',
    "second file": r"-diffusers\.safetensors\.part",
    "end": r'"RunFinished"',
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return RunStore(tmp_path_factory.mktemp("data"))


@pytest.fixture
def whole(store: RunStore, new_run: Callable[..., Run], snapshots: Path) -> Run:
    """A run that nothing disturbed; what its disk held at each moment lies in `snapshots`, as a kill would have left it."""
    known = store.list()
    if known:
        return known[0]
    run = new_run(STEPS)
    prompts = ("a photo of a {subject}", "a cat")
    run.replace_config(
        run.config.replace(rank=4, sample_prompts=prompts, drift_every_steps=STEPS, drift_prompts=("a cat",))
    )

    def keep(written: str) -> None:
        for moment, pattern in MOMENTS.items():
            if re.search(pattern, written):
                shutil.copytree(run.path, snapshots / moment)

    with pytest.MonkeyPatch.context() as patch:
        before_each_write(patch, keep)
        finish(run)
    return run


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("snapshots")


@pytest.fixture
def cut_off(whole: Run, snapshots: Path, tmp_path: Path) -> Callable[[str], Run]:
    """Makes the run as it was when a session died at a moment."""

    def make(moment: str) -> Run:
        return Run(shutil.copytree(snapshots / moment, tmp_path / "runs" / whole.id))

    return make


def before_each_write(patch: pytest.MonkeyPatch, react: Callable[[str], None]) -> None:
    """Show to `react` the path of each file before it is whole, and each event before it is told."""
    sync, append = files.sync, Run.append

    def watched_sync(path: Path) -> None:
        react(path.as_posix())
        sync(path)

    def watched_append(run: Run, event: Event) -> None:
        react(to_json(event))
        append(run, event)

    patch.setattr(files, "sync", watched_sync)
    patch.setattr(Run, "append", watched_append)


def full_from(run: Run, moment: str) -> Callable[[str], None]:
    """A disk that is full from a moment on; of an event half a line still fits."""
    is_full = False

    def react(written: str) -> None:
        nonlocal is_full
        is_full = is_full or bool(re.search(MOMENTS[moment], written))
        if not is_full:
            return
        with writing(run.path):
            if written.startswith("{"):
                with run.events_path.open("a") as file:
                    file.write(written[: len(written) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return react


def finish(run: Run) -> list[Event]:
    return list(train(RunStore(run.path.parent.parent), run, lambda: False))


def is_ended_like(run: Run, whole: Run, events: list[Event]) -> None:
    """The last session trained nothing, and the run is as if nothing had happened to it."""
    assert not [event for event in events if isinstance(event, StepFinished)]
    assert isinstance(events[-1], RunFinished)
    assert events[-1].is_complete
    assert summarize(run).state == "finished"
    assert summarize(run).step == summarize(run).saved_step == STEPS
    for folder in ("checkpoints", "exports", "samples"):
        files = {path.relative_to(run.path) for path in (run.path / folder).rglob("*") if not path.name.startswith(".")}
        assert files == {path.relative_to(whole.path) for path in (whole.path / folder).rglob("*")}
        assert all((run.path / file).is_dir() or same(run.path / file, whole.path / file) for file in files)
    history, wanted = History.of(run), History.of(whole)
    assert (history.samples, history.drifts, history.exports.keys()) == (
        wanted.samples,
        wanted.drifts,
        wanted.exports.keys(),
    )


def same(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_run_killed_at_its_last_step_is_ended_by_the_next_session(
    cut_off: Callable[[str], Run], whole: Run, moment: str
) -> None:
    run = cut_off(moment)
    assert summarize(run).state == "training"  # nobody does: the page says interrupted, and offers Resume
    saved = (run.checkpoint().path / runs.MANIFEST).stat().st_ino
    told = [event for event in run.events()[0] if isinstance(event, SampleReady)]
    events = finish(run)
    is_ended_like(run, whole, events)
    assert (run.checkpoint().path / runs.MANIFEST).stat().st_ino == saved
    drawn = [event for event in events if isinstance(event, SampleReady)]
    assert len(told) + len(drawn) == 4  # two of step 0, two of the last one, none of them twice


@pytest.mark.parametrize("moment", ["first sample", "second file", "end"])
def test_a_run_whose_disk_is_full_at_its_last_step_is_ended_once_there_is_room(
    cut_off: Callable[[str], Run], whole: Run, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = cut_off("checkpoint")
    before_each_write(monkeypatch, full_from(run, moment))
    with pytest.raises(DiskError, match="No space left on device.*free some disk space"):
        finish(run)
    monkeypatch.undo()
    is_ended_like(run, whole, finish(run))


def test_what_is_missing_besides_is_made_as_well(cut_off: Callable[[str], Run], whole: Run) -> None:
    run = cut_off("checkpoint")
    run.checkpoint().optimizer_path.unlink()  # nothing is left to train: the LoRA is enough
    lines = run.events_path.read_text().splitlines(keepends=True)
    run.events_path.write_text("".join(line for line in lines if not re.search(r'"DriftMeasured".*"step": 2', line)))
    events = finish(run)
    assert [event.step for event in events if isinstance(event, DriftMeasured)] == [STEPS]
    assert {event.layout for event in events if isinstance(event, ExportReady)} == {"kohya", "diffusers"}
    assert History.of(run).drifts == History.of(whole).drifts
    assert same(run.checkpoint().lora_path, whole.checkpoint().lora_path)


def test_a_trained_run_that_is_packed_names_no_folder_of_this_computer(
    whole: Run, store: RunStore, tmp_path: Path
) -> None:
    with zipfile.ZipFile(pack(whole, tmp_path / "car.zip", with_photos=True)) as archive:
        content = b"".join(archive.read(name) for name in archive.namelist())
        archive.extractall(tmp_path / "runs")
    for folder in (whole.config.base, store.data_dir, runs.__file__):
        assert str(Path(folder).parent).encode() not in content
    opened = RunStore(tmp_path).open(whole.id)
    assert summarize(opened).state == "finished"
    assert History.of(opened).samples == History.of(whole).samples
    assert opened.config == whole.config.replace(base=Path(whole.config.base).name)


def test_a_finished_run_stays_finished_when_it_is_asked_to_go_on_without_steps(whole: Run) -> None:
    assert isinstance(whole.events()[0][-1], RunFinished)
    with pytest.raises(RunError, match="already at step 2; give it more steps"):
        finish(whole)
    assert isinstance(whole.events()[0][-1], RunFinished)


def test_a_failed_wish_to_go_on_is_told_and_leaves_a_run_finished(cut_off: Callable[[str], Run]) -> None:
    run = cut_off("end")
    run.append(RunFinished(step=2, reason="Done.", is_complete=True, seconds=1.0, peak_memory_bytes=1))
    run.append(RunFailed(message="The engine was killed."))
    assert summarize(run).state == "finished"
    assert History.of(run).notices[-1] == "The engine was killed."
    run.replace_config(run.config.replace(steps=4))
    sessions: Iterator[Event] = train(RunStore(run.path.parent.parent), run, lambda: False)
    next(sessions)
    assert summarize(run).state == "training"
    run.append(RunFailed(message="The engine was killed."))
    assert summarize(run).state == "failed"
