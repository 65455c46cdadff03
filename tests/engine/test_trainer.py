"""Training on the toy model: events, exactness, resume, and what breaks."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from apt_engine.errors import BaseModelError, BusyError, ConfigError, DiskError, EngineError, LoraError, RunError
from apt_engine.jobs.session import train
from apt_engine.photos.photo_set import photos_in, read_photos
from apt_engine.runs import files
from apt_engine.runs.events import (
    CheckpointSaved,
    DriftMeasured,
    Event,
    ExportReady,
    Noticed,
    RunFailed,
    RunFinished,
    RunStarted,
    SampleReady,
    StageChanged,
    StepFinished,
    ViewsShown,
)
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.runs.training_lock import training_lock
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.step import AdaptiveStep, StepResult
from apt_engine.training.trainer import Trainer
from tests.toy import save_toy_base

NewRun = Callable[..., Run]


@pytest.fixture
def new_run(tmp_path: Path, toy_base: Path, photo_dir: Path) -> NewRun:
    store = RunStore(tmp_path)
    photos = read_photos(photos_in(photo_dir))

    def make(**settings: Any) -> Run:
        values = {
            "subject": "car",
            "base": str(toy_base),
            "resolution": 32,
            "steps": 6,
            "batch_size": 2,
            "rank": 4,
            "learning_rate": 1e-2,
            "warmup_steps": 2,
            "save_every_steps": 2,
            "drift_every_steps": 0,
            "sample_every_steps": 0,
            "sample_prompts": ["a photo of a {subject}", "a cat"],
            "sample_steps": 2,
            "warped_views": 2,
            "device": "cpu",
        }
        config = TrainingConfig.from_dict({**values, **settings})
        return store.create(config, lambda folder: photos.save(folder, config.resolution))

    return make


def finish(run: Run, stop_at: int = 0) -> list[Event]:
    """Train to the end, or ask to stop as soon as that step is done."""
    events: list[Event] = []

    def should_stop() -> bool:
        return any(event.step == stop_at for event in steps_of(events))

    events.extend(train(RunStore(run.path.parent.parent), run, should_stop))
    return events


def lora_bytes(run: Run) -> bytes:
    return run.checkpoint().lora_path.read_bytes()


def steps_of(events: list[Event]) -> list[StepFinished]:
    return [event for event in events if isinstance(event, StepFinished)]


def test_a_run_tells_its_story_in_order(new_run: NewRun) -> None:
    run = new_run(sample_every_steps=3)
    events = finish(run)
    assert run.events()[0] == events
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], RunFinished)
    assert events[-1].is_complete
    assert [event.step for event in steps_of(events)] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events if isinstance(event, CheckpointSaved)] == [2, 4, 6]
    samples = [(event.step, event.index, event.prompt) for event in events if isinstance(event, SampleReady)]
    assert samples == [
        (step, index, prompt) for step in (0, 3, 6) for index, prompt in enumerate(("a photo of a zwx car", "a cat"))
    ]
    first_sample = next(index for index, event in enumerate(events) if isinstance(event, SampleReady))
    assert first_sample < events.index(steps_of(events)[0])
    assert {event.layout for event in events if isinstance(event, ExportReady)} == {"kohya", "diffusers"}
    assert "exporting" in {event.stage for event in events if isinstance(event, StageChanged)}


def test_a_download_has_a_bar(new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apt_engine.bases.hub.fetch", lambda name, **_: iter([(1_000_000_000, 4_000_000_000)]))
    run = new_run()
    events = train(RunStore(run.path.parent.parent), run, lambda: False)
    stage = next(event for event in events if isinstance(event, StageChanged))
    assert (stage.stage, stage.fraction) == ("downloading", 0.25)
    assert stage.message.endswith("once: 1.0 of 4.0 GB.")


def test_samples_change_while_it_learns(new_run: NewRun) -> None:
    run = new_run(sample_every_steps=3)
    finish(run)
    pictures = [numpy.asarray(Image.open(run.path / "samples" / f"{step:06d}-0.png")) for step in (0, 3, 6)]
    assert pictures[0].shape == (32, 32, 3)
    assert not (pictures[0] == pictures[1]).all()
    assert not (pictures[1] == pictures[2]).all()


def test_the_learning_rate_warms_up_and_stays(new_run: NewRun) -> None:
    rates = [event.learning_rate for event in steps_of(finish(new_run()))]
    assert rates == pytest.approx([0.005, 0.01, 0.01, 0.01, 0.01, 0.01])


def test_it_learns(new_run: NewRun) -> None:
    """Measured against the untrained model on the same noise: from step to step the loss says more of the noise level."""
    steps = steps_of(finish(new_run(steps=40, save_every_steps=100)))
    gains = [step.reference_loss - step.loss for step in steps if step.reference_loss is not None]
    assert gains[0] == 0
    assert numpy.mean(gains[-15:]) > 2 * numpy.mean(gains[:15]) > 0


def test_the_first_losses_are_pinned(new_run: NewRun) -> None:
    losses = [event.loss for event in steps_of(finish(new_run(steps=3)))]
    assert losses == pytest.approx(PINNED_LOSSES, abs=1e-5)


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(new_run: NewRun) -> None:
    first, second, other = new_run(), new_run(), new_run(seed=1)
    for run in (first, second, other):
        torch.rand(3)  # the global stream must not matter
        finish(run)
    assert lora_bytes(first) == lora_bytes(second)
    assert lora_bytes(first) != lora_bytes(other)


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_stopped_and_resumed_is_the_same_to_the_byte(new_run: NewRun, step: int) -> None:
    whole, stopped = new_run(), new_run()
    finish(whole)
    events = finish(stopped, stop_at=step)
    assert isinstance(events[-1], RunFinished)
    assert not events[-1].is_complete
    assert events[-1].step == step
    resumed = finish(stopped)
    assert [event.step for event in steps_of(resumed)] == list(range(step + 1, 7))
    assert lora_bytes(stopped) == lora_bytes(whole)
    assert optimizer_bytes(stopped) == optimizer_bytes(whole)


def optimizer_bytes(run: Run) -> bytes:
    return run.checkpoint().optimizer_path.read_bytes()


@pytest.mark.parametrize("step", [1, 3, 5])
def test_cut_off_and_resumed_is_the_same_to_the_byte(new_run: NewRun, step: int) -> None:
    whole, cut = new_run(), new_run()
    finish(whole)
    for event in Trainer(cut).run():
        if isinstance(event, StepFinished) and event.step == step:
            break
    started = next(event for event in finish(cut) if isinstance(event, RunStarted))
    assert started.first_step == step - step % 2
    assert lora_bytes(cut) == lora_bytes(whole)


def test_a_damaged_checkpoint_is_passed_over_on_resume(new_run: NewRun) -> None:
    whole, run = new_run(), new_run()
    finish(whole)
    finish(run, stop_at=5)
    (run.path / "checkpoints" / "000005" / "optimizer.safetensors").write_bytes(b"torn")
    started = next(event for event in finish(run) if isinstance(event, RunStarted))
    assert started.first_step == 4
    assert lora_bytes(run) == lora_bytes(whole)


def test_a_run_whose_photos_are_gone_fails_before_its_base_is_loaded(new_run: NewRun) -> None:
    run = new_run()
    shutil.rmtree(run.path / "photos")
    with pytest.raises(RunError, match=f"The photos of run {run.id} are gone; put them back"):
        finish(run)
    assert [type(event) for event in run.events()[0]] == [RunStarted, RunFailed]


def test_a_finished_run_goes_on_only_with_more_steps(new_run: NewRun) -> None:
    longer, run = new_run(steps=8), new_run()
    finish(longer)
    finish(run)
    with pytest.raises(RunError, match="already at step 6; give it more steps"):
        finish(run)
    run.replace_config(run.config.replace(steps=8))
    finish(run)
    assert lora_bytes(run) == lora_bytes(longer)


def test_gradient_checkpointing_changes_no_number(new_run: NewRun) -> None:
    plain, saving = new_run(), new_run(gradient_checkpointing=True)
    losses = [[event.loss for event in steps_of(finish(run))] for run in (plain, saving)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_plain_attention_changes_no_number(new_run: NewRun) -> None:
    losses = [[event.loss for event in steps_of(finish(new_run(attention=kind)))] for kind in ("fused", "plain")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_two_formats_train_one_after_the_other(new_run: NewRun) -> None:
    for dtype in ("fp32", "bf16"):
        assert isinstance(finish(new_run(dtype=dtype))[-1], RunFinished)


def test_prior_pictures_are_made_once_and_trained_on(new_run: NewRun) -> None:
    run = new_run(prior_preservation=True, prior_images=3)
    events = finish(run, stop_at=5)
    assert len(list((run.path / "prior").glob("*.png"))) == 3
    assert all(event.prior_loss is not None for event in steps_of(events))
    before = [path.stat().st_mtime_ns for path in sorted((run.path / "prior").iterdir())]
    finish(run)
    assert [path.stat().st_mtime_ns for path in sorted((run.path / "prior").iterdir())] == before


def test_a_weight_of_zero_on_the_prior_changes_nothing(new_run: NewRun) -> None:
    plain, weightless = new_run(), new_run(prior_preservation=True, prior_images=2, prior_weight=0)
    finish(plain)
    finish(weightless)
    assert lora_bytes(plain) == lora_bytes(weightless)


@pytest.mark.parametrize(("broken", "ends"), [({2}, False), ({2, 3}, False), ({2, 3, 4}, True)])
def test_steps_with_broken_numbers_are_skipped_and_three_in_a_row_end_the_run(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch, broken: set[int], ends: bool
) -> None:
    real = AdaptiveStep.__call__

    def step(
        self: AdaptiveStep,
        step: int,
        backward: Callable[[torch.Tensor], None],
        clip: Callable[[], torch.Tensor],
    ) -> StepResult:
        factor = float("nan") if step in broken else 1.0
        return real(self, step, lambda loss: backward(loss * factor), clip)

    monkeypatch.setattr(AdaptiveStep, "__call__", step)
    run = new_run()
    if ends:
        with pytest.raises(EngineError, match="Training broke at step 4: 3 steps in a row"):
            finish(run)
    else:
        assert any(isinstance(event, Noticed) for event in finish(run))
        assert run.checkpoint().step == 6
    assert b"nan" not in lora_bytes(run)[:100]
    assert all(torch.isfinite(value).all() for value in _tensors(run))


def _tensors(run: Run) -> Iterator[torch.Tensor]:
    yield from load_file(run.checkpoint().lora_path).values()


def test_only_one_process_trains_in_a_data_directory(new_run: NewRun) -> None:
    run = new_run()
    store = RunStore(run.path.parent.parent)
    with training_lock(store), pytest.raises(BusyError, match="Another run is training"):
        finish(run)
    assert isinstance(finish(run)[-1], RunFinished)


@pytest.mark.parametrize(
    ("settings", "kind", "words"),
    [
        ({"base": "/no/such/folder"}, BaseModelError, "The base model /no/such/folder is not there"),
        ({"resolution": 50}, ConfigError, "resolution cannot be 50"),
        ({"rank": 256}, LoraError, "rank"),
    ],
)
def test_a_wrong_setting_ends_before_the_first_step(
    new_run: NewRun, settings: dict[str, Any], kind: type[EngineError], words: str
) -> None:
    run = new_run(**settings)
    with pytest.raises(kind, match=words):
        finish(run)
    assert not steps_of(run.events()[0])


@pytest.mark.parametrize("kind", ["v_prediction", "sdxl"])
def test_the_other_bases_train_resume_and_export_as_well(
    new_run: NewRun, tmp_path: Path, toy_xl_base: Path, kind: str
) -> None:
    base = toy_xl_base if kind == "sdxl" else save_toy_base(tmp_path / "toy-v", kind)
    settings = {"base": str(base), "steps": 4, "sample_every_steps": 4, "gradient_checkpointing": kind == "sdxl"}
    settings |= {"sensitivity": 1e5, "stabilization_lambda": 1.0, "alignment_lambda": 1.0}
    whole, stopped = new_run(**settings), new_run(**settings)
    events = finish(whole)
    finish(stopped, stop_at=3)
    finish(stopped)
    assert lora_bytes(stopped) == lora_bytes(whole)
    assert optimizer_bytes(stopped) == optimizer_bytes(whole)
    losses = steps_of(events)
    assert losses[0].gap == 0
    assert losses[-1].gap != 0
    assert losses[-1].alignment
    assert losses[-1].stabilization
    exported = {event.layout: event for event in events if isinstance(event, ExportReady)}
    for layout, keys_a_layer in (("kohya", 3), ("diffusers", 2)):
        assert exported[layout].keys == keys_a_layer * len(load_file(whole.checkpoint().lora_path)) // 2
    with safe_open(whole.path / exported["kohya"].path, "pt") as file:
        assert file.metadata()["ss_base_model_version"] == ("sdxl_base_v1-0" if kind == "sdxl" else "sd_v1")


def test_a_disk_too_small_for_the_run_is_told_before_the_first_step(
    new_run: NewRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run()
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(DiskError, match=r"needs about .* MB .*raise save_every_steps"):
        finish(run)
    assert not steps_of(run.events()[0])


def test_a_disk_that_fills_up_keeps_the_older_checkpoints(new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = new_run()
    finish(run, stop_at=3)
    real = files.sync

    def sync(path: Path) -> None:
        if path.name.endswith(".safetensors.part"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(path)

    monkeypatch.setattr(files, "sync", sync)
    with pytest.raises(DiskError, match="No space left on device.*free some disk space"):
        finish(run)
    assert [item.step for item in run.checkpoints()] == [2, 3]
    monkeypatch.undo()
    assert isinstance(finish(run)[-1], RunFinished)


PINNED_LOSSES = [1.173992, 1.125431, 1.076504]


def test_drift_begins_at_nothing_and_is_the_same_after_a_resume(new_run: NewRun) -> None:
    settings = {"drift_every_steps": 2, "drift_prompts": ["a cat", "a dog"], "steps": 6}
    whole = drifts(finish(new_run(**settings)))
    assert [step for step, _ in whole] == [0, 2, 4, 6]
    assert whole[0][1] == 0
    assert all(drift > 0 for _, drift in whole[1:])
    run = new_run(**settings)
    first = drifts(finish(run, stop_at=4))
    assert first + drifts(finish(run)) == whole


def test_views_that_were_trained_on_are_shown_and_older_ones_go(new_run: NewRun) -> None:
    run = new_run(steps=41, augmentation=1.0, sensitivity=1e9, warped_views=2, learning_rate=3e-2)
    events = finish(run)
    shown = [event for event in events if isinstance(event, ViewsShown)]
    assert shown
    assert all(event.step % 10 == 0 and event.paths for event in shown)
    for path in shown[-1].paths:
        with Image.open(run.path / path) as view:
            assert view.size == (96, 96)
    assert len(list((run.path / "views").iterdir())) <= 10


def drifts(events: list[Event]) -> list[tuple[int, float]]:
    return [(event.step, event.drift) for event in events if isinstance(event, DriftMeasured)]
