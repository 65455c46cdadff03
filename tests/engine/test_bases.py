"""Loading base models: real folders of toy size, and what is no model."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from apt_engine.bases import profiles, registry, single_file
from apt_engine.bases.base import BaseModel
from apt_engine.bases.checkpoints import SingleFile
from apt_engine.bases.registry import choose_device, choose_dtype, load_base
from apt_engine.bases.sd import StableDiffusion
from apt_engine.bases.sdxl import StableDiffusionXL
from apt_engine.errors import BaseModelError, ConfigError
from apt_engine.jobs.estimate import facts
from apt_engine.jobs.plan import in_words
from apt_engine.runs.store import RunStore
from apt_engine.settings.presets import POCKET_DIR, load_presets
from apt_engine.training.latents import encode_view
from benchmarks.original_layout import save_original
from tests.toy import toy_pipeline, toy_xl_pipeline


def stable_diffusion(prediction_type: str = "epsilon") -> StableDiffusion:
    return StableDiffusion(
        toy_pipeline(prediction_type), name="toy", device=torch.device("cpu"), dtype=torch.float32, attention="fused"
    )


def stable_diffusion_xl() -> StableDiffusionXL:
    return StableDiffusionXL(
        toy_xl_pipeline(), name="toy-xl", device=torch.device("cpu"), dtype=torch.float32, attention="fused"
    )


def version_of(base: BaseModel) -> str:
    return base.lora.kohya.base_model_version if base.lora.kohya else ""


def test_a_folder_loads_frozen_and_in_eval_mode(toy_base: Path) -> None:
    base = load_base(str(toy_base), device="cpu")
    assert isinstance(base, StableDiffusion)
    for module in (base.pipeline.unet, base.pipeline.vae, base.pipeline.text_encoder):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


@pytest.mark.skipif(not (POCKET_DIR / "model_index.json").exists(), reason="the pocket model is not in this checkout")
def test_the_pocket_model_loads_by_its_name() -> None:
    base = load_base("pocket", device="cpu", attention="plain")
    assert base.lora.kohya is None  # no other program has such a base
    assert 64 % base.size_multiple == 0


def test_a_small_model_computes_on_one_thread_and_a_large_one_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "ALL_THREADS", 2)
    try:
        registry.choose_threads(torch.nn.Linear(10_000, 10_000, device="meta"))
        assert torch.get_num_threads() == 2
        load_base("pocket", device="cpu")
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(1)  # as conftest.py has it


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


def test_an_xl_folder_loads_frozen_with_both_text_encoders(toy_xl_base: Path) -> None:
    base = load_base(str(toy_xl_base), device="cpu", attention="plain")
    assert isinstance(base, StableDiffusionXL)
    assert version_of(base) == "sdxl_base_v1-0"
    pipeline = base.pipeline
    for module in (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2):
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())


def test_xl_hears_a_prompt_as_a_stock_pipeline_says_it() -> None:
    base = stable_diffusion_xl()
    states = base.encode_prompts(["a zwx car"])
    expected = toy_xl_pipeline().encode_prompt(
        "a zwx car", device=torch.device("cpu"), do_classifier_free_guidance=False
    )
    assert states.pooled is not None
    assert (states.hidden == expected[0]).all()
    assert (states.pooled == expected[2]).all()
    batch = states.expand(3)
    assert batch.pooled is not None
    assert (batch.hidden.shape, batch.pooled.shape) == ((3, 77, 64), (3, 24))
    nothing = base.encode_prompts(["", "a car"])
    assert nothing.pooled is not None
    assert not nothing.hidden[0].any()
    assert not nothing.pooled[0].any()
    assert nothing.hidden[1].any()


def test_xl_is_told_the_whole_prompt_the_size_of_the_picture_and_no_crop() -> None:
    base = stable_diffusion_xl()
    told: list[dict[str, Any]] = []
    base.denoiser.register_forward_pre_hook(lambda _module, _inputs, said: told.append(said), with_kwargs=True)
    states = base.encode_prompts(["a car", "a cat"])
    assert states.pooled is not None
    for height, width in ((8, 8), (8, 16)):
        base.predict(torch.zeros(2, 4, height, width), torch.tensor([5, 6]), states)
    times = [said["added_cond_kwargs"]["time_ids"].tolist() for said in told]
    assert times == [[[32, 32, 0, 0, 32, 32]] * 2, [[32, 64, 0, 0, 32, 64]] * 2]
    for said in told:
        assert torch.equal(said["encoder_hidden_states"], states.hidden)
        assert torch.equal(said["added_cond_kwargs"]["text_embeds"], states.pooled)


def test_tokenizers_that_do_not_fit_together_are_noticed() -> None:
    base = stable_diffusion_xl()
    assert base.caption_tokens("a zwx car") == stable_diffusion().caption_tokens("a zwx car")
    base.pipeline.tokenizer_2.model_max_length = 4
    with pytest.raises(BaseModelError, match="two tokenizers of toy-xl do not fit together"):
        base.caption_tokens("a zwx car")


@pytest.mark.parametrize(("kind", "family"), [("StableDiffusionXLPipeline", "sdxl_base_v1-0"), ("FluxPipeline", "")])
def test_a_hub_id_is_loaded_by_the_class_it_says(
    kind: str, family: str, toy_xl_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's cache is a folder of a known layout: a model in it is found without a network."""
    folder = tmp_path / "models--owner--xl"
    shutil.copytree(toy_xl_base, folder / "snapshots" / "1")
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("1")
    index = folder / "snapshots" / "1" / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "_class_name": kind}))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    if family:
        assert version_of(load_base("owner/xl", device="cpu")) == family
    else:
        with pytest.raises(BaseModelError, match="owner/xl is a FluxPipeline; supported are"):
            load_base("owner/xl", device="cpu")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("/no/such/folder", "The base model /no/such/folder is not there"),
        ("./nothing", "The base model ./nothing is not there"),
        ("owner/not-in-the-cache", "owner/not-in-the-cache is not on this computer"),
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
    with pytest.raises(BaseModelError, match=r"the weights of its unet as \.bin alone"):
        load_base(str(folder), device="cpu")


