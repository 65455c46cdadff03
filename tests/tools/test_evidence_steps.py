"""Steps of methods that are only compared with: Direct Consistency Optimization, and draws by gamma."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from apt_engine.apt import indicator
from apt_engine.apt.bins import BINS
from apt_engine.bases.base import BaseModel
from apt_engine.bases.profiles import build_config
from apt_engine.bases.registry import load_base
from apt_engine.jobs.session import train
from apt_engine.lora import adapter
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.presets import load_presets
from apt_engine.settings.training import TrainingConfig
from apt_engine.training import preparation as taken
from apt_engine.training.draws import Batch
from apt_engine.training.latents import LatentSource, View
from apt_engine.training.step import AdaptiveStep, Tally
from benchmarks import drawings
from benchmarks.evidence.curves import trajectories
from benchmarks.evidence.methods import FIXED, METHODS, VARIATIONS, settings_of, trained_as
from benchmarks.evidence.steps import (
    FLOOR,
    AdaptedDraws,
    ConsistencyStep,
    acceptance,
    consistency_loss,
    consistency_weight,
    stepping,
)
from benchmarks.evidence.variations import compared
from benchmarks.likeness import list_subjects, open_photos
from tests.tools.test_evidence import recording

BETA = 10.0
preparation: Any = taken  # where a run takes its kind of step from


def test_the_loss_and_its_weight_on_numbers() -> None:
    tuned, reference = torch.tensor([0.2, 0.3, 0.1]), torch.tensor([0.2, 0.2, 0.2])
    expected = [math.log(2), math.log(1 + math.e), math.log(1 + 1 / math.e)]
    assert consistency_loss(tuned, reference, BETA).tolist() == pytest.approx(expected)
    expected = [5, 10 / (1 + 1 / math.e), 10 / (1 + math.e)]
    assert consistency_weight(tuned, reference, BETA).tolist() == pytest.approx(expected)
    learnt = tuned.clone().requires_grad_()
    consistency_loss(learnt, reference, BETA).sum().backward()
    assert learnt.grad is not None
    assert learnt.grad.tolist() == pytest.approx(consistency_weight(tuned, reference, BETA).tolist())


@pytest.fixture(scope="module")
def base(toy_base: object) -> BaseModel:
    made = load_base(str(toy_base), device="cpu", dtype="fp32", attention="plain")
    adapter.attach(made.denoiser, 4, 4.0, made.lora.attention, seed=0)
    return made


def source() -> LatentSource:
    generator = torch.Generator().manual_seed(0)
    views = [View(torch.randn(4, 8, 8, generator=generator), torch.zeros(4, 8, 8), torch.ones(8, 8)) for _ in range(3)]
    return LatentSource(views)


def step_of(kind: type[AdaptiveStep], base: BaseModel, method: str, **settings: Any) -> AdaptiveStep:
    values = {"subject": "car", "batch_size": 4, "sensitivity": BETA, **METHODS[method], **settings}
    return kind(TrainingConfig.from_dict(values), base, source())


def gradients(step: AdaptiveStep) -> dict[str, Tensor]:
    """Those of one step, by the name of the parameter; of a thousand times the loss: no number is too small to compare."""
    parameters = adapter.trainable_parameters(step._base.denoiser)
    for parameter in parameters.values():
        parameter.grad = None
    step(1, lambda loss: (1000 * loss).backward())
    return {name: parameter.grad.clone() for name, parameter in parameters.items() if parameter.grad is not None}


def test_before_the_first_step_it_is_plain_training_times_a_number(base: BaseModel) -> None:
    plain = gradients(step_of(AdaptiveStep, base, "plain"))
    ours = gradients(step_of(ConsistencyStep, base, "dco"))
    assert sum(float(gradient.abs().sum()) for gradient in plain.values()) > 0
    for name, gradient in ours.items():
        assert torch.allclose(gradient, BETA / 2 * plain[name], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("min_snr_gamma", [0.0, 0.05])  # the other weighs all four draws
def test_the_step_follows_the_gradient_of_the_loss(base: BaseModel, min_snr_gamma: float) -> None:
    parameters = adapter.trainable_parameters(base.denoiser)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if ".lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    try:
        beta = 100 * BETA  # so large that the sigmoid is not flat, where weights inside it would not show
        step = step_of(ConsistencyStep, base, "dco", min_snr_gamma=min_snr_gamma, sensitivity=beta)
        ours = gradients(step)
        draws = [step._draw(1, number, range(3), "photos") for number in range(4)]
        batch = Batch.of(draws, source(), base, "masked")
        states = step._captions.states(batch.photos)
        noise_weights = step._noise_weights(batch)
        with torch.no_grad(), adapter.reference_pass(base.denoiser):
            reference = step._errors(batch, states)
        for parameter in parameters.values():
            parameter.grad = None
        tuned = step._errors(batch, states)
        (1000 * consistency_loss(noise_weights * tuned, noise_weights * reference, beta).mean()).backward()
        assert (tuned - reference).abs().min() > 1e-4
        assert len(ours) == len(parameters)
        for name, parameter in parameters.items():
            assert parameter.grad is not None
            assert torch.allclose(ours[name], parameter.grad, rtol=1e-3, atol=1e-2)
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                if ".lora_B" in name:
                    parameter.zero_()


def fitted(step: AdaptiveStep) -> Tensor:
    """Gamma of the bins (N,) of a step that has seen finer noise levels fitted better."""
    step.indicator.update(
        torch.stack([torch.full((BINS,), 100.0), 100 + 100 * torch.linspace(0.4, 0, BINS)]).double(),
        torch.full((BINS,), 100.0).double(),
    )
    return step.indicator.gamma()


def test_draws_go_where_gamma_is_low_and_count_less_there(base: BaseModel) -> None:
    step = step_of(AdaptedDraws, base, "apt, draws", augmentation=0, stabilization=0, alignment=0)
    gamma = fitted(step)
    assert float(gamma.max()) > 1 - FLOOR > float(gamma.min()) == 0
    draws = [step._draw(number, 0, range(3), "photos") for number in range(3000)]
    bins = base.bin_of(torch.tensor([draw.timestep for draw in draws]))
    found = torch.bincount(bins, minlength=BINS) / len(draws)
    chances = acceptance(gamma).float()
    assert torch.allclose(found, chances / chances.sum(), atol=0.025)
    batch = Batch.of(draws[:200], source(), base, "masked")
    weights = step._weights_after(batch, Tally.on(base.device))
    usual = 1 - gamma[batch.bins]
    expected = usual * (chances.mean() / chances[batch.bins])
    assert torch.allclose(weights.double(), expected.double(), rtol=1e-4)
    # the weight of each bin times how often it is drawn is that of uniform draws
    drawn = chances / chances.sum() * (1 - gamma).float() * chances.mean() / chances
    assert torch.allclose(drawn, (1 - gamma).float() / BINS)


def test_other_pictures_are_drawn_evenly(base: BaseModel) -> None:
    step = step_of(AdaptedDraws, base, "apt, draws", augmentation=0, stabilization=0, alignment=0)
    fitted(step)
    ours = [step._draw(number, 0, range(3), "prior").timestep for number in range(20)]
    plain = step_of(AdaptiveStep, base, "apt", augmentation=0, stabilization=0, alignment=0)
    assert ours == [plain._draw(number, 0, range(3), "prior").timestep for number in range(20)]


def test_a_run_takes_the_steps_of_its_method(new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    whole = ConsistencyStep._weights_after
    monkeypatch.setattr(
        ConsistencyStep, "_weights_after", lambda self, *both: (seen.append("dco"), whole(self, *both))[1]
    )
    run = new_run(2)
    run.replace_config(run.config.replace(**METHODS["dco"], check_every_steps=0))
    with trained_as("dco"):
        list(train(RunStore(run.path.parent.parent), run, lambda: False))
    assert seen == ["dco"] * 2
    with pytest.raises(KeyError), stepping(AdaptedDraws):
        raise KeyError
    assert preparation.AdaptiveStep is AdaptiveStep


@pytest.mark.parametrize("method", VARIATIONS)
def test_a_variation_is_a_training_and_differs_in_one_number(method: str, toy_base: object) -> None:
    usual = build_config(load_presets(), (), {"subject": "thing", **FIXED})
    config = build_config(load_presets(), (), {"subject": "thing", **FIXED, **settings_of(method)})
    differing = [name for name, value in config.to_dict().items() if value != usual.to_dict()[name]]
    assert differing == list(VARIATIONS[method])
    name, value = method.removeprefix("apt, ").rsplit(" ", 1)
    with trained_as(method):
        fresh = load_base(str(toy_base), device="cpu", dtype="fp32", attention="plain")
        step = preparation.AdaptiveStep(config, fresh, source())
        bins = {int(step._base.bin_of(torch.tensor(timestep))) for timestep in range(0, 1000, 20)}
        sums = torch.ones(2, BINS, dtype=torch.float64)
        for loss in (1.0, 2.0):
            step.indicator.update(loss * sums, sums[0])
        rate = float(step.indicator.state_dict()["tuned_loss"][0]) - 1
    assert len(bins) == {"5": 5, "1": 1}.get(name, BINS)
    assert bins <= set(range(BINS))
    assert rate == pytest.approx(float(value) if name == "a" else 0.1)
    assert (indicator.EMA_RATE, preparation.AdaptiveStep) == (0.1, AdaptiveStep)


def test_variations_are_held_against_apt_on_the_same_subject_and_seed() -> None:
    runs = trajectories([*recording("one", "apt"), *recording("other", "apt"), *recording("one", "apt, 1 bin")])
    assert compared(runs) == compared(runs[::-1])
    head, _, own, varied = compared(runs).splitlines()
    assert head.startswith("| at the last step | pairs | likeness |")
    assert own.startswith("| apt | 2 | ") and "(0.0000)" in own
    assert varied.startswith("| apt, 1 bin | 1 | +0.0000 (nan)")


def test_the_drawings_in_the_repository_are_what_the_code_draws(tmp_path: Path) -> None:
    (subject,) = list_subjects("drawing")
    written = drawings.write(tmp_path)
    assert [path.parent.name for path in written] == ["training"] * 5 + ["held_out"] * 3
    for path in written:
        folder = getattr(subject, path.parent.name)
        assert folder.is_relative_to(drawings.SUBJECTS / drawings.KEY)
        with Image.open(path) as drawn, Image.open(folder / path.name) as there:
            assert (drawn.size, drawn.tobytes()) == (there.size, there.tobytes())
    assert len({path.read_bytes() for path in written}) == 8
    assert len(open_photos(subject.training)) == 5 and len(open_photos(subject.held_out)) == 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return RunStore(tmp_path_factory.mktemp("data"))
