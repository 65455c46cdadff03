"""A step on other devices and in other number formats: it needs no fp64, waits once, and says the same in half precision."""

import contextlib
from collections.abc import Callable
from typing import Any

import diffusers.models.transformers.transformer_flux2 as flux
import pytest
import torch
from torch import Tensor

from apt_engine.bases.sd import StableDiffusion
from apt_engine.errors import RunError
from apt_engine.lora import adapter
from apt_engine.training.calibration import LossWeights, calibration_step
from apt_engine.training.latents import LatentSource, View
from apt_engine.training.processes import ALONE
from apt_engine.training.step import AdaptiveStep, StepResult
from apt_engine.training.watch import attention_map
from tests.fake_device import DEVICE, FakeDevice
from tests.laws import Base, config_of, fitted, perturb, photos, step_of, tuned_base
from tests.toy import toy_pipeline

CAPTIONS = ("a {subject}", "a photo of a {subject} on the beach")
ALL: dict[str, Any] = {
    "batch_size": 2,
    "sensitivity": 0.5,
    "min_snr_gamma": 5.0,
    "stabilization_lambda": 0.0,
    "alignment_lambda": 0.0,
    "calibration_step": 2,
}


def moved(source: LatentSource, device: torch.device) -> LatentSource:
    def move(view: View) -> View:
        return View(view.mean.to(device), view.std.to(device), view.mask.to(device), view.shown)

    return LatentSource([move(view) for view in source.plain], lambda *arguments: move(source.warped(*arguments)))


def all_parts(base: Base, **settings: Any) -> AdaptiveStep:
    """A step with everything on, half of whose samples are warped."""
    source = moved(photos(base), base.device)
    step = AdaptiveStep(config_of(**{**ALL, **settings}), base, source, source, captions=CAPTIONS)
    return fitted(step, gap=1.0)


def learn(step: AdaptiveStep, base: Base, steps: int, each: Callable[[], object] = lambda: None) -> list[StepResult]:
    """Steps with gradients clipped and an optimizer; `each` is called before each."""
    parameters = list(adapter.trainable_parameters(base.denoiser).values())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    results = []
    for number in range(1, steps + 1):
        each()
        results.append(step(number, Tensor.backward, lambda: torch.nn.utils.clip_grad_norm_(parameters, 1.0)))
        optimizer.step()
        optimizer.zero_grad()
    return results


@pytest.mark.parametrize(("kind", "accumulate"), [("epsilon", 1), ("v_prediction", 2), ("klein", 1), ("z-image", 1)])
def test_a_step_needs_no_fp64_waits_once_and_says_what_it_says_on_the_cpu(
    kind: str, accumulate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    angles = flux.get_1d_rotary_pos_embed
    monkeypatch.setattr(  # diffusers leaves fp64 out on the devices that have none, by their names
        flux, "get_1d_rotary_pos_embed", lambda *args, **named: angles(*args, **{**named, "freqs_dtype": torch.float32})
    )
    base = tuned_base(kind)
    expected = learn(all_parts(base, accumulate=accumulate), base, 2)
    waits: list[list[str]] = []
    with FakeDevice() as device:
        base = tuned_base(kind)
        base.device = DEVICE
        monkeypatch.setattr(base, "autocast", contextlib.nullcontext)
        base.denoiser.to(DEVICE)
        step = all_parts(base, accumulate=accumulate)
        found = learn(step, base, 2, lambda: (waits.append(device.waits), setattr(device, "waits", [])))
    assert [*waits[1:], device.waits] == [["aten._to_copy.default"]] * 2
    assert any(draw.is_warped for result in found for draw in result.draws)
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("loss", "reference_loss", "stabilization", "alignment", "prior_loss", "gradient_norm", "weights"):
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-5, atol=1e-7)
    assert not step.loss_weights.unknown


def half_precision(dtype: torch.dtype) -> StableDiffusion:
    """The toy in autocast, its LoRA moved as far as training moves it."""
    base = StableDiffusion(toy_pipeline(), name="toy", device=torch.device("cpu"), dtype=dtype, attention="fused")
    adapter.attach(base.denoiser, 4, 4.0, base.lora.attention, 0)
    perturb(base)
    return base


