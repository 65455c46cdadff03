"""Compiled blocks: the LoRA switches and learns in there, watching sees what it saw, and nothing else of a run changes."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from apt_engine.bases.base import BaseModel
from apt_engine.jobs.session import train
from apt_engine.lora import adapter
from apt_engine.runs.events import Event, Noticed, StageChanged, StepFinished
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.training import compiled as compiling
from apt_engine.training.compiled import Compiled, compile_blocks
from tests.laws import KINDS, OFF, config_of, perturb, run, step_of, tuned_base

# Dynamo looks at gradients of what it traces; pytest makes that an error.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
SIZE = {"resolution": 32, "rank": 4}


@pytest.fixture
def store(data_dir: Path) -> RunStore:
    return RunStore(data_dir)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """With torch's backend that needs no compiler: it traces and guards as the other does, and runs what it traced."""
    monkeypatch.setattr(compiling, "DEVICES", ("cpu",))
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled_of(base: BaseModel, **settings: Any) -> Compiled:
    made, notice = compile_blocks(base, config_of(**SIZE, **settings))
    assert notice == ""
    return made


def weights(base: BaseModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in adapter.trainable_parameters(base.denoiser).items()}


@pytest.mark.parametrize(("kind", "settings"), [("epsilon", {}), ("sdxl", OFF), ("klein", {}), ("z-image", {})])
def test_steps_are_the_same_compiled(kind: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "epsilon":  # backward is traced as well, which takes three times as long
        monkeypatch.setattr(compiling, "BACKEND", "aot_eager")
    results, gradients = [], []
    for is_compiled in (False, True):
        base = tuned_base(kind, perturbed=False)
        made = compiled_of(base, **settings) if is_compiled else Compiled()
        assert bool(made.parts) is is_compiled
        perturb(base)
        step = step_of(base, measure=True, **settings)
        with made.used():
            results.append(run(step, range(1, 3)))
        gradients.append([parameter.grad for parameter in adapter.trainable_parameters(base.denoiser).values()])
    plain, ours = results
    assert ours.loss.item() == pytest.approx(plain.loss.item(), rel=1e-4)
    assert ours.reference_loss.item() == pytest.approx(plain.reference_loss.item(), rel=1e-4)
    assert abs(ours.loss.item() - ours.reference_loss.item()) > 1e-4
    if not settings:
        assert ours.stabilization.item() == pytest.approx(plain.stabilization.item(), rel=1e-3)
        assert ours.alignment.item() == pytest.approx(plain.alignment.item(), rel=1e-3)
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-2, atol=1e-5)


def test_names_weights_and_everything_outside_a_step_stay_as_they_were() -> None:
    base = tuned_base(perturbed=False)
    before, names = weights(base), list(base.denoiser.state_dict())
    made = compiled_of(base)
    assert weights(base).keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in weights(base).items())
    assert list(base.denoiser.state_dict()) == names
    assert not any(module._compiled_call_impl for module in base.denoiser.modules())
    with contextlib.suppress(KeyError), made.used():
        assert sum(module._compiled_call_impl is not None for module in base.denoiser.modules()) == len(made.parts)
        assert list(base.denoiser.state_dict()) == names
        raise KeyError
    assert not any(module._compiled_call_impl for module in base.denoiser.modules())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_watched_stays_uncompiled_and_the_rest_of_its_block_does_not(kind: str) -> None:
    base = tuned_base(kind, perturbed=False)
    whole, made = (compiling._compiled_parts(base, config_of(**settings)) for settings in (OFF, {}))
    denoiser: Any = base.denoiser
    assert {type(part).__name__ for part in whole} == set(denoiser._repeated_blocks)
    layers = base.watched_layers
    watched = {base.denoiser.get_submodule(name) for name in layers.features + layers.maps}
    assert all(watched.isdisjoint(part.modules()) for part in made)
    cut = [block for block in whole if block not in made]
    assert 0 < len(cut) < len(whole)
    assert all(not watched.isdisjoint(block.modules()) for block in cut)
    assert {type(part).__name__ for part in made} > {type(block).__name__ for block in whole if block in made}


def test_a_base_that_cannot_be_compiled_goes_on_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise OSError("no compiler here")

    monkeypatch.setattr(compiling, "BACKEND", broken)
    base = tuned_base(perturbed=False)
    before = weights(base)
    made, notice = compile_blocks(base, config_of(**SIZE))
    assert not made.parts
    assert notice.startswith("The base model could not be compiled (")
    assert "no compiler here" in notice
    assert notice.endswith("); training goes on uncompiled, which learns the same.")
    assert not any(module._compiled_call_impl for module in base.denoiser.modules())
    assert all(torch.equal(value, before[name]) for name, value in weights(base).items())


