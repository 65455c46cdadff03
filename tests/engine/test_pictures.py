"""The pictures that a run draws of itself: which prompts, which seeds."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from apt_engine.bases.base import BaseModel
from apt_engine.bases.registry import load_base
from apt_engine.runs.events import Event, SampleReady
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.sampling.sampler import Picture, Sampler
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.ending import StopSignal
from apt_engine.training.pictures import draw_prior_pictures, draw_samples
from apt_engine.training.processes import ALONE

STOP = StopSignal(lambda: False, ALONE)


@pytest.fixture(scope="module")
def base(toy_base: Path) -> BaseModel:
    return load_base(str(toy_base), device="cpu")


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    def make(**settings: Any) -> Run:
        values = {"subject": "car", "resolution": 32, "sample_steps": 2, "sample_guidance_scale": 30.0, "seed": 7}
        config = TrainingConfig.from_dict({**values, **settings})
        return RunStore(tmp_path).create(config, lambda folder: folder.mkdir(parents=True, exist_ok=True))

    return make


def drawn(base: BaseModel, prompt: str, seed: int) -> numpy.ndarray:
    picture = Picture(prompt=prompt, seed=seed, steps=2, guidance_scale=30.0, width=32, height=32)
    return numpy.asarray(next(Sampler(base).generate([picture])), dtype=int)


def pixels(path: Path) -> numpy.ndarray:
    with Image.open(path) as image:
        return numpy.asarray(image, dtype=int)


def samples_of(run: Run, base: BaseModel, step: int, kept: set[int]) -> Iterator[Event]:
    return draw_samples(run, base, step, run.config.sample_prompts, kept, STOP.obey_alone)


def test_each_sample_has_its_prompt_and_a_seed_of_its_own(base: BaseModel, make_run: Callable[..., Run]) -> None:
    run = make_run(sample_prompts=["a {subject}", "a cat", "a cat"])
    events = [event for event in samples_of(run, base, 5, {0}) if isinstance(event, SampleReady)]
    assert [(event.step, event.index, event.prompt, event.seed) for event in events] == [
        (5, 1, "a cat", 8),
        (5, 2, "a cat", 9),
    ]
    (first, *_) = [event for event in samples_of(run, base, 6, {1, 2}) if isinstance(event, SampleReady)]
    assert (first.index, first.prompt, first.seed) == (0, "a zwx car", 7)
    for event in (*events, first):
        assert numpy.abs(pixels(run.path / event.path) - drawn(base, event.prompt, event.seed)).max() <= 1
    assert numpy.abs(pixels(run.path / events[0].path) - pixels(run.path / events[1].path)).max() > 1


def test_pictures_of_the_class_differ_and_hear_the_class_alone(base: BaseModel, make_run: Callable[..., Run]) -> None:
    run = make_run()
    paths = [run.path / "prior" / f"{number:04d}.png" for number in range(2)]
    list(draw_prior_pictures(base, run.config, paths, STOP))
    for number, path in enumerate(paths):
        assert (pixels(path) == drawn(base, "a photo of a car", 7 + number)).all()
    assert numpy.abs(pixels(paths[0]) - pixels(paths[1])).max() > 1
    assert (pixels(paths[0]) != drawn(base, "a photo of a zwx car", 7)).any()
