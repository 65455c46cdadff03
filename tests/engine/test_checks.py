"""Checked runs end by themselves, keep a checkpoint, and decide alike however often they are cut off."""

import dataclasses
import math
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from apt_engine.apt import stopping
from apt_engine.apt.stopping import Check, Rule, Standing
from apt_engine.errors import DiskError
from apt_engine.jobs.session import train
from apt_engine.runs.events import (
    Event,
    ExportReady,
    RunFinished,
    SampleReady,
    SplitMeasured,
    StageChanged,
    StepFinished,
    to_json,
)
from apt_engine.runs.history import checkpoint_of, summarize
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.sampling.sampler import Stopped
from apt_engine.training.drift import PriorDrift
from apt_engine.training.exports import export_checkpoint
from apt_engine.training.split import SplitProbe

ENDS_AT = 6
KEPT = 2
KINDS = (".safetensors", ".png")
IMPATIENT = Rule(least_steps=ENDS_AT, least_steps_a_photo=1, patience_checks=1, least_gain=-1.0, kept_within=0.0)
Make = Callable[..., Run]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that ends the toy's runs at step 6 and keeps step 2: to it new views fall from the first check on."""
    real = stopping.stand

    def stand(checks: Sequence[Check], *arguments: Any, **more: Any) -> Standing:
        fallen = [
            dataclasses.replace(check, views={cell: gain + 100 / check.step**2 for cell, gain in check.views.items()})
            for check in checks
        ]
        return real(fallen, *arguments, **more, rule=IMPATIENT)

    monkeypatch.setattr(stopping, "stand", stand)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return RunStore(tmp_path_factory.mktemp("data"))


@pytest.fixture
def make(new_run: Make) -> Make:
    def make(**settings: Any) -> Run:
        run = new_run(8)
        values = {"check_every_steps": 2, "rank": 4, "learning_rate": 3e-2, "save_every_steps": 100, "warmup_steps": 0}
        values |= {"drift_every_steps": 0, "sample_prompts": ["a {subject}"]}
        run.replace_config(run.config.replace(**{**values, **settings}))
        return run

    return make


@pytest.fixture
def whole(store: RunStore, make: Make) -> Run:
    """A run that ended by itself, undisturbed."""
    known = store.list()
    if known:
        return known[-1]
    run = make()
    finish(run)
    return run


def finish(run: Run, stop_at: int = 0, pause_at: int = 0) -> list[Event]:
    events: list[Event] = []

    def is_at(step: int) -> Callable[[], bool]:
        return lambda: any(isinstance(event, StepFinished) and event.step == step for event in events)

    events.extend(train(RunStore(run.path.parent.parent), run, is_at(stop_at), is_at(pause_at)))
    return events


def splits(run: Run) -> list[tuple[Any, ...]]:
    told = summarize(run).splits
    return [(one.step, one.cells, one.gains, one.shots, one.views, one.kept_step, one.message) for one in told]


def is_like(run: Run, whole: Run) -> None:
    """Same checks, same decision, same files to the byte."""
    assert splits(run) == splits(whole)
    ends = [one.events()[0][-1] for one in (run, whole)]
    told = [(end.step, end.reason, end.is_by_itself) for end in ends if isinstance(end, RunFinished)]
    assert told[0] == told[1]
    for path in (path.relative_to(whole.path) for path in whole.path.rglob("*") if path.suffix in KINDS):
        # Kept of the newest two checkpoints, and a stopped run has more of them.
        if path.name != "optimizer.safetensors":
            assert (run.path / path).read_bytes() == (whole.path / path).read_bytes()


def test_a_run_ends_by_itself_and_keeps_its_best_checkpoint(whole: Run) -> None:
    events = whole.events()[0]
    end = events[-1]
    assert isinstance(end, RunFinished)
    assert (end.step, end.is_complete, end.is_by_itself) == (ENDS_AT, True, True)
    assert end.reason == "New views of your photos are fitted no better since step 2; from here it only memorizes."
    assert [checkpoint.step for checkpoint in whole.checkpoints()] == [2, 4, 6]
    assert summarize(whole).kept_step == checkpoint_of(whole).step == KEPT
    assert checkpoint_of(whole, "last").step == ENDS_AT
    assert {event.step for event in events if isinstance(event, ExportReady)} == {KEPT}
    assert [event.step for event in events if isinstance(event, SampleReady)] == [0, ENDS_AT, KEPT]


def test_what_is_exported_is_the_kept_checkpoint(whole: Run, tmp_path: Path) -> None:
    made = list(export_checkpoint(whole, whole.checkpoint(str(KEPT)), tmp_path))
    assert len(made) == 2
    for event in made:
        assert Path(event.path).read_bytes() == (whole.path / "exports" / Path(event.path).name).read_bytes()


def test_stopped_and_resumed_it_takes_the_same_decision(make: Make, whole: Run) -> None:
    run = make()
    finish(run, stop_at=5)
    finish(run)
    is_like(run, whole)


def test_in_slices_it_takes_the_same_decision(make: Make, whole: Run) -> None:
    run = make()
    for step in (1, 4):
        assert isinstance(finish(run, pause_at=step)[-1], StageChanged)
    finish(run)
    is_like(run, whole)


