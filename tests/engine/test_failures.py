"""A memory that runs out and a device that disappears, in each phase: what is said, what is kept, and that it goes on after."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from apt_engine.bases.unet import IN_TILES, UNetBase
from apt_engine.errors import EngineError, is_device_lost, is_out_of_memory
from apt_engine.jobs import failures
from apt_engine.jobs.failures import explain
from apt_engine.jobs.session import train
from apt_engine.lora import files
from apt_engine.runs.events import CheckpointSaved, ExportReady, Noticed, RunFailed, RunFinished, StepFinished
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.sampling.sampler import Sampler
from apt_engine.settings.training import TrainingConfig
from apt_engine.training import exports
from apt_engine.training.step import AdaptiveStep
from tests.engine.test_bases import stable_diffusion

LOST = RuntimeError("CUDA error: unspecified launch failure\nCompile with `TORCH_USE_CUDA_DSA`.")


@pytest.fixture
def store(data_dir: Path) -> RunStore:
    return RunStore(data_dir)


def cpu_allocator_error() -> RuntimeError:
    """What torch really raises on a CPU."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    return caught.value


@pytest.mark.parametrize(
    ("error", "is_memory", "is_device"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB."), True, False),
        (MemoryError(), True, False),
        (OSError(12, "Cannot allocate memory"), True, False),
        (RuntimeError("MPS backend out of memory (MPS allocated: 7.64 GiB, max allowed: 9.07 GiB)."), True, False),
        (RuntimeError("CUDA error: out of memory"), True, False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True, False),
        (LOST, False, True),
        (torch.AcceleratorError("CUDA error: the launch timed out and was terminated"), False, True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False, False),
        (OSError(28, "No space left on device"), False, False),
        (KeyError("CUDA error"), False, False),
    ],
)
def test_an_allocator_and_a_lost_device_are_known_by_what_they_say(
    error: Exception, is_memory: bool, is_device: bool
) -> None:
    assert (is_out_of_memory(error), is_device_lost(error)) == (is_memory, is_device)
    assert is_out_of_memory(cpu_allocator_error())


def test_every_phase_is_a_module_that_is_there() -> None:
    assert all(importlib.util.find_spec(name) for name in failures.PHASES)


def breaking(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: Exception, *, times: int, after: int = 0
) -> None:
    """Let a method of the product fail with `error`, `times` times, once it was called `after` times."""
    whole, calls = getattr(owner, name), 0

    def broken(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if after < calls <= after + times:
            raise error
        return whole(*arguments, **named)

    monkeypatch.setattr(owner, name, broken)


PHASES = [
    (
        "loading",
        UNetBase,
        "_freeze",
        0,
        "The memory ran out while the base model was loaded; close other programs, set dtype",
    ),
    (
        "encoding",
        UNetBase,
        "encode_images",
        1,
        "The memory ran out while photos were encoded; close other programs, or lower",
    ),
    (
        "step",
        AdaptiveStep,
        "__call__",
        3,
        "The memory ran out while a training step was computed; set base_precision to",
    ),
    ("samples", Sampler, "images", 0, "The memory ran out while samples were drawn; set sample_every_steps to 0, or"),
    (
        "export",
        files,
        "load_exported",
        0,
        "The memory ran out while the exported files were checked; the trained LoRA is saved",
    ),
]


@pytest.mark.parametrize(
    ("owner", "name", "after", "sentence"), [phase[1:] for phase in PHASES], ids=[phase[0] for phase in PHASES]
)
def test_a_memory_that_runs_out_is_said_with_its_phase_and_the_run_goes_on_after(
    store: RunStore,
    new_run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    name: str,
    after: int,
    sentence: str,
) -> None:
    run = new_run(steps=4)
    run.replace_config(run.config.replace(gradient_checkpointing=True))
    with monkeypatch.context() as patch:
        breaking(patch, owner, name, cpu_allocator_error(), times=1, after=after)
        with pytest.raises(EngineError) as caught:
            list(train(store, run, lambda: False))
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)
    events = run.events()[0]
    assert isinstance(events[-1], RunFailed)
    saved = [event.step for event in events if isinstance(event, CheckpointSaved)]
    assert [checkpoint.step for checkpoint in run.checkpoints()] == saved
    if saved:
        assert [event.layout for event in exports.export_checkpoint(run, run.checkpoint())] == ["kohya", "diffusers"]
    assert isinstance(list(train(store, run, lambda: False))[-1], RunFinished)


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ({}, {"gradient_checkpointing": True}, failures.CHECKPOINTED),
        (
            {"gradient_checkpointing": True, "batch_size": 2},
            {"batch_size": 1, "accumulate": 2},
            failures.HALVED.format(batch=1, accumulate=2),
        ),
    ],
)
def test_where_a_step_does_not_fit_it_goes_on_with_less_and_learns_the_same(
    store: RunStore,
    new_run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    before: dict[str, Any],
    after: dict[str, Any],
    sentence: str,
) -> None:
    whole_run, run = new_run(), new_run()
    for one in (whole_run, run):
        one.replace_config(one.config.replace(**before))
    whole = {
        event.step: event.loss for event in train(store, whole_run, lambda: False) if isinstance(event, StepFinished)
    }
    breaking(monkeypatch, AdaptiveStep, "__call__", torch.OutOfMemoryError("CUDA out of memory."), times=1, after=3)
    events = list(train(store, run, lambda: False))
    assert [event.message for event in events if isinstance(event, Noticed)].count(sentence) == 1
    assert {event.step: event.loss for event in events if isinstance(event, StepFinished)} == pytest.approx(
        whole, rel=1e-5
    )
    assert [event.step for event in events if isinstance(event, StepFinished)] == [1, 2, 3, 3, 4]
    assert isinstance(events[-1], RunFinished)
    assert run.config == whole_run.config.replace(**after)
    assert sum(isinstance(event, ExportReady) for event in events) == 2


