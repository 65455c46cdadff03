"""The laws of APT on the toy model: what must hold exactly, whatever the numbers are."""

from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from apt_engine.apt.augment import Warp
from apt_engine.bases import random
from apt_engine.lora import adapter
from apt_engine.lora.adapter import reference_pass
from apt_engine.training.latents import LatentSource, View, encode_view
from apt_engine.training.step import AdaptiveStep
from tests.engine.test_bases import stable_diffusion
from tests.laws import (
    BASES,
    KINDS,
    OFF,
    Base,
    bare_base,
    config_of,
    fitted,
    gradients,
    output,
    photos,
    pictures,
    run,
    step_of,
    tuned_base,
)


@BASES
def test_at_the_start_nothing_has_changed(kind: str) -> None:
    base = tuned_base(kind, perturbed=False)
    step = step_of(base, augmentation=0)
    result = run(step, range(1, 30))
    assert result.reference_loss is not None
    assert result.loss.item() == result.reference_loss.item()
    assert result.stabilization is not None
    assert result.alignment is not None
    assert (result.stabilization.item(), result.alignment.item()) == (0, 0)
    assert step.indicator.gamma().tolist() == [0] * 10
    assert step.indicator.raw_gamma().tolist() == [0] * 10


@BASES
def test_after_a_change_the_reference_is_still_the_bare_base(kind: str) -> None:
    bare, base = bare_base(kind), tuned_base(kind)
    tuned = output(base)
    with reference_pass(base.denoiser):
        reference = output(base)
    assert (reference == output(bare)).all()
    assert (tuned - reference).abs().max() > 1e-3
    assert (output(base) == tuned).all()
    result = run(step_of(base))
    assert result.reference_loss is not None
    assert result.stabilization is not None
    assert result.alignment is not None
    assert result.loss.item() != result.reference_loss.item()
    assert result.stabilization.item() > 0
    assert result.alignment.item() > 0


def is_on(base: Base) -> list[bool]:
    return [not module.disable_adapters for module in base.denoiser.modules() if isinstance(module, BaseTunerLayer)]


def test_the_adapter_is_off_inside_and_on_again_also_after_an_exception() -> None:
    base = tuned_base()
    assert is_on(base)
    assert all(is_on(base))
    with reference_pass(base.denoiser):
        assert not any(is_on(base))
        assert not torch.is_grad_enabled()
    assert all(is_on(base))
    with pytest.raises(ZeroDivisionError), reference_pass(base.denoiser):
        raise ZeroDivisionError
    assert all(is_on(base))
    assert torch.is_grad_enabled()
    assert all(parameter.requires_grad for parameter in adapter.trainable_parameters(base.denoiser).values())


def test_the_flag_does_what_pefts_public_call_does() -> None:
    base = tuned_base()
    with reference_pass(base.denoiser):
        ours = output(base)
    base.pipeline.unet.disable_adapters()
    assert (output(base) == ours).all()
    base.pipeline.unet.enable_adapters()


def test_a_step_touches_no_global_random_stream() -> None:
    base = tuned_base()
    step = fitted(step_of(base))
    before = torch.get_rng_state()
    run(step)
    assert (torch.get_rng_state() == before).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_all_of_the_lora_and_nothing_else_gets_gradients(kind: str, checkpointing: bool) -> None:
    base = tuned_base(kind)
    base.prepare_training(32, gradient_checkpointing=checkpointing)
    run(fitted(step_of(base)))
    own = {id(parameter) for parameter in adapter.trainable_parameters(base.denoiser).values()}
    for module in (part for part in base.pipeline.components.values() if isinstance(part, nn.Module)):
        for parameter in module.parameters():
            if id(parameter) in own:
                assert parameter.grad is not None
                assert parameter.grad.abs().max() > 0
            else:
                assert parameter.grad is None


@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_is_on_where_it_is_asked_for(kind: str) -> None:
    base = bare_base(kind)
    for checkpointing in (False, True):
        base.prepare_training(32, gradient_checkpointing=checkpointing)
        told = [
            part.gradient_checkpointing for part in base.denoiser.modules() if hasattr(part, "gradient_checkpointing")
        ]
        assert told == [checkpointing] * len(told) != []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["stabilization", "alignment"])
