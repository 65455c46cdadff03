"""Exporting and checking on the one base model in memory: nothing of it changes, and no second one is made."""

import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from apt_engine.bases.sd import StableDiffusion
from apt_engine.errors import LoraError
from apt_engine.lora import adapter, files
from apt_engine.runs.events import ExportReady
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.sampling.sampler import Sampler
from apt_engine.settings.training import TrainingConfig
from apt_engine.training import exports
from tests.engine.test_bases import stable_diffusion
from tests.loras import HALF_TOLERANCE, difference, header, predict, trained

Snapshot = dict[str, Tensor]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    config = TrainingConfig(subject="car", resolution=32, device="cpu", sample_steps=2)
    return RunStore(tmp_path).create(config, lambda folder: folder.mkdir(parents=True, exist_ok=True))


def snapshot(base: StableDiffusion) -> Snapshot:
    """All numbers of a base model, its LoRA's too."""
    pipeline = base.pipeline
    parts = {"unet": pipeline.unet, "vae": pipeline.vae, "text": pipeline.text_encoder}
    return {
        f"{part}.{name}": value.clone() for part, module in parts.items() for name, value in module.state_dict().items()
    }


def is_as_before(base: StableDiffusion, before: Snapshot, parameters: dict[str, nn.Parameter]) -> None:
    """To the bit, and an optimizer that holds the parameters can go on."""
    after = snapshot(base)
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    own = adapter.trainable_parameters(base.denoiser)
    assert list(own) == list(parameters)
    assert all(own[name] is parameter for name, parameter in parameters.items())
    assert all(parameter.requires_grad for parameter in own.values())


def live_bytes() -> int:
    """Of all parameters alive anywhere, each storage once."""
    gc.collect()
    storages = {}
    for module in (thing for thing in gc.get_objects() if isinstance(thing, nn.Module)):
        for parameter in module.parameters(recurse=False):
            storages[parameter.untyped_storage().data_ptr()] = parameter.untyped_storage().nbytes()
    return sum(storages.values())


def test_a_file_is_checked_on_the_model_in_memory_and_leaves_it_to_the_bit(run: Run) -> None:
    base = trained()
    before, parameters, drawn = snapshot(base), adapter.trainable_parameters(base.denoiser), predict(base)
    events = list(exports.export_and_verify(run, base, 6))
    assert [event.layout for event in events] == ["kohya", "diffusers"]
    assert all(0 < event.difference < 0.05 for event in events)  # of fp16; zero would be the trained LoRA itself
    is_as_before(base, before, parameters)
    assert torch.equal(predict(base), drawn)


def test_the_check_draws_a_small_picture_whatever_size_was_trained(run: Run) -> None:
    """At 1024 px the VAE alone would take more than the base model leaves free of a small card."""
    base = trained()
    sizes: list[int] = []
    base.pipeline.vae.decoder.register_forward_pre_hook(lambda _module, inputs: sizes.append(inputs[0].shape[-1]))
    large = run.config.replace(resolution=1024)
    exports._check_picture(base, large)
    exports._check_picture(base, run.config)
    assert [side * base.pipeline.vae_scale_factor for side in sizes] == [128, 32]


def test_a_strength_other_than_one_is_kept(run: Run) -> None:
    base = trained()
    adapter.set_strength(base.denoiser, 0.5)
    drawn = predict(base)
    with adapter.set_aside(base.denoiser):
        assert not adapter.trainable_parameters(base.denoiser)
        assert not torch.equal(predict(base), drawn)
    assert torch.equal(predict(base), drawn)


def test_another_lora_meanwhile_leaves_nothing_behind() -> None:
    base = trained()
    parameters, drawn = adapter.trainable_parameters(base.denoiser), predict(base)
    with adapter.set_aside(base.denoiser):
        adapter.attach(base.denoiser, 2, 2.0, base.lora.all, seed=3)
        assert len(adapter.trainable_parameters(base.denoiser)) > len(parameters)
    assert list(adapter.trainable_parameters(base.denoiser)) == list(parameters)
    assert torch.equal(predict(base), drawn)


