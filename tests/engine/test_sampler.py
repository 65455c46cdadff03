"""Pictures: each from its own seed, with their settings inside, from run, checkpoint or bare base."""

import contextlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from apt_engine.bases import random
from apt_engine.bases.base import BaseModel
from apt_engine.bases.registry import load_base
from apt_engine.bases.sd import StableDiffusion
from apt_engine.errors import ConfigError, EngineError
from apt_engine.lora import adapter, files, stack
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.sampling.generation import Generator
from apt_engine.sampling.sampler import Picture, Sampler, Stopped, batch_of
from apt_engine.settings.sampling import SAMPLERS, SampleRequest
from apt_engine.settings.training import TrainingConfig
from benchmarks import drawing
from tests.loras import predict
from tests.loras import trained as trained_toy
from tests.toy import toy_pipeline, toy_xl_pipeline


@pytest.fixture(scope="module")
def sampler(toy_base: Path) -> Sampler:
    return Sampler(load_base(str(toy_base), device="cpu"))


def picture(seed: int, side: int = 32) -> Picture:
    return Picture(prompt="a cat", seed=seed, steps=2, width=side, height=side)


def pixels(image: Image.Image | Path) -> numpy.ndarray:
    return numpy.asarray(Image.open(image) if isinstance(image, Path) else image, dtype=float)


def test_a_picture_depends_on_its_own_seed_alone(sampler: Sampler) -> None:
    together = [pixels(image) for image in sampler.generate([picture(seed) for seed in range(6)])]
    alone = [pixels(next(sampler.generate([picture(seed)]))) for seed in range(6)]
    for one, other in zip(together, alone, strict=True):
        assert numpy.abs(one - other).max() <= 1  # a batch rounds differently in the last bit
    assert numpy.abs(together[0] - together[1]).max() > 1


def test_large_pictures_are_drawn_one_at_a_time(sampler: Sampler) -> None:
    sides = {64: 4, 512: 4, 768: 1, 1024: 1, 2048: 1}
    assert {side: batch_of(picture(0, side)) for side in sides} == sides
    assert len(list(sampler.latents([picture(seed) for seed in range(5)]))) == 2


def test_sizes_may_differ_from_the_training_size(sampler: Sampler) -> None:
    assert next(sampler.generate([picture(0, 64)])).size == (64, 64)
    with pytest.raises(ConfigError, match="cannot make pictures of 33 px; choose a multiple of"):
        next(sampler.generate([picture(0, 33)]))


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_it_draws_what_a_stock_pipeline_draws(kind: str, toy_base: Path, toy_xl_base: Path) -> None:
    base: Any = load_base(str(toy_xl_base if kind == "sdxl" else toy_base), device="cpu")
    stock: Any = toy_xl_pipeline() if kind == "sdxl" else toy_pipeline()
    asked = replace(picture(3), prompt="a car on the beach", negative_prompt="a photo of a dog", guidance_scale=30.0)
    ours = base.decode(next(Sampler(base).latents([asked])))
    stock.scheduler = base.pipeline.scheduler
    noise = torch.randn(1, 4, 8, 8, generator=random.generator(3, 0, 0, "sample"))

    def theirs(prompt: str, negative_prompt: str, strictness: float) -> torch.Tensor:
        said: dict[str, Any] = {"prompt": prompt, "negative_prompt": negative_prompt, "guidance_scale": strictness}
        return stock(latents=noise, width=32, height=32, num_inference_steps=2, output_type="pt", **said).images

    torch.testing.assert_close(ours, theirs(asked.prompt, asked.negative_prompt, 30.0), rtol=0, atol=1e-4)
    for other in (
        (asked.negative_prompt, asked.prompt, 30.0),
        (asked.prompt, "", 30.0),
        (asked.prompt, "a photo of a dog", 5.0),
    ):
        assert (ours - theirs(*other)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("name", "loras"), [(drawing.SAMPLERS[0], 0), (drawing.SAMPLERS[1], 1), (drawing.SAMPLERS[2], 2)]
)
def test_the_pocket_models_pictures_are_diffusers_own_to_the_pixel(name: str, loras: int) -> None:
    """By their names of the samplers, their prompts, their VAE, their `set_adapters`; the other laws hold at toy size."""
    base, stock = load_base("pocket", device="cpu", attention="plain"), drawing.stock_pipeline()
    drawing.give_loras(base, stock, loras)
    noise = drawing.noise_of(base)
    beside = pixels(drawing.ours(base, name, steps=4, is_fused=False))
    assert (beside == pixels(drawing.theirs(stock, name, noise.clone(), steps=4))).all()
    assert beside.std() > 10
    if loras:
        stock.fuse_lora()
        fused = pixels(drawing.ours(base, name, steps=4))
        assert (fused == pixels(drawing.theirs(stock, name, noise, steps=4))).all()
        assert numpy.abs(fused - beside).max() <= 1  # a sum of weights rounds otherwise than a sum of what they put out


