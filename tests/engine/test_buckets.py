"""Photos that keep their proportions, from the cut to what Stable Diffusion XL is told of them."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

from apt_engine.apt.augment import Warp, latent_mask, warp_pixels
from apt_engine.bases.base import PromptStates
from apt_engine.errors import ConfigError
from apt_engine.jobs.session import train
from apt_engine.photos import buckets
from apt_engine.photos.photo_set import Photo, PhotoSet
from apt_engine.runs.events import Event, SplitMeasured, StepFinished
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.draws import Batch
from apt_engine.training.latents import LatentSource, encode_view
from apt_engine.training.preparation import _check_sizes
from apt_engine.training.step import AdaptiveStep
from tests.engine.test_bases import stable_diffusion, stable_diffusion_xl
from tests.laws import config_of, tuned_base

SIZES = [(64, 40), (64, 40), (30, 60), (50, 50)]  # width and height of the photos


@pytest.fixture
def store(data_dir: Path) -> RunStore:
    return RunStore(data_dir)


def photo_of(width: int, height: int, seed: int, **more: Any) -> Photo:
    noise = numpy.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=numpy.uint8)
    return Photo(f"{seed}.png", Image.fromarray(noise), **more)


def new_run(store: RunStore, base: Path, **settings: Any) -> Run:
    photos = PhotoSet(tuple(photo_of(*size, seed) for seed, size in enumerate(SIZES)))
    values = {"subject": "car", "base": str(base), "resolution": 32, "crop": "buckets", "steps": 4, "batch_size": 2}
    quiet = {"sample_every_steps": 0, "drift_every_steps": 0, "sample_prompts": (), "warped_views": 2}
    config = TrainingConfig.from_dict({**values, **quiet, "check_every_steps": 2, "save_every_steps": 2, **settings})
    return store.create(config, lambda folder: photos.save(folder, config.resolution, config.crop))


@pytest.mark.parametrize("resolution", [32, 64, 512, 768, 1024])
def test_no_bucket_takes_more_than_the_square(resolution: int) -> None:
    """So a plan for the square holds for all of them."""
    found = buckets.sizes(resolution)
    step = max(8, min(64, resolution // 4))
    assert found[0] == (resolution, resolution)
    for width, height in found:
        assert width * height <= resolution**2
        assert width % step == height % step == 0 or width == height == resolution
        assert max(width, height) <= 2 * min(width, height)
    assert {(height, width) for width, height in found if width > height} <= set(found)
    if resolution == 1024:
        assert {(1152, 896), (1216, 832), (832, 1216)} <= set(found)  # of those that SDXL was trained on


@pytest.mark.parametrize(
    ("photo", "subject", "size", "corner"),
    [
        ((1600, 1200), (0, 0, 100, 100), (1152, 896), (0, 0)),
        ((1600, 1200), (1500, 0, 1600, 100), (1152, 896), (0, 43)),  # scaled to 1195 x 896, the right end
        ((1200, 1600), (0, 1500, 100, 1600), (896, 1152), (43, 0)),
        ((4000, 1000), (3000, 0, 4000, 1000), (1408, 704), (0, 1408)),  # longer than any bucket
        ((700, 700), (0, 0, 700, 700), (1024, 1024), (0, 0)),
    ],
)
def test_a_photo_is_cut_to_the_nearest_proportions_around_its_subject(
    photo: tuple[int, int], subject: tuple[int, int, int, int], size: tuple[int, int], corner: tuple[int, int]
) -> None:
    made, (height, width, top, left) = buckets.cut(Image.new("RGB", photo), subject, 1024)
    assert (made.size, (width, height), (top, left)) == (size, photo, corner)


def test_what_is_cut_is_what_was_there() -> None:
    """Columns tell where they came from."""
    columns = numpy.tile(numpy.linspace(0, 255, 256, dtype=numpy.uint8), (64, 1))
    image = Image.fromarray(columns).convert("RGB")
    made, (_, _, _, left) = buckets.cut(image, (192, 0, 256, 64), 64)
    scale = made.height / image.height
    shown = numpy.asarray(made)[0, :, 0]
    assert abs(int(shown[0]) - left / scale) <= 3
    assert shown[-1] >= 252


def test_the_square_says_which_end_of_a_photo_may_go(tmp_path: Path) -> None:
    ends = [photo_of(96, 40, 0, box=(0, 0, 40, 40)), photo_of(96, 40, 0, box=(56, 0, 96, 40))]
    PhotoSet(tuple(ends)).save(tmp_path, 64, "buckets")
    assert [Image.open(tmp_path / name).size for name in ("01.png", "02.png")] == [(64, 32)] * 2
    told = json.loads((tmp_path / "origins.json").read_text())
    assert told == {"01.png": [40, 96, 0, 0], "02.png": [40, 96, 0, 13]}  # scaled to 77 x 32


def test_the_time_ids_are_those_of_the_training_script() -> None:
    """Size of the whole photo, top and left of the cut, size of what is learnt; each height first."""
    seen: list[Tensor] = []
    base = stable_diffusion_xl()
    base.denoiser.register_forward_pre_hook(
        lambda _module, _args, named: seen.append(named["added_cond_kwargs"]["time_ids"]), with_kwargs=True
    )
    views = [encode_view(base, torch.zeros(3, 24, 40)) for _ in range(2)]
    origins = [(400, 640, 0, 13), (300, 500, 7, 0)]
    source = LatentSource(views, origins=origins)
    step = AdaptiveStep(config_of(batch_size=2, augmentation=0, stabilization=0, alignment=0), base, source)
    drawn = step._draw_all(1, range(2), source, "photos")
    batch = Batch.of(drawn, source, base, "masked")
    step._errors(batch, base.encode_prompts(["a car"]).expand(2))
    expected = []
    for photo in batch.photos:
        original_size, crops_coords_top_left, target_size = origins[photo][:2], origins[photo][2:], (24, 40)
        expected.append(list(original_size + crops_coords_top_left + target_size))  # as compute_time_ids there
    assert seen[-1].tolist() == expected
    plain = PromptStates(*(getattr(base.encode_prompts(["a car"]), name) for name in ("hidden", "pooled")))
    base.predict(batch.noisy[:1], batch.timesteps[:1], plain)
    assert seen[-1].tolist() == [[24, 40, 0, 0, 24, 40]]


def test_a_micro_batch_has_one_size_and_every_photo_its_turn() -> None:
    base = tuned_base()
    sides = [(40, 24), (24, 40), (40, 24), (32, 32), (40, 24)]
    source = LatentSource([encode_view(base, torch.zeros(3, *side)) for side in sides])
    step = AdaptiveStep(config_of(batch_size=3, accumulate=2, augmentation=0), base, source)
    turns, changes = Counter[int](), 0
    for number in range(400):
        drawn = step._draw_all(number, range(6), source, "photos")
        for part in (drawn[:3], drawn[3:]):
            assert len({sides[draw.photo] for draw in part}) == 1
        turns.update(draw.photo for draw in drawn)
        changes += sides[drawn[0].photo] != sides[drawn[3].photo]
        again = step._draw_all(number, range(6), source, "photos")
        assert [draw.photo for draw in again] == [draw.photo for draw in drawn]
    assert changes > 100  # each micro-batch begins anew
    assert all(turns[photo] == pytest.approx(2400 / 5, rel=0.3) for photo in range(5))


def test_a_warp_turns_by_the_same_angle_whatever_the_proportions() -> None:
    """A square in the middle of a wide picture stays one: no side is stretched."""
    picture = torch.full((3, 60, 120), -1.0)
    picture[:, 20:40, 50:70] = 1
    warped, mask = warp_pixels(picture, Warp(1.0, 90.0))
    assert torch.allclose(warped, picture, atol=0.1)  # a quarter turn of a square about its center
    assert mask[:, 35:85].all()
    assert not mask[:, :25].any()  # what was above and below is narrower than the picture is wide
    small, inside = warp_pixels(picture, Warp(2.0, 0.0))
    assert (small[0, 27:33, 57:63] > 0.9).all()
    assert inside.sum() == pytest.approx(30 * 60, rel=0.1)
    assert latent_mask(inside, 4).shape == (15, 30)


@pytest.mark.parametrize("family", ["toy", "toy-xl"])
def test_a_run_resumes_to_the_bit(store: RunStore, toy_base: Path, toy_xl_base: Path, family: str) -> None:
    base = toy_xl_base if family == "toy-xl" else toy_base
    whole, cut = new_run(store, base), new_run(store, base)

    def losses(run: Run, steps: int) -> tuple[dict[int, float], list[Event]]:
        events = list(train(store, run, lambda: False, steps=steps))
        return {event.step: event.loss for event in events if isinstance(event, StepFinished)}, events

    straight, events = losses(whole, 4)
    assert sum(isinstance(event, SplitMeasured) for event in events) == 2
    assert {**losses(cut, 2)[0], **losses(cut, 4)[0]} == straight
    assert cut.checkpoint().lora_path.read_bytes() == whole.checkpoint().lora_path.read_bytes()
    assert len({Image.open(path).size for path in whole.photo_paths}) == 3
    assert [origin[:2] for origin in whole.origins] == [(height, width) for width, height in SIZES]


def test_what_does_not_take_such_photos_says_so(store: RunStore, toy_base: Path) -> None:
    run, base = new_run(store, toy_base), stable_diffusion()
    _check_sizes(base, run.photo_paths)
    base.size_multiple = 64
    with pytest.raises(ConfigError, match="needs multiples of 64 px; set crop to square"):
        _check_sizes(base, run.photo_paths)
    base.takes_proportions = False
    with pytest.raises(ConfigError, match="toy is trained on squares alone; set crop to square"):
        _check_sizes(base, run.photo_paths)
    assert dataclasses.asdict(run.config)["crop"] == "buckets"
