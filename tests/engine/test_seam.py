"""The seam of the house: what a family of base models is, is known behind it alone."""

from pathlib import Path

import pytest

from apt_engine.bases.sd import StableDiffusion
from apt_engine.jobs.session import train
from apt_engine.photos import photos_in, read_photos
from apt_engine.runs.events import ExportReady, Noticed, StepFinished
from apt_engine.runs.run import RunStore
from apt_engine.settings.training import TrainingConfig


def test_a_base_without_names_elsewhere_is_told_before_the_first_step_and_exported_for_diffusers(
    toy_base: Path, photo_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StableDiffusion, "_kohya", None)
    store = RunStore(tmp_path)
    config = TrainingConfig.from_dict(
        {
            "subject": "car",
            "base": str(toy_base),
            "resolution": 32,
            "steps": 1,
            "sample_every_steps": 0,
            "drift_every_steps": 0,
            "sample_steps": 2,
            "warped_views": 1,
            "sample_prompts": ["a {subject}"],
        }
    )
    run = store.create(config, lambda folder: read_photos(photos_in(photo_dir)).save(folder, 32))
    events = list(train(store, run, lambda: False))
    told = next(number for number, event in enumerate(events) if isinstance(event, Noticed))
    assert "is exported for diffusers alone" in str(events[told])
    assert told < next(number for number, event in enumerate(events) if isinstance(event, StepFinished))
    (export,) = [event for event in events if isinstance(event, ExportReady)]
    assert export.layout == "diffusers"
    assert [path.name for path in (run.path / "exports").iterdir()] == ["zwx_car-000001-diffusers.safetensors"]
