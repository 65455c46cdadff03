"""The plain step's formulas, worked by hand, and the keys of its randomness."""

import pytest
import torch

from apt_engine import random
from apt_engine.config import TrainingConfig
from apt_engine.latents import LatentSource
from apt_engine.step import Batch, DreamBoothStep, draw_batch, min_snr_weights, prediction_errors
from tests.test_bases import stable_diffusion


def source(photos: int = 3) -> LatentSource:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(photos, 4, 8, 8, generator=generator)
    return LatentSource(mean, torch.full_like(mean, 0.1))


def batch_of(step: int, size: int = 3, seed: int = 0, purpose: str = "photos") -> Batch:
    base = stable_diffusion()
    config = TrainingConfig(subject="car", batch_size=size, seed=seed)
    return draw_batch(config, base, source(), base.encode_prompts(["a car"]), step=step, purpose=purpose)


def test_a_generator_depends_on_every_part_of_its_key_and_on_nothing_else() -> None:
    def draw(*key: object) -> float:
        return float(torch.rand((), generator=random.generator(*key)))  # pyright: ignore[reportArgumentType]

    keys = [
        (0, 1, 2, "photos"),
        (1, 1, 2, "photos"),
        (0, 2, 2, "photos"),
        (0, 1, 3, "photos"),
        (0, 1, 2, "prior"),
        (0, 12, 0, "photos"),
    ]
    assert len({draw(*key) for key in keys}) == len(keys)
    first = draw(*keys[0])
    torch.rand(7)
    assert draw(*keys[0]) == first


def test_min_snr_weights_by_hand() -> None:
    snr = torch.tensor([0.5, 5.0, 20.0])
    torch.testing.assert_close(min_snr_weights(snr, 5, "epsilon"), torch.tensor([1.0, 1.0, 0.25]))
    torch.testing.assert_close(min_snr_weights(snr, 5, "v_prediction"), torch.tensor([1 / 3, 5 / 6, 5 / 21]))
    assert min_snr_weights(snr, 0, "epsilon").tolist() == [1, 1, 1]


def test_a_sample_is_the_same_in_a_larger_batch() -> None:
    small, large = batch_of(7, size=2), batch_of(7, size=5)
    assert large.timesteps[:2].tolist() == small.timesteps.tolist()
    assert (large.latents[:2] == small.latents).all()
    assert (large.noise[:2] == small.noise).all()


def test_steps_seeds_and_purposes_draw_anew() -> None:
    first = batch_of(1).noise
    for other in (batch_of(2), batch_of(1, seed=1), batch_of(1, purpose="prior")):
        assert not (first == other.noise).any()


def test_every_photo_and_the_whole_range_of_timesteps_are_visited() -> None:
    base, config = stable_diffusion(), TrainingConfig(subject="car", batch_size=64)
    photos = LatentSource(torch.arange(3.0)[:, None, None, None].expand(3, 4, 8, 8), torch.zeros(3, 4, 8, 8))
    batch = draw_batch(config, base, photos, base.encode_prompts(["a car"]), step=1, purpose="photos")
    assert set(batch.latents[:, 0, 0, 0].tolist()) == {0.0, 1.0, 2.0}
    assert batch.timesteps.min() < 100
    assert batch.timesteps.max() >= 900
    assert (batch.timesteps >= 0).all()
    assert (batch.timesteps < 1000).all()


def test_latents_are_drawn_from_the_vaes_distribution() -> None:
    photos = LatentSource(torch.full((1, 4, 64, 64), 2.0), torch.full((1, 4, 64, 64), 0.5))
    drawn = photos.draw(0, random.generator(0, 0, 0, "photos"))
    assert float(drawn.mean()) == pytest.approx(2.0, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_errors_are_the_mean_square_of_each_sample(prediction_type: str) -> None:
    base = stable_diffusion(prediction_type)
    batch = batch_of(1)
    errors = prediction_errors(base, batch)
    noisy = base.add_noise(batch.latents, batch.noise, batch.timesteps)
    for sample in range(3):
        one = slice(sample, sample + 1)
        output = base.predict(noisy[one], batch.timesteps[one], batch.states[one])
        target = base.target(batch.latents[one], batch.noise[one], batch.timesteps[one])
        assert float(errors[sample]) == pytest.approx(float((output - target).square().mean()), rel=1e-4)


def test_min_snr_weighs_the_loss() -> None:
    base, photos = stable_diffusion(), source()
    plain = DreamBoothStep(TrainingConfig(subject="car"), base, photos)
    weighted = DreamBoothStep(TrainingConfig(subject="car", min_snr_gamma=5), base, photos)
    ratios = set()
    for step in range(1, 40):
        timestep = batch_of(step, size=1).timesteps
        expected = float(min_snr_weights(base.snr(timestep), 5, "epsilon"))
        with torch.no_grad():
            ratio = float(weighted.losses(step)[0] / plain.losses(step)[0])
        assert ratio == pytest.approx(expected, rel=1e-4)
        ratios.add(round(ratio, 4))
    assert len(ratios) > 2
