"""Drift, rebuilt from its definition: one prompt and one noise level at a time, a second model as the reference."""

import dataclasses
from typing import Any

import pytest
import torch

from apt_engine.bases import random
from apt_engine.sampling.sampler import Picture, Sampler
from apt_engine.training.drift import PriorDrift
from tests.laws import bare_base, config_of, perturb, tuned_base

PROMPTS = ("a cat", "a dog on the beach")
SEED = 5
ALL = tuple((level, timestep) for level, timestep in enumerate((100, 300, 500, 700, 900)))
SETTINGS: dict[str, Any] = {"drift_prompts": PROMPTS, "resolution": 32, "seed": SEED}


@pytest.mark.parametrize(
    ("kind", "is_thorough", "levels"),
    [("v_prediction", False, (((0, 250),), ((0, 750),))), ("sdxl", True, (ALL, ALL))],
)
def test_drift_is_the_squared_error_in_eps_space_over_prompts_and_levels(
    kind: str, is_thorough: bool, levels: tuple[tuple[tuple[int, int], ...], ...]
) -> None:
    bare, tuned = bare_base(kind), tuned_base(kind)
    config = config_of(**SETTINGS, thorough_checks=is_thorough)
    parts = []
    with torch.no_grad():
        for index, (prompt, own) in enumerate(zip(PROMPTS, levels, strict=True)):
            picture = dataclasses.replace(Picture.of(config, prompt, SEED + index), steps=8, guidance_scale=1.0)
            (latents,) = Sampler(bare).latents([picture])
            states = bare.encode_prompts([prompt])
            for level, timestep in own:
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


def test_what_was_measured_before_changes_no_measurement() -> None:
    """The untrained model is asked once; from then on the LoRA is held against what it said."""
    once, twice = tuned_base(), tuned_base(perturbed=False)
    before = PriorDrift(twice, config_of(**SETTINGS))
    assert before.measure() == 0
    perturb(twice)
    assert before.measure() == PriorDrift(once, config_of(**SETTINGS)).measure() > 0