def test_a_drift_that_a_stop_cut_short_counts_when_the_run_goes_on(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule is asked with the same drifts, those of earlier sessions included."""
    asked: list[list[float | None]] = []
    stand, measure, calls = stopping.stand, PriorDrift.measure, iter(range(100))

    def recording(checks: Sequence[Check], *arguments: Any, **more: Any) -> Standing:
        asked.append([check.drift for check in checks])
        return stand(checks, *arguments, **more)

    def cut_short(drift: PriorDrift) -> float:
        if next(calls) == 2:  # at steps 0, 2, 4
            raise Stopped("Stopped, as asked.")
        return measure(drift)

    monkeypatch.setattr(stopping, "stand", recording)
    finish(make(drift_every_steps=2))
    undisturbed = asked[-1]
    assert len(undisturbed) == ENDS_AT // 2 and all(undisturbed)
    monkeypatch.setattr(PriorDrift, "measure", cut_short)
    run = make(drift_every_steps=2)
    finish(run, stop_at=4)
    assert asked[-1] == [undisturbed[0], None]
    finish(run)
    assert asked[-1] == undisturbed


@pytest.mark.parametrize("moment", ['"SplitMeasured".*"step": 6,', '"stage": "exporting"'])
def test_a_full_disk_at_a_check_loses_nothing(
    make: Make, whole: Run, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the check was told or not, the next session ends the run where it would have ended, and trains no more."""
    run = make()
    append = Run.append

    def full(run: Run, event: Event) -> None:
        if re.search(moment, to_json(event)):
            raise DiskError("The disk is full.")
        append(run, event)

    monkeypatch.setattr(Run, "append", full)
    with pytest.raises(DiskError):
        finish(run)
    monkeypatch.setattr(Run, "append", append)
    trained = [event.step for event in finish(run) if isinstance(event, StepFinished)]
    assert trained == ([5, 6] if "Split" in moment else [])
    is_like(run, whole)


def test_who_resumes_a_run_that_ended_by_itself_gets_all_its_steps(make: Make, whole: Run, store: RunStore) -> None:
    run = Run(shutil.copytree(whole.path, whole.path.with_name("further")))
    finish(run, stop_at=7)
    end = finish(run)[-1]
    assert isinstance(end, RunFinished)
    assert (end.step, end.is_by_itself) == (8, False)
    assert end.reason.startswith("All 8 steps are done. New views of your photos are fitted no better since step 2")
    assert checkpoint_of(run).step == KEPT


def test_a_run_that_is_never_to_stop_goes_on_and_keeps_the_best_all_the_same(make: Make, whole: Run) -> None:
    run, unchecked = make(stop="never"), make(check_every_steps=0)
    end = finish(run)[-1]
    assert isinstance(end, RunFinished)
    assert (end.step, end.is_by_itself) == (8, False)
    assert splits(run)[:3] == splits(whole)
    assert {event.step for event in summarize(run).exports.values()} == {KEPT}
    finish(unchecked)
    assert checkpoint_of(unchecked).lora_path.read_bytes() == run.checkpoint().lora_path.read_bytes()


def test_where_it_cannot_be_told_the_last_checkpoint_is_kept_and_the_run_says_why(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make()
    photos = run.photo_paths
    for photo in photos[1:]:
        shutil.copy(photos[0], photo)
    end = finish(run)[-1]
    assert isinstance(end, RunFinished)
    assert end.step == checkpoint_of(run).step == 8
    assert "cannot be told: there is only one photo, or all look the same; add photos" in end.reason


@pytest.mark.parametrize(("new_views", "remedy"), [("mirrored", "set new_views to both"), ("both", "take photos that")])
def test_of_a_thing_whose_new_views_look_like_it_they_tell_nothing(make: Make, new_views: str, remedy: str) -> None:
    run = make(new_views=new_views)
    for number, path in enumerate(run.photo_paths):
        with Image.open(path) as photo:
            half = photo.crop((0, 0, photo.width // 2, photo.height))
        whole = Image.new("RGB", (2 * half.width, half.height), f"#{number + 1}0{number + 1}0{number + 1}0")
        if new_views == "mirrored":  # else a picture of one color, which is the same enlarged
            whole.paste(half, (0, 0))
            whole.paste(half.transpose(Image.Transpose.FLIP_LEFT_RIGHT), (half.width, 0))
        whole.save(path)
    end = finish(run)[-1]
    assert isinstance(end, RunFinished)
    assert end.step == checkpoint_of(run).step == 8
    assert f"cannot be told: new views of your photos look like the photos themselves; {remedy}" in end.reason


def test_numbers_that_are_not_finite_end_nothing(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SplitProbe, "measure", lambda self, cells: dict.fromkeys(cells, math.nan))
    run = make()
    end = finish(run)[-1]
    assert isinstance(end, RunFinished)
    assert end.step == checkpoint_of(run).step == 8
    assert "cannot be told: the checks gave numbers that are not finite; lower" in end.reason
    assert [math.isnan(gain) for split in summarize(run).splits for gain in split.gains]


@pytest.mark.parametrize("off", [{"new_views": "none"}, {"check_every_steps": 9}])
def test_without_checks_nothing_is_measured_kept_or_said(make: Make, off: dict[str, Any]) -> None:
    run = make(**off, save_every_steps=8)
    events = finish(run)
    assert not [event for event in events if isinstance(event, SplitMeasured)]
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [8]
    assert summarize(run).message == "All 8 steps are done."