def test_checkpointing_gives_the_same_gradients(part: str, kind: str) -> None:
    found = []
    for checkpointing in (False, True):
        base = tuned_base(kind)
        base.prepare_training(32, gradient_checkpointing=checkpointing)
        run(step_of(base, **{**OFF, part: 100}))
        found.append(gradients(base))
    without = tuned_base(kind)
    without.prepare_training(32, gradient_checkpointing=False)
    run(step_of(without, **OFF))
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], rtol=1e-4, atol=1e-7)
    assert any(not torch.allclose(found[0][name], gradient) for name, gradient in gradients(without).items())


def plain_training(base: Base, steps: int) -> list[Tensor]:
    """DreamBooth LoRA training written out without any of the engine's step: the baseline."""
    config, source = config_of(**OFF), photos(base)
    states = base.encode_prompts([config.fill(config.caption)])
    optimizer = torch.optim.AdamW(adapter.trainable_parameters(base.denoiser).values(), lr=1e-2)
    for step in range(1, steps + 1):
        draws: dict[str, list[Any]] = {"t": [], "x": [], "eps": []}
        for sample in range(config.batch_size):
            generator = random.generator(config.seed, step, sample, "photos")
            draws["t"].append(base.draw_timestep(generator))
            view = source.plain[int(torch.randint(2, (), generator=generator))]
            draws["x"].append(view.mean + view.std * torch.randn(view.mean.shape, generator=generator))
            draws["eps"].append(torch.randn(view.mean.shape, generator=generator))
        timesteps, latents, noise = torch.tensor(draws["t"]), torch.stack(draws["x"]), torch.stack(draws["eps"])
        prediction = base.predict(base.add_noise(latents, noise, timesteps), timesteps, states.expand(3))
        (prediction - base.target(latents, noise, timesteps)).square().mean(dim=(1, 2, 3)).mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    return [parameter.detach().clone() for parameter in adapter.trainable_parameters(base.denoiser).values()]


def adaptive_training(base: Base, steps: int, **settings: Any) -> list[Tensor]:
    step = step_of(base, **settings)
    optimizer = torch.optim.AdamW(adapter.trainable_parameters(base.denoiser).values(), lr=1e-2)
    for number in range(1, steps + 1):
        step(number, Tensor.backward)
        optimizer.step()
        optimizer.zero_grad()
    return [parameter.detach().clone() for parameter in adapter.trainable_parameters(base.denoiser).values()]


@BASES
def test_with_all_parts_off_it_is_the_plain_step(kind: str) -> None:
    plain = plain_training(tuned_base(kind, perturbed=False), 6)
    adaptive = adaptive_training(tuned_base(kind, perturbed=False), 6, **OFF)
    assert all((ours == theirs).all() for ours, theirs in zip(adaptive, plain, strict=True))


def test_measuring_alone_changes_not_a_bit() -> None:
    off = adaptive_training(tuned_base(perturbed=False), 6, **OFF)
    measured = adaptive_training(tuned_base(perturbed=False), 6, **OFF, measure=True)
    assert all((ours == theirs).all() for ours, theirs in zip(off, measured, strict=True))


