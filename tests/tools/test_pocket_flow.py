"""The pocket flow model's recipe, on pieces that need neither its sources nor any training."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, Flux2KleinPipeline
from diffusers.models.transformers import transformer_flux2
from transformers import Qwen2Tokenizer, Qwen3ForCausalLM

from tools.pocket import flow_speed, grid
from tools.pocket.autoencoder import build_autoencoder
from tools.pocket.files import load_checkpoint, save_checkpoint
from tools.pocket.flow import BATCH, batch_indices, build_optimizer, flow_loss
from tools.pocket.flow_model import (
    TOKEN_CHANNELS,
    FlowModel,
    build_scheduler,
    build_text_encoder,
    build_transformer,
    embed_text,
    predict_velocity,
    spread,
)
from tools.pocket.flow_speed import Working
from tools.pocket.flow_tokenizer import CHAT_TEMPLATE, END, PADDING, START, TEXT_LENGTH, tokenize
from tools.pocket.flow_vae import convert_vae, load_pocket_vae, measure_statistics, normalize_tokens, to_tokens
from tools.pocket.settings import Workplace


@pytest.fixture(scope="module")
def text_encoder() -> Qwen3ForCausalLM:
    """As it is trained; random norms too, or the last would change next to nothing."""
    torch.manual_seed(6)
    made = build_text_encoder(make_tokenizer()).eval()
    for name, parameter in made.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return made


def make_tokenizer() -> Qwen2Tokenizer:
    """Letters only, but with the real template and special tokens."""
    letters = [chr(code) for code in range(33, 127)] + ["\u0120"]
    return Qwen2Tokenizer(
        vocab={letter: index for index, letter in enumerate(letters)},
        merges=[],
        eos_token=END,
        pad_token=PADDING,
        additional_special_tokens=[START],
        model_max_length=TEXT_LENGTH,
        chat_template=CHAT_TEMPLATE,
    )


@pytest.fixture(scope="module")
def pipeline(text_encoder: Qwen3ForCausalLM) -> Flux2KleinPipeline:
    """The stock pipeline around parts with random weights, as they are exported."""
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    made = Flux2KleinPipeline(
        scheduler=build_scheduler(),
        vae=convert_vae(build_autoencoder()),
        text_encoder=spread(text_encoder),
        tokenizer=tokenizer,
        transformer=build_transformer().eval(),
    )
    made.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def pocket_vae() -> AutoencoderKL:
    return load_pocket_vae(Workplace())


def test_the_autoencoder_is_the_pocket_models_bit_for_bit(pocket_vae: AutoencoderKL) -> None:
    converted = convert_vae(pocket_vae)
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents, same = (vae.encode(pictures).latent_dist.mode() for vae in (pocket_vae, converted))
        assert torch.equal(latents, same)
        assert torch.equal(pocket_vae.decode(latents).sample, converted.decode(same).sample)
    assert latents.std() > 1  # trained weights, not the zeros of a fresh module


def test_tokens_are_packed_and_normalized_as_the_pipeline_does(
    pipeline: Flux2KleinPipeline, pocket_vae: AutoencoderKL
) -> None:
    pictures = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    vae = convert_vae(pocket_vae)
    with torch.no_grad():
        tokens = to_tokens(vae.encode(pictures).latent_dist.mode())
    mean, variance = measure_statistics(tokens, pocket_vae.config["scaling_factor"])
    vae.bn.running_mean.copy_(mean)
    vae.bn.running_var.copy_(variance)
    theirs = Flux2KleinPipeline(**{**pipeline.components, "vae": vae})
    with torch.no_grad():
        expected = theirs._pack_latents(theirs._encode_vae_image(pictures, torch.Generator()))
    normalized = normalize_tokens(tokens, mean, variance)
    assert normalized.shape == (6, 64, TOKEN_CHANNELS)
    assert torch.allclose(normalized, expected, atol=1e-5)
    assert normalized.mean((0, 1)).abs().max() < 1e-5
    raw = (tokens - tokens.mean((0, 1))) * pocket_vae.config["scaling_factor"]
    assert torch.allclose(normalized, raw, atol=1e-5)


def test_text_is_embedded_as_the_pipeline_does(pipeline: Flux2KleinPipeline, text_encoder: Qwen3ForCausalLM) -> None:
    captions = ["a photo of an owl", ""]
    with torch.no_grad():
        ours = embed_text(text_encoder, *tokenize(pipeline.tokenizer, captions))
        theirs, _ = pipeline.encode_prompt(captions, max_sequence_length=TEXT_LENGTH)
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert not torch.allclose(ours[0], ours[1], atol=1e-3)


def test_case_and_outer_spaces_of_a_prompt_do_not_matter() -> None:
    tokenizer = make_tokenizer()
    assert torch.equal(*(tokenize(tokenizer, [text])[0] for text in (" An Owl", "an owl ")))


def test_the_grid_is_drawn_at_the_size_and_length_the_model_was_trained_on(
    pipeline: Flux2KleinPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grid, "STEPS", 1)
    lengths: list[int] = []
    hook = pipeline.transformer.context_embedder.register_forward_pre_hook(
        lambda _, inputs: lengths.append(inputs[0].shape[1])
    )
    (picture,) = grid.sample(pipeline, ["an owl"])
    hook.remove()
    assert picture.size == (64, 64)
    assert lengths == [TEXT_LENGTH] * 2  # with the prompt, and without
    assert grid.size_settings(DiffusionPipeline()) == {}


def test_velocity_is_predicted_as_the_pipeline_does(
    pipeline: Flux2KleinPipeline, text_encoder: Qwen3ForCausalLM
) -> None:
    """One step of the stock pipeline from sigma 1 to 0 is: noise minus the velocity at the noise."""
    noise = torch.randn(1, TOKEN_CHANNELS, 8, 8, generator=torch.Generator().manual_seed(2))
    picture = pipeline(
        prompt="an owl",
        height=64,
        width=64,
        num_inference_steps=1,
        guidance_scale=1.0,
        latents=noise,
        max_sequence_length=TEXT_LENGTH,
        output_type="latent",
    ).images
    with torch.no_grad():
        text = embed_text(text_encoder, *tokenize(pipeline.tokenizer, ["an owl"]))
        tokens = noise.flatten(2).transpose(1, 2)
        ours = tokens - predict_velocity(pipeline.transformer, tokens, torch.ones(1), text)
    deviation = (pipeline.vae.bn.running_var + pipeline.vae.config["batch_norm_eps"]).sqrt()
    assert torch.allclose(ours * deviation + pipeline.vae.bn.running_mean, to_tokens(picture), atol=1e-5)


def test_a_level_is_told_exactly_whatever_the_format_of_the_weights() -> None:
    transformer, told = build_transformer().bfloat16(), []
    transformer.time_guidance_embed.timestep_embedder.register_forward_pre_hook(
        lambda _, inputs: told.append(inputs[0])
    )
    tokens, text = (
        torch.zeros(2, 64, TOKEN_CHANNELS, dtype=torch.bfloat16),
        torch.zeros(2, 24, 192, dtype=torch.bfloat16),
    )
    sigmas = torch.tensor([0.9013, 0.3331])
    with torch.no_grad():
        predict_velocity(transformer, tokens, sigmas, text)
    exact = transformer.time_guidance_embed.time_proj(1000 * sigmas)
    assert torch.equal(told[0], exact.bfloat16())
    assert not torch.allclose(
        told[0].float(), transformer.time_guidance_embed.time_proj(1000 * sigmas.bfloat16()), atol=0.1
    )


def test_a_fast_step_has_the_gradients_of_a_plain_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """In fp32, without a compiler: plain attention, and weights and gradients that go over and come back."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(transformer_flux2, "dispatch_attention_fn", transformer_flux2.dispatch_attention_fn)
    monkeypatch.setattr(flow_speed, "FORMAT", torch.float32)
    monkeypatch.setattr(flow_speed, "multiplies_bfloat16", lambda: True)
    torch.manual_seed(7)
    model = FlowModel(make_tokenizer())
    torch.nn.init.normal_(model.transformer.proj_out.weight, std=0.1)
    tokens, noise = torch.randn(2, 2, 64, TOKEN_CHANNELS)
    arguments = tokens, noise, torch.tensor([0.25, 0.5]), tokenize(make_tokenizer(), ["an owl", "a cat"])
    flow_loss(model, *arguments).backward()
    expected = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    working = Working(model)
    with torch.no_grad():
        for parameter in working.model.parameters():
            parameter.zero_()
    working.take_weights()
    flow_loss(working.model, *arguments).backward()
    working.give_gradients()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert (parameter.grad is None) == (gradient is None)
        if gradient is not None and parameter.grad is not None:
            assert torch.allclose(parameter.grad, gradient, atol=1e-5, rtol=1e-3)