def test_a_lost_device_is_named_and_the_last_checkpoint_kept(
    store: RunStore, new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run()
    breaking(monkeypatch, AdaptiveStep, "__call__", LOST, times=1, after=2)
    with pytest.raises(EngineError, match="The GPU stopped answering while a training step was computed") as caught:
        list(train(store, run, lambda: False))
    assert "(CUDA error: unspecified launch failure); go on from the last checkpoint" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [checkpoint.step for checkpoint in run.checkpoints()] == [2]


def test_a_picture_that_does_not_fit_into_the_vae_whole_goes_through_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    base = stable_diffusion()
    vae, decode, seen = base.pipeline.vae, base.pipeline.vae.decode, []

    def fitting(latents: torch.Tensor) -> Any:
        seen.append(vae.use_tiling)
        if latents.shape[-1] > 32 and not vae.use_tiling:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return decode(latents)

    small, large = torch.zeros(1, 4, 32, 32), torch.zeros(1, 4, 64, 64)
    monkeypatch.setattr(vae, "decode", fitting)
    assert base.decode(large).shape == (1, 3, 256, 256)
    assert (vae.tile_sample_min_size, vae.tile_latent_min_size) == (128, 32)
    base.decode(large)
    base.decode(small)
    assert seen == [False, True, True, False]
    monkeypatch.setattr(vae, "decode", lambda _latents: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(MemoryError):
        base.decode(large)


@pytest.mark.parametrize("part", ["encode", "decode"])
def test_a_vae_that_does_not_fit_is_told_once_and_the_run_learns_the_same(
    store: RunStore, new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """Tiles change a photo's latents a little, since each is normed by itself, and a sample's not before it is drawn."""
    whole_run, run = new_run(2), new_run(2)
    for one in (whole_run, run):
        one.replace_config(one.config.replace(resolution=256, augmentation=0, alignment=0, sample_every_steps=2))
        for path in one.photo_paths:
            with Image.open(path) as image:
                large = image.resize((256, 256))
            large.save(path)
    whole = {
        event.step: event.loss for event in train(store, whole_run, lambda: False) if isinstance(event, StepFinished)
    }
    work = getattr(AutoencoderKL, part)

    def fitting(vae: Any, tensor: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        pixels = tensor.shape[-1] * (1 if part == "encode" else 4)
        if pixels > 128 and not vae.use_tiling:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return work(vae, tensor, *arguments, **named)

    monkeypatch.setattr(AutoencoderKL, part, fitting)
    events = list(train(store, run, lambda: False))
    told = [event.message for event in events if isinstance(event, Noticed)]
    assert told.count(IN_TILES.format(width=256, height=256)) == 1
    losses = {event.step: event.loss for event in events if isinstance(event, StepFinished)}
    assert losses == (whole if part == "decode" else pytest.approx(whole, rel=0.02))
    assert isinstance(events[-1], RunFinished)


def test_a_batch_is_divided_until_it_is_one() -> None:
    config, seen = TrainingConfig(subject="car", batch_size=12, gradient_checkpointing=True), []
    while True:
        batch, accumulate = failures.smaller_batch(config)
        if batch == config.batch_size:
            break
        config = config.replace(batch_size=batch, accumulate=accumulate)
        seen.append((batch, accumulate))
    assert seen == [(6, 2), (3, 4), (1, 12)]


def test_drawing_says_what_to_change() -> None:
    assert explain(MemoryError(), "engine.log").startswith(
        "The memory ran out while this was done; close other programs"
    )