def test_a_fused_lora_draws_the_same_and_leaves_the_weights_to_the_bit() -> None:
    base = trained_toy()
    before = {key: value.clone() for key, value in base.denoiser.state_dict().items()}
    beside = predict(base)
    with contextlib.suppress(Stopped), adapter.fused(base.denoiser):
        assert float((predict(base) - beside).abs().max()) < 1e-5
        adapter.set_strength(base.denoiser, 0)
        assert float((predict(base) - beside).abs().max()) < 1e-5  # the weights hold it, nothing runs beside them
        adapter.set_strength(base.denoiser, 1)
        raise Stopped
    assert all(torch.equal(value, before[key]) for key, value in base.denoiser.state_dict().items())
    assert torch.equal(predict(base), beside)
    base.denoiser.bfloat16()
    with adapter.fused(base.denoiser):
        assert not any(layer.merged for layer in adapter.lora_layers(base.denoiser))


def test_progress_rises_to_one_and_can_stop_the_work(sampler: Sampler) -> None:
    told: list[float] = []
    list(sampler.generate([picture(seed) for seed in range(5)], told.append))
    assert told == sorted(told)
    assert told[-1] == 1

    def stop(_fraction: float) -> None:
        raise Stopped("Stopped, as asked.")

    with pytest.raises(Stopped):
        list(sampler.generate([picture(0)], stop))


@pytest.fixture
def trained(tmp_path: Path, toy_base: Path) -> Run:
    """A run with a strong LoRA at step 2 and a stronger one at step 4."""
    config = TrainingConfig(subject="car", base=str(toy_base), resolution=32, rank=4)
    run = RunStore(tmp_path).create(config, lambda folder: None)
    for step in (2, 4):
        base = load_base(str(toy_base), device="cpu")
        adapter.attach(base.denoiser, 4, 4.0, base.lora.attention, 0)
        with torch.no_grad():
            for parameter in adapter.trainable_parameters(base.denoiser).values():
                parameter.add_(0.1 * step)
        run.save_checkpoint(step, lambda folder, base=base: files.save(base, folder / "lora.safetensors"))
    return run


def answer(trained: Run, folder: Path, **wishes: object) -> list[numpy.ndarray]:
    request = SampleRequest.from_dict({"prompt": "a {subject}", "count": 1, "steps": 2, **wishes})
    store = RunStore(trained.path.parent.parent)
    return [pixels(path) for path in Generator().generate(store, request, folder, lambda message, fraction: None)]


def test_run_checkpoint_and_strength_each_matter(trained: Run, tmp_path: Path, toy_base: Path) -> None:
    def draw(name: str, **wishes: object) -> numpy.ndarray:
        return answer(trained, tmp_path / name, **wishes)[0]

    last, early, off = draw("last"), draw("early", checkpoint="2"), draw("off", strength=0)
    base = draw("base", run="", base=str(toy_base), prompt="a zwx car", width=32, height=32)
    assert (last == draw("again", checkpoint="4")).all()
    assert numpy.abs(last - early).max() > 1
    assert numpy.abs(last - off).max() > 1
    assert (off == base).all()