def test_training_goes_on_after_an_export(run: Run) -> None:
    base = trained()
    optimizer = torch.optim.SGD(adapter.trainable_parameters(base.denoiser).values(), lr=0.1)
    list(exports.export_and_verify(run, base, 6))
    before = predict(base)
    states = base.encode_prompts(["a car"])
    base.predict(torch.ones(1, 4, 8, 8), torch.tensor([500]), states).square().mean().backward()
    optimizer.step()
    assert not torch.equal(predict(base), before)


def test_no_second_base_model_is_made(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """At its peak: the base, its LoRA set aside, and the file's."""
    base = trained()
    lora = sum(value.nbytes for value in adapter.trainable_parameters(base.denoiser).values())
    before, seen = live_bytes(), []
    generate = Sampler.generate

    def measured(sampler: Sampler, *arguments: object) -> Iterator[Image.Image]:
        seen.append(live_bytes())
        return generate(sampler, *arguments)  # pyright: ignore[reportArgumentType]  # passed on as they are

    monkeypatch.setattr(Sampler, "generate", measured)
    list(exports.export_and_verify(run, base, 6))
    assert len(seen) == 3
    assert seen[0] == before
    assert max(seen) <= before + lora
    assert live_bytes() == before


def test_a_checkpoint_is_exported_under_its_own_step_and_says_what_it_is(tmp_path: Path, toy_base: Path) -> None:
    settings = {"base": str(toy_base), "resolution": 32, "device": "cpu", "sample_steps": 2, "steps": 9}
    config = TrainingConfig.from_dict({"subject": "car", "identifier": "qqx", **settings})
    run = RunStore(tmp_path).create(config, lambda folder: folder.mkdir(parents=True, exist_ok=True))
    base = trained()
    checkpoint = run.save_checkpoint(4, lambda folder: files.save(base, folder / "lora.safetensors"))
    events = list(exports.export_checkpoint(run, checkpoint))
    assert [(event.step, event.layout, event.path) for event in events] == [
        (4, "kohya", "exports/qqx_car-000004.safetensors"),
        (4, "diffusers", "exports/qqx_car-000004-diffusers.safetensors"),
    ]
    for event in events:
        files.load(fresh := stable_diffusion(), run.path / event.path)
        assert difference(fresh, base) < HALF_TOLERANCE
    about = header(run.path / events[0].path)
    assert [about[f"modelspec.{key}"] for key in ("title", "resolution", "trigger_phrase")] == [
        "qqx_car-000004",
        "32x32",
        "qqx car",
    ]


def damaged(base: StableDiffusion, path: Path) -> int:
    files_load_exported(base, path)
    for parameter in adapter.trainable_parameters(base.denoiser).values():
        parameter.data.mul_(-3)
    return 1


def lost(base: StableDiffusion, path: Path) -> int:
    raise LoraError(f"{path.name} misses a key.")


def out_of_memory(base: StableDiffusion, path: Path) -> int:
    files_load_exported(base, path)
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")


files_load_exported = files.load_exported


@pytest.mark.parametrize(
    ("load", "expected", "words"),
    [
        (damaged, LoraError, "car.*draws another picture"),
        (lost, LoraError, "misses a key"),
        (out_of_memory, torch.OutOfMemoryError, "out of memory"),
    ],
)
def test_a_check_that_fails_leaves_the_trained_lora_attached(
    run: Run,
    load: Callable[[StableDiffusion, Path], int],
    expected: type[Exception],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = trained()
    before, parameters = snapshot(base), adapter.trainable_parameters(base.denoiser)
    monkeypatch.setattr(files, "load_exported", load)
    with pytest.raises(expected, match=words):
        list(exports.export_and_verify(run, base, 6))
    is_as_before(base, before, parameters)


def test_a_reader_who_stops_early_leaves_the_trained_lora_attached(run: Run) -> None:
    base = trained()
    before, parameters = snapshot(base), adapter.trainable_parameters(base.denoiser)
    events = exports.export_and_verify(run, base, 6)
    assert isinstance(next(events), ExportReady)
    is_as_before(base, before, parameters)
