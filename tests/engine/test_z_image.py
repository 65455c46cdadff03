"""Z-Image at toy size: what it answers is what the stock pipeline does, and it goes the whole way of a training."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers import ZImageTransformer2DModel
from torch import Tensor

from apt_engine.bases import random
from apt_engine.bases.base import Attention
from apt_engine.bases.profiles import NEEDS, needs_of
from apt_engine.bases.registry import load_base
from apt_engine.bases.z_image import ZImage
from apt_engine.errors import BaseModelError
from apt_engine.runs.events import SplitMeasured
from apt_engine.sampling.sampler import Picture, Sampler
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.captions import Captions
from apt_engine.training.watch import attention_map
from tests.flow_runs import check_training, lora_bytes
from tests.laws import output, tuned_base
from tests.z_image import (
    LATENT_CHANNELS,
    PROMPT_TOKENS,
    TURBO_SHIFT,
    save_toy_z_image,
    toy_z_image,
    toy_z_image_pipeline,
)

SHORT, LONG = "a car", "a" + " cat" * 40  # of 32 and of 64 tokens, template included and filled up


@pytest.fixture(scope="module")
def z_image_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_toy_z_image(tmp_path_factory.mktemp("base") / "toy-z-image")


def test_a_folder_loads_frozen_and_is_known_by_what_it_says(z_image_base: Path) -> None:
    base = load_base(str(z_image_base), device="cpu")
    assert isinstance(base, ZImage)
    for module in (base.pipeline.transformer, base.pipeline.vae, base.pipeline.text_encoder):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())
    assert needs_of(str(z_image_base), {}) == NEEDS["base-z-image"]
    assert torch.equal(output(base), output(toy_z_image()))


def test_it_draws_what_the_stock_pipeline_draws() -> None:
    base, stock = toy_z_image(), toy_z_image_pipeline()
    noise = torch.randn(1, 4 * LATENT_CHANNELS, 4, 4, generator=random.generator(3, 0, 0, "sample"))
    settings: dict[str, Any] = {"width": 32, "height": 32, "max_sequence_length": PROMPT_TOKENS, "output_type": "pt"}

    def theirs(prompt: str, strictness: float) -> Tensor:
        """Diffusers counts guidance from 0 here."""
        cells = F.pixel_shuffle(noise, 2)
        return stock(
            prompt=prompt, latents=cells, guidance_scale=strictness - 1, num_inference_steps=4, **settings
        ).images

    for strictness in (1.0, 5.0):
        picture = Picture(prompt="a cat", seed=3, steps=4, guidance_scale=strictness, width=32, height=32)
        ours = base.decode(next(Sampler(base).latents([picture])))
        torch.testing.assert_close(ours, theirs("a cat", strictness), rtol=0, atol=1e-4)
        for other in (theirs("a car", strictness), theirs("a cat", strictness + 1)):
            assert (ours - other).abs().max() > 1e-3


def test_the_loss_is_that_of_the_stock_training_script() -> None:
    """Its formula on the same tensors: mixture, time, sign and target."""
    base = toy_z_image()
    generator = torch.Generator().manual_seed(5)
    cells, noise = (torch.randn(2, LATENT_CHANNELS, 8, 8, generator=generator) for _ in range(2))
    timesteps = torch.tensor([120.0, 810.0])
    sigmas = (timesteps / 1000)[:, None, None, None]
    mixture = ((1 - sigmas) * cells + sigmas * noise).unsqueeze(2)
    told, _ = base.pipeline.encode_prompt(["a car", "a cat"], max_sequence_length=PROMPT_TOKENS)
    with torch.no_grad():
        said = base.denoiser(list(mixture), (1000 - timesteps) / 1000, told, return_dict=False)[0]
        theirs = (-torch.stack(said).squeeze(2) - (noise - cells)).square().mean((1, 2, 3))
        latents, mixed = (F.pixel_unshuffle(part, 2) for part in (cells, noise))
        noisy = base.add_noise(latents, mixed, timesteps)
        wrong = base.predict(noisy, timesteps, base.encode_prompts(["a car", "a cat"])) - base.target(
            latents, mixed, timesteps
        )
    torch.testing.assert_close(wrong.square().mean((1, 2, 3)), theirs, rtol=1e-6, atol=0)


def test_latents_are_those_of_the_pipeline_and_come_back() -> None:
    base = toy_z_image()
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    mean, deviation = base.encode_images(pixels)
    assert mean.shape == (2, *base.latent_shape(32, 32)) == (2, 16, 4, 4)
    assert not deviation.any()
    vae: Any = base.pipeline.vae
    raw = vae.encode(pixels).latent_dist.mode()
    torch.testing.assert_close(F.pixel_shuffle(mean, 2), (raw - 0.12) * 0.36)
    torch.testing.assert_close(base.decode(mean), (vae.decode(raw).sample / 2 + 0.5).clamp(0, 1))


def test_prompts_are_heard_as_by_the_stock_pipeline_and_found_in_their_template() -> None:
    base = toy_z_image()
    told, _ = base.pipeline.encode_prompt([SHORT, LONG], max_sequence_length=PROMPT_TOKENS)
    states = base.encode_prompts([SHORT, LONG])
    assert states.lengths == tuple(len(one) for one in told)
    for hidden, length, one in zip(states.hidden, states.lengths, told, strict=True):
        torch.testing.assert_close(hidden[:length], one)
        assert not hidden[length:].any()
    for caption in ("a photo of a zwx car", "user", "a cat\n", ""):
        tokens = base.caption_tokens(caption)
        assert base.pipeline.tokenizer.decode(list(tokens.ids)) == caption
        whole = base.pipeline.tokenizer(base._templated(caption)).input_ids
        assert [whole[column] for column in tokens.columns] == list(tokens.ids)
        assert len(whole) == base.encode_prompts([caption]).lengths[0]


def test_a_caption_beyond_the_window_of_the_language_model_is_told() -> None:
    endless = "a {subject}" + " cat" * 600
    captions = Captions(toy_z_image(), TrainingConfig(subject="car", caption=endless))
    assert captions.cut == [endless.replace("{subject}", "zwx car")]
    assert max(captions.tokens([0]).tuned) == PROMPT_TOKENS - 1


def test_a_shorter_caption_in_a_batch_is_heard_as_alone() -> None:
    base = toy_z_image()
    latents = torch.randn(2, *base.latent_shape(32, 32), generator=torch.Generator().manual_seed(2))
    timesteps = torch.tensor([100.0, 700.0])
    with torch.no_grad():
        both = base.predict(latents, timesteps, base.encode_prompts([SHORT, LONG]))
        for index, caption in enumerate((SHORT, LONG)):
            one = slice(index, index + 1)
            alone = base.predict(latents[one], timesteps[one], base.encode_prompts([caption]))
            torch.testing.assert_close(both[one], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("captions", [[SHORT, SHORT], [SHORT, LONG]])
def test_what_is_seen_is_what_the_layers_attend_with(captions: list[str]) -> None:
    """softmax(QK) of the queries and keys that are seen, times the values that the projections make, must be the features."""
    base = tuned_base("z-image")
    values: dict[str, Tensor] = {}
    for name in base.watched_layers.maps:
        layer: Any = base.denoiser.get_submodule(name)
        layer.to_v.register_forward_hook(
            lambda _module, _inputs, projected, name=name: values.setdefault(name, projected)
        )
    states = base.encode_prompts(captions)
    latents = torch.randn(2, *base.latent_shape(32, 32), generator=torch.Generator().manual_seed(2))

    attentions: dict[str, Attention] = {}
    features: dict[str, Tensor] = {}
    with torch.no_grad(), base.watch(features.__setitem__, attentions.__setitem__):
        base.predict(latents, torch.tensor([10.0, 700.0]), states)
    assert list(attentions) == list(features) == ["layers.2.attention", "layers.3.attention"]
    for name, attention in attentions.items():
        maps = attention_map(attention.query, attention.key)
        mixed = (maps @ values[name].unflatten(-1, (2, 8)).transpose(1, 2)).transpose(1, 2).flatten(2)
        assert (attention.query.shape[2], attention.text_start) == (16, 32)
        torch.testing.assert_close(mixed, features[name], rtol=1e-4, atol=1e-5)
        assert attention.key.shape[2] == 32 + (64 if LONG in captions else 32)


def test_turbo_is_refused_in_a_sentence_by_its_name_or_its_scheduler() -> None:
    for turbo in (
        toy_z_image(shift=TURBO_SHIFT),
        toy_z_image(name="Tongyi-MAI/Z-Image-Turbo"),
        toy_z_image(name="models\\z-image-turbo"),
    ):
        with pytest.raises(BaseModelError, match=r"is distilled .*; choose its base version instead\.$"):
            turbo.prepare_training(32, gradient_checkpointing=False)
    toy_z_image(name="turbo-models/z-image").prepare_training(32, gradient_checkpointing=False)


def test_sizes_are_those_of_the_real_model() -> None:
    with torch.device("meta"):
        transformer = ZImageTransformer2DModel()
    assert sum(parameter.numel() for parameter in transformer.parameters()) == pytest.approx(6.155e9, rel=1e-3)
    base = toy_z_image()
    base.pipeline.transformer = transformer
    assert NEEDS["base-z-image"].lora == pytest.approx(lora_bytes(base), rel=0.01)
    assert len(base.watched_layers.features) == 15


def test_it_trains_with_all_of_the_method_resumes_bit_for_bit_and_is_exported(
    z_image_base: Path, photo_dir: Path, tmp_path: Path
) -> None:
    settings = {"check_every_steps": 3, "new_views": "mirrored"}
    events = check_training(z_image_base, toy_z_image, photo_dir, tmp_path, **settings).events
    assert [event.step for event in events if isinstance(event, SplitMeasured)] == [3, 6]
