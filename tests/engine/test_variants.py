"""Folders with the class of Stable Diffusion that are something else, told before a weight is read."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from apt_engine.bases.registry import load_base
from apt_engine.errors import BaseModelError

SCHEDULER = "scheduler/scheduler_config.json"
UNET = "unet/config.json"
INDEX = "model_index.json"


def changed(base: Path, folder: Path, file: str, changes: dict[str, Any]) -> Path:
    """A copy of a toy without its weights, with something else in one of its configs."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        (UNET, {"in_channels": 9}, "an inpainting model"),
        (UNET, {"in_channels": 5}, "shown depth"),
        (UNET, {"in_channels": 8}, "edits pictures"),
        (UNET, {"in_channels": 7}, "an upscaler"),
        (UNET, {"in_channels": 12}, "made for 12 channels"),
        ("vae/config.json", {"latent_channels": 16}, "made for 4 channels, and its VAE has 16"),
        (UNET, {"time_cond_proj_dim": 256}, "distilled"),
        (UNET, {"class_embed_type": "timestep"}, "told a class"),
        (UNET, {"num_class_embeds": 1000}, "told a class"),
        (SCHEDULER, {"_class_name": "EDMDPMSolverMultistepScheduler"}, "Playground 2.5"),
        (SCHEDULER, {"_class_name": "EDMEulerScheduler"}, "noise levels of EDM"),
        (SCHEDULER, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "straight paths"),
        (SCHEDULER, {"_class_name": "LCMScheduler"}, "few steps"),
        (SCHEDULER, {"_class_name": "TCDScheduler"}, "few steps"),
        (SCHEDULER, {"prediction_type": "sample"}, "predicts sample"),
        (SCHEDULER, {"prediction_type": "flow_prediction"}, "predicts flow_prediction"),
        (SCHEDULER, {"num_train_timesteps": 1}, "noise levels"),
        (INDEX, {"vae": ["diffusers", "AutoencoderTiny"]}, "AutoencoderTiny as its vae"),
        (INDEX, {"vae": ["diffusers", "ConsistencyDecoderVAE"]}, "ConsistencyDecoderVAE as its vae"),
        (INDEX, {"unet": ["diffusers", "UNetMotionModel"]}, "UNetMotionModel as its unet"),
        (INDEX, {"unet": ["diffusers", "Kandinsky3UNet"]}, "Kandinsky3UNet as its unet"),
        (INDEX, {"text_encoder": ["transformers", "T5EncoderModel"]}, "T5EncoderModel as its text_encoder"),
        (INDEX, {"text_encoder": ["alt_diffusion", "RobertaSeriesModelWithTransformation"]}, "as its text_encoder"),
        (INDEX, {"text_encoder": [None, None]}, "has nothing as its text_encoder"),
        (INDEX, {"tokenizer": ["transformers", "XLMRobertaTokenizer"]}, "as its tokenizer"),
        (INDEX, {"_class_name": "StableDiffusionInpaintPipeline"}, "is a StableDiffusionInpaintPipeline"),
        (INDEX, {"_class_name": "StableDiffusionXLImg2ImgPipeline"}, "is a StableDiffusionXLImg2ImgPipeline"),
        (INDEX, {"_class_name": "StableDiffusion3Pipeline"}, "is a StableDiffusion3Pipeline"),
        (INDEX, {"_class_name": "FluxPipeline"}, "is a FluxPipeline"),
        (INDEX, {"_class_name": "LatentConsistencyModelPipeline"}, "is a LatentConsistencyModelPipeline"),
        (INDEX, {"_class_name": "PixArtAlphaPipeline"}, "is a PixArtAlphaPipeline"),
        (INDEX, {"_class_name": ["StableDiffusionPipeline"]}, "is a"),
    ],
)
def test_what_only_has_the_class_is_refused_by_what_it_is(
    toy_base: Path, tmp_path: Path, file: str, changes: dict[str, Any], words: str
) -> None:
    folder = changed(toy_base, tmp_path / "model", file, changes)
    with pytest.raises(BaseModelError) as caught:
        load_base(str(folder), device="cpu")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("parts", [("unet", "vae", "text_encoder"), ("unet",), ("text_encoder",)])
def test_a_folder_with_half_precision_variants_loads(toy_base: Path, tmp_path: Path, parts: tuple[str, ...]) -> None:
    folder = tmp_path / "model"
    shutil.copytree(toy_base, folder)
    for part in parts:
        for path in (folder / part).glob("*.safetensors"):
            path.rename(path.with_suffix(".fp16.safetensors"))
    base, plain = (load_base(str(where), device="cpu") for where in (folder, toy_base))
    weights, others = base.denoiser.state_dict(), plain.denoiser.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in others)