class Oracle(torch.nn.Module):
    """Answers with one number, and keeps what it was shown."""

    def __init__(self, answer: float) -> None:
        super().__init__()
        self.answer, self.seen = answer, torch.empty(0)

    def forward(self, noisy: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
        self.seen = noisy
        return torch.full_like(noisy, self.answer)


def test_the_loss_is_zero_for_the_true_velocity_alone() -> None:
    tokens, noise = torch.ones(2, 64, TOKEN_CHANNELS), torch.full((2, 64, TOKEN_CHANNELS), 3.0)
    captions = tokenize(make_tokenizer(), ["an owl", ""])
    for answer, loss in ((2.0, 0.0), (1.0, 1.0)):
        oracle = Oracle(answer)
        assert float(flow_loss(oracle, tokens, noise, torch.tensor([0.25, 0.5]), captions)) == loss
        assert oracle.seen[:, 0, 0].tolist() == [1.5, 2.0]


def test_a_batch_depends_on_its_step_alone_and_an_epoch_shows_every_picture_once() -> None:
    count = 3 * BATCH + 5
    epoch = np.concatenate([batch_indices(count, step) for step in range(3)])
    assert len(set(epoch.tolist())) == 3 * BATCH
    assert batch_indices(count, 1).tolist() == batch_indices(count, 1).tolist()
    assert batch_indices(count, 3).tolist() != batch_indices(count, 0).tolist()


def test_training_goes_on_from_a_checkpoint_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    def make() -> tuple[torch.nn.Linear, torch.optim.AdamW]:
        torch.manual_seed(5)
        layer = torch.nn.Linear(6, 4)
        return layer, build_optimizer(layer)

    def step(layer: torch.nn.Linear, optimizer: torch.optim.AdamW, number: int) -> None:
        layer(torch.randn(3, 6, generator=torch.Generator().manual_seed(number))).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    layer, optimizer = make()
    step(layer, optimizer, 0)
    save_checkpoint(tmp_path / "flow.safetensors", {"layer": layer}, optimizer, {})
    step(layer, optimizer, 1)
    resumed, its_optimizer = make()
    load_checkpoint(tmp_path / "flow.safetensors", {"layer": resumed}, its_optimizer)
    step(resumed, its_optimizer, 1)
    assert torch.equal(resumed.weight, layer.weight)
    assert torch.equal(resumed.bias, layer.bias)
