"""From a run's settings to an update: what is prepared is what they say, and an update is AdamW's."""

import json
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from apt_engine.bases.base import PromptStates
from apt_engine.bases.registry import load_base
from apt_engine.lora import adapter
from apt_engine.photos.photo_set import photos_in, read_photos
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.preparation import Prepared, load, prepare
from apt_engine.training.update import take_step

Made = TypeVar("Made")
Prepare = Callable[..., Prepared]


def returned(work: Generator[Any, None, Made]) -> Made:
    while True:
        try:
            next(work)
        except StopIteration as done:
            return done.value


@pytest.fixture
def make_run(tmp_path: Path, toy_base: Path, photo_dir: Path) -> Callable[..., Run]:
    def make(**settings: Any) -> Run:
        values = {"subject": "car", "base": str(toy_base), "resolution": 32, "rank": 4, "warped_views": 1}
        config = TrainingConfig.from_dict({**values, "device": "cpu", **settings})
        return RunStore(tmp_path).create(config, lambda folder: read_photos(photos_in(photo_dir)).save(folder, 32))

    return make


@pytest.fixture
def prepared_of(make_run: Callable[..., Run]) -> Prepare:
    def make(**settings: Any) -> Prepared:
        run = make_run(**settings)
        return returned(prepare(run, returned(load(run.config, lambda: False)), None, 10))

    return make


def weights_of(prepared: Prepared) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in prepared.parameters.items()}


@pytest.mark.parametrize("kind", ["feed_forward", "convolutions"])
def test_the_settings_reach_the_lora_and_the_optimizer(prepared_of: Prepare, toy_base: Path, kind: str) -> None:
    prepared = prepared_of(alpha=2, seed=7, learning_rate=3e-3, weight_decay=0.25, **{kind: True})
    other = load_base(str(toy_base), device="cpu")
    layers = (*other.lora.attention, *getattr(other.lora, kind))
    adapter.attach(other.denoiser, 4, 2.0, layers, seed=7)
    expected = adapter.trainable_parameters(other.denoiser)
    assert list(prepared.parameters) == list(expected)
    assert all(torch.equal(prepared.parameters[name], value) for name, value in expected.items())
    assert {layer.scaling[adapter.ADAPTER] for layer in adapter.lora_layers(prepared.base.denoiser)} == {0.5}
    (group,) = prepared.optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (3e-3, 0.25)
    assert [id(parameter) for parameter in group["params"]] == [id(part) for part in prepared.parameters.values()]


def test_own_captions_are_heard_in_training(make_run: Callable[..., Run]) -> None:
    """What the step asks the base at a photo differs from what it asks at another as their captions do."""
    run = make_run(batch_size=16, augmentation=0)
    (run.path / "photos" / "captions.json").write_text(json.dumps({"03.png": "a {subject} on the beach"}))
    loaded = returned(load(run.config, lambda: False))
    prepared = returned(prepare(run, loaded, None, 10))
    own, usual = (
        loaded.base.encode_prompts([words]).hidden for words in ("a zwx car on the beach", "a photo of a zwx car")
    )
    asked: list[Tensor] = []
    predict = loaded.base.predict

    def noted(noisy_latents: Tensor, timesteps: Tensor, states: PromptStates) -> Tensor:
        asked.append(states.hidden)
        return predict(noisy_latents, timesteps, states)

    loaded.base.predict = noted
    batch = prepared.step(1, lambda loss: None).batch
    assert len(asked) == 2
    for hidden in asked:
        for photo, heard in zip(batch.photos, hidden, strict=True):
            assert torch.equal(heard, (own if photo == 2 else usual)[0])
    assert 2 in batch.photos


def test_an_update_is_that_of_adamw_with_warm_up_and_clipped_gradients(prepared_of: Prepare) -> None:
    settings = {"learning_rate": 1e-2, "warmup_steps": 3, "max_grad_norm": 0.005, "weight_decay": 0.5, "alignment": 0}
    ours, theirs = prepared_of(**settings), prepared_of(**settings)
    start = weights_of(ours)
    parameters = list(theirs.parameters.values())
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.5)
    for number, learning_rate in enumerate((1e-2 / 3, 2e-2 / 3, 1e-2, 1e-2), 1):
        event = take_step(ours, number)
        optimizer.zero_grad()
        theirs.step(number, Tensor.backward)
        norm = torch.nn.utils.clip_grad_norm_(parameters, 0.005)
        optimizer.param_groups[0]["lr"] = learning_rate
        optimizer.step()
        assert event.learning_rate == pytest.approx(learning_rate)
        assert event.gradient_norm == pytest.approx(float(norm), rel=1e-5)
        assert event.gradient_norm > 0.005
    for name, value in weights_of(theirs).items():
        torch.testing.assert_close(ours.parameters[name].detach(), value)
        assert not torch.equal(value, start[name])
    assert all(parameter.grad is None for parameter in ours.parameters.values())


def test_what_a_step_tells_is_what_it_did(prepared_of: Prepare) -> None:
    settings = {"batch_size": 4, "sensitivity": 0.5, "seed": 2}
    ours, theirs = prepared_of(**settings), prepared_of(**settings)
    state = {"visits": torch.full((10,), 9.0), "reference_loss": torch.full((10,), 2.0)}
    state |= {"tuned_loss": torch.linspace(2.0, 0.1, 10)}
    for prepared in (ours, theirs):
        prepared.step.indicator.load_state_dict({name: value.double() for name, value in state.items()})
        for parameter in prepared.parameters.values():
            parameter.data.add_(0.3)
    event, result = take_step(ours, 3), theirs.step(3, Tensor.backward)
    indicator = theirs.step.indicator
    assert result.reference_loss is not None
    assert event.loss == pytest.approx(result.loss.item())
    assert event.reference_loss == pytest.approx(result.reference_loss.item())
    assert event.gap == pytest.approx(result.reference_loss.item() - result.loss.item(), abs=1e-7)
    assert abs(event.gap or 0.0) > 1e-4
    assert list(event.timesteps) == result.batch.timesteps.tolist()
    assert event.chances == pytest.approx(result.batch.chances)
    assert event.weights == pytest.approx(result.weights.tolist())
    assert event.warped == result.batch.warped
    assert event.gamma == pytest.approx(indicator.gamma().tolist())
    assert event.raw_gamma == pytest.approx(indicator.raw_gamma().tolist())
    assert list(event.visits) == indicator.visits.tolist()
    assert len(set(event.gamma)) == 10
    assert len({tuple(event.chances), tuple(event.weights), tuple(map(float, event.warped))}) == 3
    assert event.step == 3