def test_a_device_that_is_not_here() -> None:
    assert choose_device("cpu").type == "cpu"
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no cuda device"):
            choose_device("cuda")
    assert choose_dtype("auto", torch.device("cpu")) == torch.float32
    assert choose_dtype("bf16", torch.device("cpu")) == torch.bfloat16


def test_a_vae_that_returns_no_numbers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    base = stable_diffusion()
    monkeypatch.setattr(base, "encode_images", lambda pixels: (pixels * float("nan"), pixels))
    with pytest.raises(BaseModelError, match="The VAE of toy returns numbers that are not finite"):
        encode_view(base, torch.zeros(3, 32, 32))


def test_a_drive_that_went_away_is_one_sentence_and_asked_about_it_the_page_stays_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the system answers for a stale or unplugged mount."""
    gone, stat = tmp_path / "gone", Path.stat

    def unplugged(path: Path, **named: Any) -> Any:
        if path.is_relative_to(gone):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return stat(path, **named)

    monkeypatch.setattr(Path, "stat", unplugged)
    for name in (gone, gone / "model.safetensors"):
        with pytest.raises(
            BaseModelError, match=r"cannot be read \(Input/output error\); check the path and the drive"
        ):
            load_base(str(name), device="cpu")
        assert profiles.warning_of(str(name)) == ""
        config = profiles.build_config(load_presets(), (), {"subject": "car", "base": str(name)})
        assert facts(config, 4, RunStore(tmp_path))[1] == ("stops by itself, at most", "400", "steps")
        assert isinstance(in_words(config), str)


def test_a_file_that_changes_while_it_is_read_is_one_sentence(
    tmp_path: Path, toy_families: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told whole by its header, cut before its numbers are read."""
    path = save_original(tmp_path / "model.safetensors", toy_pipeline())
    load_pipeline = single_file.load_pipeline

    def cut_first(*arguments: Any) -> Any:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size // 2)
        return load_pipeline(*arguments)

    # A toy's widths are no family's.
    told = SingleFile(path=path, family="sd15", vae=path, prediction_type="epsilon")
    monkeypatch.setattr(registry, "inspect", lambda _path: told)
    monkeypatch.setattr(single_file, "load_pipeline", cut_first)
    with pytest.raises(BaseModelError, match="check that the model is complete") as caught:
        load_base(str(path), device="cpu")
    assert "\n" not in str(caught.value)