def measured(dtype: torch.dtype, steps: int, **settings: Any) -> tuple[AdaptiveStep, list[StepResult]]:
    """Steps of a LoRA that stays as it is, with a loss scaler where fp16 needs one."""
    base = half_precision(dtype)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14, enabled=dtype == torch.float16)
    values = {"batch_size": 4, "sensitivity": 200.0, "stabilization_lambda": 0.0, "alignment_lambda": 0.0, **settings}
    step = AdaptiveStep(config_of(**values), base, photos(base), scale=scaler.scale)
    parameters = list(adapter.trainable_parameters(base.denoiser).values())
    optimizer = torch.optim.SGD(parameters, lr=0.0)

    def clip() -> Tensor:
        scaler.unscale_(optimizer)
        return torch.nn.utils.clip_grad_norm_(parameters, 1.0)

    results = []
    for number in range(1, steps + 1):
        results.append(step(number, lambda loss: scaler.scale(loss).backward(), clip))
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    return step, results


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_finds_the_same_gamma_terms_and_lambdas(dtype: torch.dtype) -> None:
    """fp16 to 2 %; bf16 rounds eight times as coarsely."""
    settings = {"augmentation": 0, "calibration_step": 8, "weighting": False}
    (exact, expected), (half, found) = (measured(kind, 14, **settings) for kind in (torch.float32, dtype))
    tolerance = 0.02 if dtype == torch.float16 else 0.16
    assert not half.loss_weights.unknown
    for name, value in exact.loss_weights.values.items():
        assert half.loss_weights.values[name] == pytest.approx(value, rel=tolerance)
        assert half.loss_weights.spreads[name] == pytest.approx(exact.loss_weights.spreads[name], rel=tolerance)
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("stabilization", "alignment", "loss"):
            assert float(getattr(ours, name)) == pytest.approx(float(getattr(theirs, name)), rel=tolerance)
    gammas = half.indicator.gamma(), exact.indicator.gamma()
    assert sorted(gammas[1].tolist())[-3] > 0.2  # of at least three bins there is something to compare
    torch.testing.assert_close(*gammas, rtol=tolerance, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_large_queries_and_keys_give_a_finite_map_of_full_precision(dtype: torch.dtype) -> None:
    """Scores of std 50 * 50 * sqrt(64), a hundred thousand at most: beyond fp16, and beyond bf16's resolution."""
    generator = torch.Generator().manual_seed(0)
    query, key = (50 * torch.randn(1, 2, count, 64, generator=generator) for count in (16, 9))
    query, key = query.to(dtype), key.to(dtype)
    expected = torch.softmax(query.double() @ key.double().transpose(-1, -2) / 8, dim=-1)
    for autocast in (torch.float16, torch.bfloat16):
        with torch.autocast("cpu", autocast):
            found = attention_map(query, key)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-3)


def test_calibration_says_how_far_its_steps_differ() -> None:
    ratios = [0.5, 2.0, 8.0]
    weights = LossWeights(config_of(stabilization_lambda=0, calibration_step=3), 300, ALONE, lambda term: term)
    for step, ratio in enumerate(ratios, 1):
        weights.take_in(step, [5.0 * ratio, 1.0])
    assert weights.values["stabilization"] == pytest.approx(2.0)
    assert weights.spreads == {"stabilization": pytest.approx(4.0)}


def test_a_short_run_calibrates_in_its_first_fifth_unless_that_is_too_short() -> None:
    config = config_of()
    assert [calibration_step(config, steps) for steps in (1000, 500, 300, 100)] == [100, 100, 60, 20]
    assert calibration_step(config, 99) == 100
    assert calibration_step(config_of(calibration_step=30), 300) == 30


def test_what_is_off_for_more_than_a_fifth_of_a_run_is_told_before_it() -> None:
    def notice(steps: int, **settings: Any) -> str | None:
        return LossWeights(config_of(**settings), steps, ALONE, lambda term: term).notice

    off = {"stabilization_lambda": 0, "alignment_lambda": 0}
    assert notice(300, **off) is None
    assert notice(60) is None  # the lambdas are set
    assert "this run of 60 steps ends before their weights would be found, at step 100" in (notice(60, **off) or "")
    assert "off up to step 30 of 60" in (notice(60, **off, calibration_step=30) or "")


def test_a_run_does_not_go_on_with_another_lambda_or_indicator() -> None:
    base = tuned_base()
    state = step_of(base).state_dict()
    step_of(base).load_state_dict(state)
    step_of(base).load_state_dict({name: value for name, value in state.items() if name != "indicator_kind"})
    for settings, words in (
        ({"alignment_lambda": 2.0}, "trained with alignment_lambda 1, and its settings now say 2"),
        ({"sensitivity": 10}, "trained with indicator absolute and sensitivity 1000, .* now say absolute and 10"),
        ({"indicator": "relative"}, "now say relative and 1000"),
    ):
        with pytest.raises(RunError, match=words):
            step_of(base, **settings).load_state_dict(state)