def test_memory_that_runs_out_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    base = tuned_base(perturbed=False)
    monkeypatch.setattr(base, "predict", full)
    with pytest.raises(MemoryError):
        compile_blocks(base, config_of(**SIZE))


@pytest.mark.parametrize(
    ("is_on", "words"), [(True, "the LoRA stays on where it is to be off"), (False, "the LoRA does not act")]
)
def test_a_switch_that_is_stuck_is_noticed(monkeypatch: pytest.MonkeyPatch, words: str, *, is_on: bool) -> None:
    base = tuned_base(perturbed=False)

    def stuck(self: nn.Module, *_: Any, **__: Any) -> None:
        def call(*inputs: Any, **named: Any) -> Any:
            layers = adapter.lora_layers(self)
            was = [layer._disable_adapters for layer in layers]
            for layer in layers:
                layer._disable_adapters = not is_on
            try:
                return self._call_impl(*inputs, **named)
            finally:
                for layer, before in zip(layers, was, strict=True):
                    layer._disable_adapters = before

        self._compiled_call_impl = call

    monkeypatch.setattr(nn.Module, "compile", stuck)
    made, notice = compile_blocks(base, config_of(**SIZE, **OFF))
    assert not made.parts
    assert notice == f"The compiled base model computes otherwise ({words}); {notice.partition('; ')[2]}"


def test_gradients_that_are_lost_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(self: nn.Module, *_: Any, **__: Any) -> None:
        def call(hidden: torch.Tensor, *inputs: Any, **named: Any) -> Any:
            with torch.no_grad():
                made: Any = self._call_impl(hidden, *inputs, **named)
            return made + 0 * hidden

        self._compiled_call_impl = call

    base = tuned_base(perturbed=False)
    monkeypatch.setattr(nn.Module, "compile", cut)
    assert "the LoRA would learn something else" in compile_blocks(base, config_of(**SIZE, **OFF))[1]


def trained(store: RunStore, run: Run, steps: int | None = None) -> list[Event]:
    return list(train(store, run, lambda: False, steps=steps))


def losses(events: list[Event]) -> dict[int, float]:
    return {event.step: event.loss for event in events if isinstance(event, StepFinished)}


def test_a_compiled_run_resumes_to_the_bit_and_its_files_are_named_as_ever(
    store: RunStore, new_run: Callable[..., Run]
) -> None:
    plain, whole, cut = new_run(), new_run(), new_run()
    for one in (whole, cut):
        one.replace_config(one.config.replace(compile=True, gradient_checkpointing=True))
    stock = losses(trained(store, plain))
    events = trained(store, whole)
    assert any(isinstance(event, StageChanged) and event.stage == "compiling" for event in events)
    assert not any(isinstance(event, Noticed) and "ompil" in event.message for event in events)
    straight = losses(events)
    assert straight == pytest.approx(stock, rel=1e-4)
    halves = [losses(trained(store, cut, steps)) for steps in (2, 4)]
    assert {**halves[0], **halves[1]} == straight
    assert cut.checkpoint().lora_path.read_bytes() == whole.checkpoint().lora_path.read_bytes()
    for path in ("lora_path", "optimizer_path"):
        ours, theirs = (load_file(getattr(one.checkpoint(), path)) for one in (whole, plain))
        assert ours.keys() == theirs.keys()
    exported = [sorted(file.name for file in (one.path / "exports").glob("*.safetensors")) for one in (whole, plain)]
    assert exported[0] == exported[1]
    for name in exported[0]:
        ours, theirs = (load_file(one.path / "exports" / name) for one in (whole, plain))
        assert ours.keys() == theirs.keys()
    # Either may go on with the other's checkpoint.
    whole.replace_config(whole.config.replace(compile=False))
    assert list(losses(trained(store, whole, 6))) == [5, 6]


def test_elsewhere_than_on_cuda_one_sentence_says_so(
    store: RunStore, new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    plain, wished = new_run(2), new_run(2)
    wished.replace_config(wished.config.replace(compile=True))
    events = trained(store, wished)
    told = [event.message for event in events if isinstance(event, Noticed)]
    assert compiling.ELSEWHERE in told
    assert losses(events) == losses(trained(store, plain))