@pytest.mark.parametrize(("kind", "cuts"), [("epsilon", [(2, 2), (1, 4)]), ("klein", [(2, 2)]), ("z-image", [(2, 2)])])
def test_micro_batches_learn_what_the_joint_batch_learns(kind: str, cuts: list[tuple[int, int]]) -> None:
    """2 x 2 against 4, everything on, lambdas found on the way; some micro-batches share bins, others do not."""
    found = []
    for size, accumulate in ((4, 1), *cuts):
        base = tuned_base(kind)
        settings = {"batch_size": size, "accumulate": accumulate, "sensitivity": 3.0, "calibration_step": 4}
        source = photos(base)
        config = config_of(**settings, stabilization_lambda=0.0, alignment_lambda=0.0, min_snr_gamma=5)
        step = fitted(AdaptiveStep(config, base, source, source))
        parameters = list(adapter.trainable_parameters(base.denoiser).values())
        optimizer = torch.optim.AdamW(parameters, lr=1e-4)
        results = []
        for number in range(1, 21):
            results.append(step(number, Tensor.backward))
            optimizer.step()
            optimizer.zero_grad()
        found.append((parameters, step, results[-1]))
    (expected, whole, told), *others = found
    for parameters, step, result in others:
        for ours, theirs in zip(parameters, expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)
        assert torch.equal(step.indicator.visits, whole.indicator.visits)
        torch.testing.assert_close(step.indicator.gamma(), whole.indicator.gamma(), rtol=0, atol=1e-6)
        torch.testing.assert_close(result.weights, told.weights, rtol=0, atol=1e-6)
        assert result.loss.item() == pytest.approx(told.loss.item(), rel=1e-5)
        assert step.loss_weights.values == pytest.approx(whole.loss_weights.values, rel=1e-4)


@pytest.mark.parametrize("part", [{"augmentation": 0.8}, {"weighting": True}, {"stabilization": 1}, {"alignment": 1}])
def test_each_part_alone_changes_the_result(part: dict[str, Any]) -> None:
    settings = {**OFF, "sensitivity": 1e5, "stabilization_lambda": 100, "alignment_lambda": 100}
    off = adaptive_training(tuned_base(perturbed=False), 40, **settings)
    on = adaptive_training(tuned_base(perturbed=False), 40, **{**settings, **part})
    assert any((ours != theirs).any() for ours, theirs in zip(off, on, strict=True))


def test_no_sample_is_warped_while_gamma_is_zero_and_most_are_when_it_is_high() -> None:
    base = tuned_base()
    calm, keen = step_of(base, sensitivity=1e-3), fitted(step_of(base))
    assert not any(any(run(calm, range(number, number + 1)).batch.warped) for number in range(1, 20))
    warped, chances = [], []
    for number in range(1, 60):
        fitted(keen)
        batch = run(keen, range(number, number + 1)).batch
        warped.extend(batch.warped)
        chances.extend(batch.chances)
    assert set(chances) == {0.8}
    assert 0.7 < sum(warped) / len(warped) < 0.9


def test_a_warp_moves_no_other_draw() -> None:
    base = tuned_base()
    plain, warped = step_of(base, augmentation=0), fitted(step_of(base, augmentation=1))
    first, second = run(plain).batch, run(warped).batch
    assert all(second.warped)
    assert (first.timesteps == second.timesteps).all()
    assert (first.noise == second.noise).all()
    assert not (first.latents == second.latents).all()


def test_borders_are_masked_or_trained_on_as_in_the_paper() -> None:
    base = tuned_base()
    masks = {
        border: run(fitted(step_of(base, augmentation=1, border=border))).batch.mask for border in ("masked", "paper")
    }
    assert masks["paper"].min() == 1
    assert 0 < masks["masked"].mean() < 1


def test_what_lies_outside_the_mask_has_no_part_in_the_loss() -> None:
    base = tuned_base()
    step = step_of(base, augmentation=0)
    batch = run(step).batch
    batch.mask[:, :, 4:] = 0
    error = step._errors(batch, step._captions.states(batch.photos))
    real_target = base.target
    base.target = lambda latents, noise, timesteps: (
        real_target(latents, noise, timesteps) + 9 * (1 - batch.mask[:, None])
    )
    assert (step._errors(batch, step._captions.states(batch.photos)) == error).all()