def test_the_settings_are_inside_the_picture(trained: Run, tmp_path: Path) -> None:
    answer(trained, tmp_path / "out", seed=5, count=2, negative_prompt="a dog")
    with Image.open(tmp_path / "out" / "02-seed6.png") as image:
        assert isinstance(image, Image.Image)
        text: dict[str, str] = image.text  # pyright: ignore[reportAttributeAccessIssue]
    first, *rest = text["parameters"].splitlines()
    assert first == f"a zwx car <lora:{trained.id}:1>"
    assert rest[0] == "Negative prompt: a dog"
    assert rest[1].startswith("Steps: 2, ")
    assert rest[1].endswith("Model: toy")
    request = SampleRequest.from_dict(json.loads(text["apt_studio"]))
    assert (request.prompt, request.seed, request.count) == ("a {subject}", 6, 1)


def test_the_model_and_what_it_heard_stay_between_requests(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    encode = StableDiffusion._encode
    monkeypatch.setattr(StableDiffusion, "_encode", lambda base, prompt: said.append(prompt) or encode(base, prompt))
    store, generator = RunStore(trained.path.parent.parent), Generator()
    messages: list[str] = []
    note: Callable[[str, float | None], None] = lambda message, _fraction: messages.append(message)  # noqa: E731
    for wish in ("2", "4"):
        request = SampleRequest(prompt="a {subject}", checkpoint=wish, count=1, steps=2)
        list(generator.generate(store, request, tmp_path / wish, note))
    assert sum(message.startswith("Loading") for message in messages) == 1
    asked = [prompt for prompt in said if prompt in ("a zwx car", "")]
    assert sorted(asked) == ["", "a zwx car"]  # once each, in both requests


def test_loras_are_put_on_once_for_requests_that_follow_each_other_with_the_same(
    trained: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on, store, generator = stack.put_on, RunStore(trained.path.parent.parent), Generator()
    loaded: list[float] = []

    def counted(base: BaseModel, loras: Sequence[tuple[Path, float]]) -> list[str]:
        loaded.append(loras[0][1])
        return [*put_on(base, loras), "Something was left out."]

    monkeypatch.setattr(stack, "put_on", counted)
    messages: list[str] = []

    def draw(name: str, **wishes: Any) -> numpy.ndarray:
        request = SampleRequest.from_dict({"prompt": "a {subject}", "count": 1, "steps": 2, "strength": 1.0, **wishes})
        note: Callable[[str, float | None], None] = lambda message, _fraction: messages.append(message)  # noqa: E731
        return next(pixels(path) for path in generator.generate(store, request, tmp_path / name, note))

    first, other = draw("1"), draw("2", seed=7)
    assert loaded == [1.0]
    assert messages.count("Something was left out.") == 2
    assert numpy.abs(first - other).max() > 1
    half = draw("3", strength=0.5)
    assert loaded == [1.0, 0.5]
    assert numpy.abs(first - half).max() > 1
    assert (draw("4") == first).all()
    os.utime(trained.checkpoint().lora_path, (1, 1))  # as another file under the same name would have
    assert (draw("5") == first).all()
    assert loaded == [1.0, 0.5, 1.0, 1.0]


def test_a_run_without_a_checkpoint_is_named(tmp_path: Path, toy_base: Path) -> None:
    run = RunStore(tmp_path).create(TrainingConfig(subject="car", base=str(toy_base)), lambda folder: None)
    with pytest.raises(EngineError, match="has no checkpoint yet"):
        answer(run, tmp_path / "out")


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_draws_and_repeats_itself(sampler: Sampler, name: str) -> None:
    asked = [replace(picture(seed), sampler=name, steps=4) for seed in (1, 2)]
    first, again = (list(map(pixels, sampler.generate(asked))) for _ in range(2))
    alone = pixels(next(sampler.generate(asked[1:])))
    assert all((one == other).all() for one, other in zip(first, again, strict=True))
    assert numpy.abs(alone - first[1]).max() <= 1


def test_a_sampler_that_does_not_fit_is_named_and_the_usual_default_gives_way(toy_base: Path) -> None:
    other = Sampler(load_base(str(toy_base), device="cpu"))
    assert set(other.base.samplers) == set(SAMPLERS)
    other.base.samplers = ("Euler", "UniPC")
    with pytest.raises(ConfigError, match=r"cannot be sampled with DDIM; choose Euler or UniPC\."):
        next(other.generate([replace(picture(1), sampler="DDIM")]))
    own = pixels(next(other.generate([picture(1)])))
    assert (own == pixels(next(other.generate([replace(picture(1), sampler="Euler")])))).all()


def test_a_sampler_leaves_nothing_behind_for_the_next(sampler: Sampler) -> None:
    plain = pixels(next(sampler.generate([replace(picture(1), steps=4)])))
    karras = pixels(next(sampler.generate([replace(picture(1), steps=4, sampler="DPM++ 2M Karras")])))
    assert numpy.abs(plain - karras).max() > 0
    assert (pixels(next(sampler.generate([replace(picture(1), steps=4)]))) == plain).all()


def test_previews_come_on_the_way_and_change_nothing(sampler: Sampler) -> None:
    shown: list[Image.Image] = []
    asked = [replace(picture(1, 64), steps=10)]
    watched = pixels(next(sampler.generate(asked, on_preview=shown.append)))
    assert 3 <= len(shown) <= 5
    assert max(shown[0].size) <= 64
    assert (watched == pixels(next(sampler.generate(asked)))).all()


def test_a_lora_file_draws_what_its_run_draws(trained: Run, tmp_path: Path, toy_base: Path) -> None:
    file = trained.checkpoint().lora_path
    (by_run,) = answer(trained, tmp_path / "run", prompt="a car")
    (by_file,) = answer(
        trained, tmp_path / "file", prompt="a car", run="", base=str(toy_base), lora=str(file), width=32, height=32
    )
    assert (by_run == by_file).all()
    with pytest.raises(ConfigError, match="leave one out"):
        SampleRequest(prompt="a car", run=trained.id, lora=str(file))


def test_several_loras_draw_together_and_are_named_in_the_picture_without_their_folders(
    trained: Run, tmp_path: Path, toy_base: Path
) -> None:
    style, gone = tmp_path / "style.safetensors", tmp_path / "gone.safetensors"
    style.write_bytes(trained.checkpoint().lora_path.read_bytes())
    early = "2"
    (alone,) = answer(trained, tmp_path / "alone", checkpoint=early)
    (both,) = answer(trained, tmp_path / "both", checkpoint=early, strength=0.5, loras=[f"{style}:0.25"])
    (by_name,) = answer(
        trained,
        tmp_path / "other way",
        prompt="a zwx car",
        run="",
        base=str(toy_base),
        width=32,
        height=32,
        loras=[f"{style}:0.25", f"{trained.id}@{early}:0.5"],
    )
    assert numpy.abs(both - alone).max() > 1
    assert numpy.abs(both - by_name).max() <= 1
    with Image.open(tmp_path / "both" / "01-seed0.png") as image:
        text: dict[str, str] = image.text  # pyright: ignore[reportAttributeAccessIssue]
    assert text["parameters"].splitlines()[0] == f"a zwx car <lora:{trained.id}:0.5> <lora:style:0.25>"
    assert json.loads(text["apt_studio"])["loras"] == ["style.safetensors:0.25"]
    assert str(tmp_path) not in str(text)
    with Image.open(tmp_path / "other way" / "01-seed0.png") as image:
        assert str(tmp_path) not in str(image.info)
    for loras, words in (
        ([f"{gone}:1"], r"The LoRA file gone\.safetensors is not there any more; choose another, or take it out\."),
        ([f"{trained.id}@4"], "is given twice"),
        (["another-run:1"], "There is no run another-run"),
    ):
        with pytest.raises(EngineError, match=words):
            answer(trained, tmp_path / "bad", loras=loras)
