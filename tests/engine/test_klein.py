"""FLUX.2 klein at toy size: what it answers is what the stock pipeline does, and it goes the whole way of a training."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel
from diffusers.training_utils import compute_loss_weighting_for_sd3
from torch import Tensor

from apt_engine.apt.augment import Warp
from apt_engine.bases import random
from apt_engine.bases.base import Attention
from apt_engine.bases.flow import FlowNoise, shift_for
from apt_engine.bases.klein import Klein
from apt_engine.bases.profiles import NEEDS, needs_of
from apt_engine.bases.registry import load_base
from apt_engine.bases.z_image import ZImage
from apt_engine.errors import BaseModelError, ConfigError
from apt_engine.jobs.session import train
from apt_engine.lora import adapter, files
from apt_engine.photos.photo_set import photos_in, read_photos
from apt_engine.runs.events import Calibrated, DriftMeasured, Event, ExportReady, Noticed, SampleReady, StepFinished
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.sampling.sampler import Picture, Sampler
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.latents import encode_view
from apt_engine.training.watch import attention_map
from tests.klein import PROMPT_TOKENS, save_toy_klein, toy_klein, toy_klein_pipeline
from tests.laws import OFF, gradients, output, perturb, run, step_of, tuned_base


@pytest.fixture(scope="module")
def klein_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_toy_klein(tmp_path_factory.mktemp("base") / "toy-klein")


def test_a_folder_loads_frozen_and_is_known_by_what_it_says(klein_base: Path) -> None:
    base = load_base(str(klein_base), device="cpu")
    assert isinstance(base, Klein)
    for module in (base.pipeline.transformer, base.pipeline.vae, base.pipeline.text_encoder):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())
    assert needs_of(str(klein_base), {}) == NEEDS["base-klein"]
    assert torch.equal(output(base), output(toy_klein()))


def test_it_draws_what_the_stock_pipeline_draws() -> None:
    base, stock = toy_klein(), toy_klein_pipeline()
    noise = torch.randn(1, 16, 4, 4, generator=random.generator(3, 0, 0, "sample"))
    settings: dict[str, Any] = {"width": 32, "height": 32, "max_sequence_length": PROMPT_TOKENS, "output_type": "pt"}

    def theirs(prompt: str, strictness: float) -> Tensor:
        return stock(prompt=prompt, latents=noise, guidance_scale=strictness, num_inference_steps=4, **settings).images

    for strictness in (1.0, 5.0):
        picture = Picture(prompt="a cat", seed=3, steps=4, guidance_scale=strictness, width=32, height=32)
        ours = base.decode(next(Sampler(base).latents([picture])))
        torch.testing.assert_close(ours, theirs("a cat", strictness), rtol=0, atol=1e-4)
        for other in (theirs("a car", strictness), theirs("a cat", strictness + 1)):
            assert (ours - other).abs().max() > 1e-3


def test_only_its_own_sampler_fits() -> None:
    sampler = Sampler(toy_klein())
    assert sampler.fitting("DPM++ 2M") == "Euler"
    with pytest.raises(ConfigError, match=r"toy-klein cannot be sampled with DDIM; choose Euler\."):
        sampler.fitting("DDIM")


def test_latents_are_those_of_the_stock_pipeline_and_come_back() -> None:
    base = toy_klein()
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, deviation = base.encode_images(pixels)
    assert mean.shape == (2, *base.latent_shape(32, 32))
    assert not deviation.any()
    pipeline: Any = base.pipeline
    torch.testing.assert_close(mean, pipeline._encode_vae_image(pixels, torch.Generator()))
    raw = pipeline.vae.encode(pixels).latent_dist.mode()
    torch.testing.assert_close(base.decode(mean), (pipeline.vae.decode(raw).sample / 2 + 0.5).clamp(0, 1))


def test_velocity_leads_to_the_picture_and_to_the_noise() -> None:
    flow, generator = FlowNoise(), torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 2, 2, generator=generator) for _ in range(2))
    timesteps = torch.tensor([1.0, 500.0, 990.0])
    share = timesteps[:, None, None, None] / 1000
    noisy, velocity = flow.add_noise(latents, noise, timesteps), flow.target(latents, noise, timesteps)
    torch.testing.assert_close(noisy - share * velocity, latents)
    torch.testing.assert_close(noisy + (1 - share) * velocity, noise)
    wrong = velocity + 0.5
    gap = (noisy + (1 - share) * wrong - noise).square().mean((1, 2, 3))
    torch.testing.assert_close(gap, flow.in_eps_space(timesteps) * 0.25)
    torch.testing.assert_close(flow.snr(timesteps), ((1 - share) / share).square().flatten())


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_bins_are_tenths_of_what_is_drawn(shift: float) -> None:
    flow = FlowNoise()
    flow.shift = shift
    drawn = torch.tensor([flow.draw_timestep(random.generator(0, step, 0, "photos")) for step in range(4000)])
    assert 0 < drawn.min() < drawn.max() < 1000
    assert float(drawn.median()) == pytest.approx(1000 * shift / (1 + shift), rel=0.03)
    counts = torch.bincount(flow.bin_of(drawn), minlength=10)
    assert counts.tolist() == pytest.approx([400] * 10, abs=70)  # a standard deviation is 19
    assert flow.bin_of(torch.tensor(flow.levels(10))).tolist() == list(range(10))
    assert flow.levels(5) == sorted(flow.levels(5)) == flow.levels(5)


def test_larger_pictures_are_trained_with_more_noise() -> None:
    base = toy_klein()
    shifts = []
    for resolution in (128, 256, 512):
        base.prepare_training(resolution, gradient_checkpointing=False)
        shifts.append(base.shift)
    fixed = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False, shift=3.0).config
    assert shift_for(fixed, 64) == shift_for(fixed, 4096) == 3
    assert shifts == pytest.approx([numpy.e**0.5, numpy.e**0.63, numpy.e**1.15], rel=1e-3)


def test_a_caption_is_found_inside_its_template() -> None:
    base = toy_klein()
    for caption in ("a photo of a zwx car", "user", "assistant", "a cat\n", ""):
        tokens = base.caption_tokens(caption)
        assert base.pipeline.tokenizer.decode(list(tokens.ids)) == caption
        assert not tokens.is_cut
    whole = base.pipeline.tokenizer(base._templated("a zwx car")).input_ids
    tokens = base.caption_tokens("a zwx car")
    assert [whole[column] for column in tokens.columns] == list(tokens.ids)
    assert len(tokens.ids) == 3
    base.pipeline.tokenizer.chat_template = "{{ messages[0].content | trim }}!"
    assert base.pipeline.tokenizer.decode(list(base.caption_tokens("  a car ").ids)) == "a car"
    cut = toy_klein().caption_tokens("a" + " cat" * 600)
    assert cut.is_cut
    assert cut.columns[-1] == PROMPT_TOKENS - 1


class Trained(NamedTuple):
    """What a training told, and toys with its LoRA: loaded here, none, and loaded by diffusers."""

    events: list[Event]
    tuned: Any
    bare: Any
    stock: Any


def seen_by(base: Klein) -> tuple[dict[str, Attention], dict[str, Tensor]]:
    """What one pass lets be seen."""
    attentions: dict[str, Attention] = {}
    features: dict[str, Tensor] = {}
    with torch.no_grad(), base.watch(features.__setitem__, attentions.__setitem__):
        output(base)
    return attentions, features


def test_what_is_seen_is_what_the_layers_attend_with() -> None:
    """softmax(QK) of the queries and keys that are seen, times the values that the projections make, must be the features."""
    base = tuned_base("klein")
    assert isinstance(base, Klein)
    values: dict[str, list[Tensor]] = {}
    for name in base.watched_layers.maps:
        layer: Any = base.denoiser.get_submodule(name)
        for part in ("add_v_proj", "to_v", "to_qkv_mlp_proj"):
            if hasattr(layer, part):
                getattr(layer, part).register_forward_hook(
                    lambda _module, _inputs, projected, name=name: values.setdefault(name, []).append(projected)
                )
    expected = output(base)
    values.clear()
    attentions, features = seen_by(base)
    assert list(attentions) == list(features) == list(base.watched_layers.maps)
    assert len(attentions) == 3
    assert {name.partition(".")[0] for name in attentions} == {"transformer_blocks", "single_transformer_blocks"}
    for name, attention in attentions.items():
        if name.startswith("single"):
            value = values[name][0].split(16, dim=-1)[2]
        else:
            value = torch.cat(sorted(values[name], key=lambda part: -part.shape[1]), dim=1)
        maps = attention_map(attention.query, attention.key)
        mixed = (maps @ value.unflatten(-1, (2, 8)).transpose(1, 2)).transpose(1, 2).flatten(2)
        assert attention.query.shape[2] == 16
        torch.testing.assert_close(mixed, features[name], rtol=1e-4, atol=1e-5)
    assert torch.equal(output(base), expected)
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in base.denoiser.modules() if not values
    )


def test_attention_by_other_means_is_noticed_before_anything_is_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_hand(query: Tensor, key: Tensor, value: Tensor, **_: object) -> Tensor:
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        return (attention_map(query, key) @ value).transpose(1, 2)

    base = tuned_base("klein")
    with torch.no_grad():
        expected = output(base)
        monkeypatch.setattr("diffusers.models.transformers.transformer_flux2.dispatch_attention_fn", by_hand)
        torch.testing.assert_close(output(base), expected, rtol=1e-4, atol=1e-5)
    learnt: list[Tensor] = []
    with pytest.raises(BaseModelError, match="No layer of this base model was seen at work; set alignment to 0"):
        step_of(base)(1, learnt.append)
    assert not learnt


def test_an_exception_inside_a_layer_leaves_no_watching_behind() -> None:
    base = toy_klein()
    layer: Any = base.denoiser.get_submodule(base.watched_layers.maps[-1])
    hook = layer.norm_q.register_forward_hook(lambda *_: 1 / 0)
    seen: list[str] = []
    with pytest.raises(ZeroDivisionError), base.watch(None, lambda name, _attention: seen.append(name)):
        output(base)
    hook.remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.denoiser.modules())
    seen.clear()
    output(base)
    ones = torch.ones(1, 1, 2, 4)
    torch.nn.functional.scaled_dot_product_attention(ones, ones, ones)
    assert not seen


def test_the_loss_of_a_step_is_that_of_diffusers_own_training_script() -> None:
    """On the same latents, noise and levels; its script says the rest: patches, order of tokens, target, weights of one."""
    base = tuned_base("klein")
    result = run(step_of(base, **OFF))
    batch, stock = result.batch, toy_klein_pipeline()
    stock.transformer = base.denoiser
    sigmas = (batch.timesteps / 1000)[:, None, None, None]
    noisy = (1 - sigmas) * batch.latents + sigmas * batch.noise
    states, text_ids = stock.encode_prompt(["a photo of a zwx car"] * len(noisy), max_sequence_length=PROMPT_TOKENS)
    with torch.no_grad():
        packed = stock.transformer(
            hidden_states=stock._pack_latents(noisy),
            timestep=batch.timesteps / 1000,
            guidance=None,
            encoder_hidden_states=states,
            txt_ids=text_ids,
            img_ids=stock._prepare_latent_ids(noisy),
            return_dict=False,
        )[0]
    prediction = stock._unpack_latents_with_ids(packed, stock._prepare_latent_ids(noisy))
    weighting = compute_loss_weighting_for_sd3("logit_normal", sigmas)
    errors = weighting.float() * (prediction.float() - (batch.noise - batch.latents).float()) ** 2
    theirs = errors.reshape(len(noisy), -1).mean(1).mean()
    assert theirs > 0.1
    assert float(result.loss) == pytest.approx(float(theirs), rel=1e-6)


@pytest.mark.parametrize("kind", ["klein", "z-image"])
@pytest.mark.parametrize("part", ["stabilization", "alignment"])
def test_features_and_maps_each_reach_the_lora(part: str, kind: str) -> None:
    found = []
    for settings in (OFF, {**OFF, part: 100}):
        base = tuned_base(kind)
        run(step_of(base, **settings))
        found.append(gradients(base))
    assert any(not torch.allclose(found[0][name], value) for name, value in found[1].items())


def test_a_warped_photo_is_masked_token_by_token() -> None:
    view = encode_view(toy_klein(), torch.rand(3, 64, 64) * 2 - 1, Warp(1.3, 5))
    assert view.mask.shape == view.mean.shape[1:] == (8, 8)
    assert 0 < view.mask.mean() < 1


def test_a_distilled_model_is_refused_in_a_sentence() -> None:
    with pytest.raises(BaseModelError, match=r"toy-klein is distilled .*; choose its base version instead\.$"):
        toy_klein(is_distilled=True).prepare_training(32, gradient_checkpointing=False)


def test_a_distilled_model_draws_with_a_lora_as_the_stock_pipeline_does() -> None:
    base, stock = toy_klein(is_distilled=True), toy_klein_pipeline(is_distilled=True)
    picture = Picture(prompt="a cat", seed=3, steps=4, guidance_scale=5, width=32, height=32)
    bare = next(Sampler(base).latents([picture]))
    adapter.attach(base.denoiser, 4, 4.0, base.lora.attention, 0)
    perturb(base)
    stock.transformer = base.denoiser
    theirs = stock(
        prompt="a cat",
        latents=torch.randn(1, 16, 4, 4, generator=random.generator(3, 0, 0, "sample")),
        guidance_scale=5.0,  # which it leaves alone
        num_inference_steps=4,
        width=32,
        height=32,
        max_sequence_length=PROMPT_TOKENS,
        output_type="pt",
    ).images
    ours = next(Sampler(base).latents([picture]))
    torch.testing.assert_close(base.decode(ours), theirs, rtol=0, atol=1e-4)
    assert (ours - bare).abs().max() > 1e-2


def test_sizes_are_those_of_the_real_model() -> None:
    with torch.device("meta"):
        transformer = Flux2Transformer2DModel(
            num_layers=5,
            num_single_layers=20,
            num_attention_heads=24,
            joint_attention_dim=7680,
            guidance_embeds=False,
        )
    assert sum(parameter.numel() for parameter in transformer.parameters()) == pytest.approx(3.876e9, rel=1e-3)
    base = toy_klein()
    base.pipeline.transformer = transformer
    assert NEEDS["base-klein"].lora == pytest.approx(lora_bytes(base), rel=0.01)
    assert len(base.watched_layers.features) == 13


def lora_bytes(base: Klein | ZImage) -> tuple[int, int, int]:
    """Of a LoRA of rank 16 in fp32: its attention, its feed-forward layers, and no convolutions."""
    attention, feed_forward = (
        sum(4 * 16 * sum(layer.weight.shape) for layer in adapter.layers_of(base.denoiser, endings).values())
        for endings in (base.lora.attention, base.lora.feed_forward)
    )
    return attention, feed_forward, 0


def new_run(folder: Path, base: Path, photo_dir: Path, **settings: Any) -> Run:
    values = {
        "subject": "car",
        "base": str(base),
        "resolution": 32,
        "device": "cpu",
        "steps": 6,
        "batch_size": 2,
        "rank": 4,
        "feed_forward": True,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "sensitivity": 1e4,
        "calibration_step": 3,
        "reference_caption": "class",
        "min_snr_gamma": 5,
        "gradient_checkpointing": True,
        "warped_views": 4,
        "save_every_steps": 2,
        "drift_every_steps": 6,
        "sample_every_steps": 6,
        "sample_prompts": ["a photo of a {subject}"],
        "sample_steps": 2,
        "drift_prompts": ["a cat"],
    }
    config = TrainingConfig.from_dict({**values, **settings})
    return RunStore(folder).create(config, lambda photos: read_photos(photos_in(photo_dir)).save(photos, 32))


def finish(run: Run, stop_after: int = 1000) -> list[Event]:
    asked = itertools.count()
    return list(train(RunStore(run.path.parent.parent), run, lambda: next(asked) >= stop_after))


def check_training(base: Path, make_toy: Callable[[], Any], photos: Path, folder: Path, **settings: Any) -> Trained:
    """All of the method in six steps, cut off and resumed bit for bit, and exported for the stock pipeline."""
    whole, stopped = (new_run(folder / name, base, photos, **settings) for name in ("whole", "stopped"))
    events = finish(whole)
    steps = [event for event in events if isinstance(event, StepFinished)]
    assert len(steps) == 6
    assert not any(step.was_skipped for step in steps)
    assert all(step.stabilization and step.alignment for step in steps[1:])
    drifts = [event.drift for event in events if isinstance(event, DriftMeasured)]
    assert drifts[0] == 0 < drifts[-1]
    assert len([event for event in events if isinstance(event, SampleReady)]) == 2
    (export,) = [event for event in events if isinstance(event, ExportReady)]
    assert export.layout == "diffusers"

    finish(stopped, stop_after=3)
    finish(stopped)
    for name in ("lora_path", "optimizer_path"):
        one, other = (getattr(run.checkpoint(), name).read_bytes() for run in (whole, stopped))
        assert one == other

    tuned, bare, stock = make_toy(), make_toy(), make_toy()
    files.load(tuned, whole.checkpoint().lora_path)
    stock.pipeline.load_lora_weights(whole.path / "exports", weight_name=Path(export.path).name)
    with torch.no_grad():
        assert float((output(stock) - output(tuned)).abs().max()) < 1e-3
        assert float((output(bare) - output(tuned)).abs().max()) > 1e-2
    return Trained(events, tuned, bare, stock)


def test_it_trains_with_all_of_the_method_resumes_bit_for_bit_and_is_exported(
    klein_base: Path, photo_dir: Path, tmp_path: Path
) -> None:
    events, tuned, bare, stock = check_training(klein_base, toy_klein, photo_dir, tmp_path)
    steps = [event for event in events if isinstance(event, StepFinished)]
    assert {timestep for step in steps for timestep in step.timesteps} <= set(range(1000))
    assert len([event for event in events if isinstance(event, Calibrated)]) == 1
    told = [event.message for event in events if isinstance(event, Noticed)]
    assert "is exported for diffusers alone" in told[0]
    picture = Picture(prompt="a photo of a zwx car", seed=3, steps=4, guidance_scale=5, width=32, height=32)
    ours, untrained = (base.decode(next(Sampler(base).latents([picture]))) for base in (tuned, bare))
    theirs = stock.pipeline(
        prompt=picture.prompt,
        latents=torch.randn(1, 16, 4, 4, generator=random.generator(3, 0, 0, "sample")),
        guidance_scale=5.0,
        num_inference_steps=4,
        width=32,
        height=32,
        max_sequence_length=PROMPT_TOKENS,
        output_type="pt",
    ).images
    torch.testing.assert_close(theirs, ours, rtol=0, atol=2e-4)  # the file is in fp16
    assert (untrained - ours).abs().max() > 2e-3
