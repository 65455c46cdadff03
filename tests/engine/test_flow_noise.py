"""The noise of flow models: levels, bins, and what leads to picture and noise."""

import numpy
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from apt_engine.bases import random
from apt_engine.bases.flow import FlowNoise, shift_for
from tests.klein import toy_klein


def test_velocity_leads_to_the_picture_and_to_the_noise() -> None:
    flow, generator = FlowNoise(), torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 2, 2, generator=generator) for _ in range(2))
    timesteps = torch.tensor([1.0, 500.0, 990.0])
    share = timesteps[:, None, None, None] / 1000
    noisy, velocity = flow.add_noise(latents, noise, timesteps), flow.target(latents, noise, timesteps)
    torch.testing.assert_close(noisy - share * velocity, latents)
    torch.testing.assert_close(noisy + (1 - share) * velocity, noise)
    wrong = velocity + 0.5
    gap = (noisy + (1 - share) * wrong - noise).square().mean((1, 2, 3))
    torch.testing.assert_close(gap, flow.in_eps_space(timesteps) * 0.25)
    torch.testing.assert_close(flow.snr(timesteps), ((1 - share) / share).square().flatten())


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_bins_are_tenths_of_what_is_drawn(shift: float) -> None:
    flow = FlowNoise()
    flow.shift = shift
    drawn = torch.tensor([flow.draw_timestep(random.generator(0, step, 0, "photos")) for step in range(4000)])
    assert 0 < drawn.min() < drawn.max() < 1000
    assert float(drawn.median()) == pytest.approx(1000 * shift / (1 + shift), rel=0.03)
    counts = torch.bincount(flow.bin_of(drawn), minlength=10)
    assert counts.tolist() == pytest.approx([400] * 10, abs=70)  # a standard deviation is 19
    assert flow.bin_of(torch.tensor(flow.levels(10))).tolist() == list(range(10))
    assert flow.levels(5) == sorted(flow.levels(5)) == flow.levels(5)


def test_larger_pictures_are_trained_with_more_noise() -> None:
    base = toy_klein()
    shifts = []
    for resolution in (128, 256, 512):
        base.prepare_training(resolution, gradient_checkpointing=False)
        shifts.append(base.shift)
    fixed = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False, shift=3.0).config
    assert shift_for(fixed, 64) == shift_for(fixed, 4096) == 3
    assert shifts == pytest.approx([numpy.e**0.5, numpy.e**0.63, numpy.e**1.15], rel=1e-3)
