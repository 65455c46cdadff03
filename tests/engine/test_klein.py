"""FLUX.2 klein at toy size: what it answers is what the stock pipeline does, and it goes the whole way of a training."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Flux2Transformer2DModel
from diffusers.training_utils import compute_loss_weighting_for_sd3
from torch import Tensor

from apt_engine.apt.augment import Warp
from apt_engine.bases import random
from apt_engine.bases.klein import Klein
from apt_engine.bases.profiles import NEEDS, needs_of
from apt_engine.bases.registry import load_base
from apt_engine.errors import BaseModelError, ConfigError
from apt_engine.lora import adapter
from apt_engine.runs.events import Calibrated, Noticed, StepFinished
from apt_engine.sampling.sampler import Picture, Sampler
from apt_engine.training.latents import encode_view
from tests.flow_runs import check_training, lora_bytes
from tests.klein import PROMPT_TOKENS, save_toy_klein, toy_klein, toy_klein_pipeline
from tests.laws import OFF, output, perturb, run, step_of, tuned_base


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
