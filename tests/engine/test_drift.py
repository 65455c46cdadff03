"""Drift, rebuilt from its definition: one prompt and one noise level at a time, a second model as the reference."""

import pytest
import torch

from apt_engine import random
from apt_engine.sampling.sampler import Picture, Sampler
from apt_engine.training.drift import PriorDrift
from tests.engine.test_laws import bare_base, config_of, tuned_base

PROMPTS = ("a cat", "a dog on the beach")
SEED = 5


@pytest.mark.parametrize("kind", ["v_prediction", "sdxl"])
def test_drift_is_the_squared_error_in_eps_space_over_prompts_and_levels(kind: str) -> None:
    bare, tuned = bare_base(kind), tuned_base(kind)
    config = config_of(drift_prompts=PROMPTS, resolution=32, sample_steps=2, seed=SEED)
    parts = []
    with torch.no_grad():
        for index, prompt in enumerate(PROMPTS):
            (latents,) = Sampler(bare).latents([Picture.of(config, prompt, SEED + index)])
            states = bare.encode_prompts([prompt])
            for level, timestep in enumerate([100, 300, 500, 700, 900]):
                timesteps = torch.tensor([timestep])
                noise = torch.randn(latents.shape[1:], generator=random.generator(SEED, level, index, "drift"))
                noisy = bare.add_noise(latents, noise[None], timesteps)
                error = tuned.predict(noisy, timesteps, states) - bare.predict(noisy, timesteps, states)
                snr = bare.snr(timesteps)
                signal = snr / (1 + snr) if kind == "v_prediction" else 1.0
                parts.append(float((signal * error.square()).mean()))
    drift = PriorDrift(tuned, config)
    assert drift.measure() == pytest.approx(sum(parts) / len(parts), rel=1e-4)
    assert drift.measure() == drift.measure()
