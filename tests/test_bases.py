"""Loading base models: real folders of toy size, and what is no model."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from apt_engine.bases.registry import choose_device, choose_dtype, load_base
from apt_engine.bases.sd import StableDiffusion
from apt_engine.bases.sdxl import StableDiffusionXL
from apt_engine.errors import BaseModelError, ConfigError
from apt_engine.presets import POCKET_DIR
from tests.toy import toy_pipeline, toy_xl_pipeline


def stable_diffusion(kind: str = "epsilon") -> StableDiffusion:
    """The toy of a kind: epsilon, v_prediction or sdxl."""
    family, pipeline = (
        (StableDiffusionXL, toy_xl_pipeline()) if kind == "sdxl" else (StableDiffusion, toy_pipeline(kind))
    )
    return family(pipeline, name="toy", device=torch.device("cpu"), dtype=torch.float32, attention="fused")


def test_a_folder_loads_frozen_and_in_eval_mode(toy_base: Path) -> None:
    base = load_base(str(toy_base), device="cpu")
    for module in (base.pipeline.unet, base.pipeline.vae, base.pipeline.text_encoder):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.skipif(not (POCKET_DIR / "model_index.json").exists(), reason="the pocket model is not in this checkout")
def test_the_pocket_model_loads_by_its_name() -> None:
    base = load_base("pocket", device="cpu", attention="plain")
    assert base.prediction_type == "epsilon"
    assert 64 % base.size_multiple == 0


def test_velocity_and_noise_say_the_same(toy_base: Path) -> None:
    """v = alpha eps - sigma x0, hence eps = alpha v + sigma x_t (Salimans & Ho 2022, arXiv 2202.00512)."""
    base = stable_diffusion("v_prediction")
    generator = torch.Generator().manual_seed(0)
    latents, noise = (torch.randn(3, 4, 8, 8, generator=generator) for _ in range(2))
    timesteps = torch.tensor([1, 500, 998])
    alphas = base._alphas_cumprod[timesteps][:, None, None, None]
    noisy, velocity = base.add_noise(latents, noise, timesteps), base.target(latents, noise, timesteps)
    torch.testing.assert_close(alphas.sqrt() * velocity + (1 - alphas).sqrt() * noisy, noise, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(base.snr(timesteps), alphas.flatten() / (1 - alphas.flatten()))
    assert stable_diffusion().target(latents, noise, timesteps) is noise


def test_latents_are_scaled_as_the_vae_says() -> None:
    base = stable_diffusion()
    pixels = torch.rand(1, 3, 32, 32) * 2 - 1
    mean, std = base.encode_images(pixels)
    raw = base.pipeline.vae.encode(pixels).latent_dist
    factor = base.pipeline.vae.config.scaling_factor
    torch.testing.assert_close(mean, raw.mean * factor)
    torch.testing.assert_close(std, raw.std * factor)
    torch.testing.assert_close(
        base.decode(mean), (base.pipeline.vae.decode(mean / factor).sample / 2 + 0.5).clamp(0, 1)
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/no/such/folder", "There is no base model /no/such/folder"),
        ("./nothing", "There is no base model ./nothing"),
        ("owner/not-in-the-cache", "owner/not-in-the-cache cannot be loaded"),
    ],
)
def test_what_is_not_there_is_named(name: str, words: str) -> None:
    with pytest.raises(BaseModelError) as caught:
        load_base(name, device="cpu")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="not a model in diffusers layout"):
        load_base(str(tmp_path), device="cpu")
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(BaseModelError, match="is a FluxPipeline; supported are"):
        load_base(str(tmp_path), device="cpu")
    (tmp_path / "model_index.json").write_text(json.dumps(["StableDiffusionPipeline"]))
    with pytest.raises(BaseModelError, match="not a model in diffusers layout"):
        load_base(str(tmp_path), device="cpu")


def test_sdxl_says_sizes_as_its_own_pipeline_does(toy_bases: dict[str, Path]) -> None:
    base = load_base(str(toy_bases["sdxl"]), device="cpu")
    assert (base.family, base.prediction_type) == ("sdxl_base_v1-0", "epsilon")
    seen: list[dict[str, torch.Tensor]] = []
    base.denoiser.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["added_cond_kwargs"]), with_kwargs=True
    )
    base.pipeline("a car", width=64, height=32, num_inference_steps=1, guidance_scale=1, output_type="latent")
    base.predict(torch.zeros(1, 4, 8, 16), torch.tensor([0]), base.encode_prompts(["a car"]))
    theirs, ours = seen
    assert ours["time_ids"].tolist() == theirs["time_ids"].tolist() == [[32, 64, 0, 0, 32, 64]]
    torch.testing.assert_close(ours["text_embeds"], theirs["text_embeds"])


@pytest.mark.parametrize("missing", ["unet", "vae", "tokenizer"])
def test_an_incomplete_folder_is_named(tmp_path: Path, toy_base: Path, missing: str) -> None:
    shutil.copytree(toy_base, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / missing)
    with pytest.raises(BaseModelError, match="check that the folder is complete"):
        load_base(str(tmp_path / "model"), device="cpu")


def test_pickled_weights_are_refused(tmp_path: Path, toy_base: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(toy_base, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        load_base(str(folder), device="cpu")


def test_a_device_that_is_not_here() -> None:
    assert choose_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no cuda device"):
            choose_device("cuda")
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert choose_dtype("bf16", torch.device("cpu")) == torch.bfloat16
