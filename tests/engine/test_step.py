"""The step's draws and weights, worked by hand, and the keys of its randomness."""

import pytest
import torch

from apt_engine.apt.losses import min_snr_weight
from apt_engine.bases import random
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.draws import Batch
from apt_engine.training.latents import LatentSource, View
from apt_engine.training.step import AdaptiveStep
from tests.engine.test_bases import stable_diffusion

OFF = {"augmentation": 0, "weighting": False, "stabilization": 0, "alignment": 0}


def view(mean: torch.Tensor, std: float) -> View:
    return View(mean, torch.full_like(mean, std), torch.ones(mean.shape[1:]))


def source() -> LatentSource:
    return LatentSource([view(torch.full((4, 8, 8), float(photo)), 0.0) for photo in range(3)])


def step_of(prediction_type: str = "epsilon", size: int = 3, **settings: object) -> AdaptiveStep:
    config = TrainingConfig.from_dict({"subject": "car", "batch_size": size, **OFF, **settings})
    return AdaptiveStep(config, stable_diffusion(prediction_type), source())


def batch_of(number: int, size: int = 3, seed: int = 0, purpose: str = "photos") -> Batch:
    step, base = step_of(size=size, seed=seed), stable_diffusion()
    draws = step._draw_all(number, range(size), source(), purpose)
    return Batch.of(draws, source(), base, "masked")


def test_a_generator_depends_on_every_part_of_its_key_and_on_nothing_else() -> None:
    def draw(*key: object) -> float:
        return float(torch.rand((), generator=random.generator(*key)))  # pyright: ignore[reportArgumentType]

    first = (0, 1, 2, "photos")
    others = [(1, 1, 2, "photos"), (0, 2, 2, "photos"), (0, 1, 3, "photos"), (0, 1, 2, "prior"), (0, 12, 0, "photos")]
    assert len({draw(*key) for key in (first, *others)}) == 6
    assert draw(0, 1, 23, "photos") != draw(0, 12, 3, "photos")
    before = draw(*first)
    torch.rand(7)
    assert draw(*first) == before


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
    batch = batch_of(1, size=64)
    assert set(batch.latents[:, 0, 0, 0].tolist()) == {0.0, 1.0, 2.0}
    assert 0 <= batch.timesteps.min() < 100
    assert 900 <= batch.timesteps.max() < 1000


def test_latents_are_drawn_from_the_vaes_distribution() -> None:
    drawn = view(torch.full((4, 64, 64), 2.0), 0.5).draw(random.generator(0, 0, 0, "photos"))
    assert float(drawn.mean()) == pytest.approx(2.0, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_errors_are_the_mean_square_of_each_sample(prediction_type: str) -> None:
    step, base = step_of(prediction_type), stable_diffusion(prediction_type)
    batch, states = batch_of(1), stable_diffusion().encode_prompts(["a car"])
    errors = step._errors(batch, states.expand(3))
    noisy = base.add_noise(batch.latents, batch.noise, batch.timesteps)
    for sample in range(3):
        one = slice(sample, sample + 1)
        output = base.predict(noisy[one], batch.timesteps[one], states)
        target = base.target(batch.latents[one], batch.noise[one], batch.timesteps[one])
        assert errors[sample].item() == pytest.approx((output - target).square().mean().item(), rel=1e-4)


def test_min_snr_weighs_the_loss() -> None:
    plain, weighted = step_of(size=1), step_of(size=1, min_snr_gamma=5)
    ratios = set()
    for number in range(1, 40):
        losses: list[float] = []

        def note(loss: torch.Tensor, losses: list[float] = losses) -> None:
            losses.append(loss.item())

        batch = plain(number, note).batch
        weighted(number, note)
        expected = min_snr_weight(stable_diffusion().snr(batch.timesteps), torch.ones(1), 5).item()
        assert losses[1] / losses[0] == pytest.approx(expected, rel=1e-4)
        ratios.add(round(expected, 4))
    assert len(ratios) > 2