def test_a_view_of_which_nothing_counts_moves_neither_loss_nor_indicator() -> None:
    found = []
    for scale in (1, 5):  # of what does not count
        base = tuned_base()
        step = step_of(base, augmentation=0, batch_size=4)
        whole = step._photos.plain[0]
        empty = View(scale * whole.mean, whole.std, torch.zeros_like(whole.mask))
        step._photos = LatentSource([whole, empty])
        result = run(step)
        assert sorted(result.batch.photos) == [0, 0, 0, 1]
        assert result.batch.counts.tolist() == [photo == 0 for photo in result.batch.photos]
        assert float(step.indicator.visits.sum()) == 3
        found.append((result, step.state_dict()["tuned_loss"], gradients(base)))
    for ours, theirs in zip(*(one[2].values() for one in found), strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(found[0][1], found[1][1])
    step, batch = step_of(tuned_base(), augmentation=0, batch_size=4), found[0][0].batch
    errors = step._errors(batch, step._captions.states(batch.photos))[batch.counts == 1]
    assert found[0][0].loss.item() == pytest.approx(errors.mean().item(), rel=1e-6)
    assert found[0][0].loss.item() == found[1][0].loss.item()


def test_the_weight_is_one_minus_gamma_of_the_bin_after_the_update() -> None:
    step = fitted(step_of(tuned_base(), sensitivity=0.5), gap=1.0)
    result = run(step)
    expected = 1 - step.indicator.gamma()[result.batch.bins]
    torch.testing.assert_close(result.weights.double(), expected, rtol=1e-6, atol=1e-7)
    off = fitted(step_of(tuned_base(), sensitivity=0.5, weighting=False), gap=1.0)
    assert (run(off).weights == 1).all()
    assert off.indicator.gamma().max() > 0.1


def test_the_indicator_lives_in_eps_space() -> None:
    base = tuned_base("v_prediction")
    step = step_of(base, augmentation=0, batch_size=1)
    result = run(step)
    snr = base.snr(result.batch.timesteps)
    expected = float(result.loss * snr / (snr + 1))
    assert float(step.state_dict()["tuned_loss"][result.batch.bins]) == pytest.approx(expected, rel=1e-5)


def test_numbers_that_are_not_finite_stay_out_of_the_indicator(monkeypatch: pytest.MonkeyPatch) -> None:
    base = tuned_base()
    step = step_of(base)
    real = base.predict
    monkeypatch.setattr(base, "predict", lambda *arguments: real(*arguments) * float("nan"))
    run(step, backward=lambda loss: None)
    assert float(step.indicator.visits.sum()) == 0
    assert torch.isfinite(step.indicator.raw_gamma()).all()


def test_warped_views_carry_their_mask_with_them() -> None:
    base = stable_diffusion()
    view = encode_view(base, pictures()[0], Warp(1.3, 5))
    assert isinstance(view, View)
    assert view.mask.shape == view.mean.shape[1:]
    assert 0 < view.mask.mean() < 1
    assert encode_view(base, pictures()[0]).mask.min() == 1


def test_lambdas_are_found_at_the_calibration_step_and_stay_up_to_the_next_50th() -> None:
    base = tuned_base()
    step = step_of(base, stabilization_lambda=0, alignment_lambda=0, calibration_step=6, augmentation=0)
    run(step, range(1, 6))
    assert step.loss_weights.unknown == ["stabilization", "alignment"]
    run(step, range(6, 7))
    assert step.loss_weights.unknown == []
    found = dict(step.loss_weights.values)
    assert all(value > 0 for value in found.values())
    run(step, range(7, 10))
    assert step.loss_weights.values == found


def test_calibrated_terms_pull_with_a_fifth_of_the_force() -> None:
    base = tuned_base()
    step = step_of(base, stabilization_lambda=0, alignment_lambda=0, calibration_step=1, augmentation=0)
    run(step)
    norms = []
    for settings in ({**OFF, "weighting": True}, {"alignment": 0}, {"stabilization": 0}):
        values = {"augmentation": 0, "weighting": True, "sensitivity": 1000, **settings}
        values |= {f"{name}_lambda": value for name, value in step.loss_weights.values.items()}
        other = tuned_base()
        run(step_of(other, **values))
        norms.append(torch.cat([gradient.flatten() for gradient in gradients(other).values()]))
    for combined in norms[1:]:
        assert float((combined - norms[0]).norm() / norms[0].norm()) == pytest.approx(0.2, rel=1e-3)
