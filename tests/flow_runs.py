"""Toys of flow transformers on the whole way of a training, and the size of their LoRAs."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from apt_engine.bases.klein import Klein
from apt_engine.bases.z_image import ZImage
from apt_engine.jobs.session import train
from apt_engine.lora import adapter, files
from apt_engine.photos.photo_set import photos_in, read_photos
from apt_engine.runs.events import DriftMeasured, Event, ExportReady, SampleReady, StepFinished
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig
from tests.laws import output


class Trained(NamedTuple):
    """What a training told, and toys with its LoRA: loaded here, none, and loaded by diffusers."""

    events: list[Event]
    tuned: Any
    bare: Any
    stock: Any


def lora_bytes(base: Klein | ZImage) -> tuple[int, int, int]:
    """Of a LoRA of rank 16 in fp32: its attention, its feed-forward layers, and no convolutions."""
    attention, feed_forward = (
        sum(4 * 16 * sum(layer.weight.shape) for layer in adapter.layers_of(base.denoiser, endings).values())
        for endings in (base.lora.attention, base.lora.feed_forward)
    )
    return attention, feed_forward, 0


def new_run(folder: Path, base: Path, photo_dir: Path, **settings: Any) -> Run:
    values = {
        "subject": "car",
        "base": str(base),
        "resolution": 32,
        "device": "cpu",
        "steps": 6,
        "batch_size": 2,
        "rank": 4,
        "feed_forward": True,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "sensitivity": 1e4,
        "calibration_step": 3,
        "reference_caption": "class",
        "min_snr_gamma": 5,
        "gradient_checkpointing": True,
        "warped_views": 4,
        "save_every_steps": 2,
        "drift_every_steps": 6,
        "sample_every_steps": 6,
        "sample_prompts": ["a photo of a {subject}"],
        "sample_steps": 2,
        "drift_prompts": ["a cat"],
    }
    config = TrainingConfig.from_dict({**values, **settings})
    return RunStore(folder).create(config, lambda photos: read_photos(photos_in(photo_dir)).save(photos, 32))


def finish(run: Run, stop_after: int = 1000) -> list[Event]:
    asked = itertools.count()
    return list(train(RunStore(run.path.parent.parent), run, lambda: next(asked) >= stop_after))


def check_training(base: Path, make_toy: Callable[[], Any], photos: Path, folder: Path, **settings: Any) -> Trained:
    """All of the method in six steps, cut off and resumed bit for bit, and exported for the stock pipeline."""
    whole, stopped = (new_run(folder / name, base, photos, **settings) for name in ("whole", "stopped"))
    events = finish(whole)
    steps = [event for event in events if isinstance(event, StepFinished)]
    assert len(steps) == 6
    assert not any(step.was_skipped for step in steps)
    assert all(step.stabilization and step.alignment for step in steps[1:])
    drifts = [event.drift for event in events if isinstance(event, DriftMeasured)]
    assert drifts[0] == 0 < drifts[-1]
    assert len([event for event in events if isinstance(event, SampleReady)]) == 2
    (export,) = [event for event in events if isinstance(event, ExportReady)]
    assert export.layout == "diffusers"

    finish(stopped, stop_after=3)
    finish(stopped)
    for name in ("lora_path", "optimizer_path"):
        one, other = (getattr(run.checkpoint(), name).read_bytes() for run in (whole, stopped))
        assert one == other

    tuned, bare, stock = make_toy(), make_toy(), make_toy()
    files.load(tuned, whole.checkpoint().lora_path)
    stock.pipeline.load_lora_weights(whole.path / "exports", weight_name=Path(export.path).name)
    with torch.no_grad():
        assert float((output(stock) - output(tuned)).abs().max()) < 1e-3
        assert float((output(bare) - output(tuned)).abs().max()) > 1e-2
    return Trained(events, tuned, bare, stock)
