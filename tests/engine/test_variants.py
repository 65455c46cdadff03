"""The table of models that people offer as a base: each trains, or is refused by what it is before a weight is read.

`pytest -v tests/engine/test_variants.py` prints it.
"""

import functools
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from apt_engine.bases import variants
from apt_engine.bases.registry import load_base
from apt_engine.errors import BaseModelError
from benchmarks.original_layout import real_tensors as real_tensors_of
from benchmarks.original_layout import write_empty

SCHEDULER = "scheduler/scheduler_config.json"
UNET = "unet/config.json"
VAE = "vae/config.json"
INDEX = "model_index.json"
FIRST = "model.diffusion_model.input_blocks.0.0.weight"

real_tensors = functools.cache(real_tensors_of)


@dataclass(frozen=True)
class Folder:
    """A model in diffusers layout: a toy with something else in one of its configs."""

    file: str
    changes: dict[str, Any]
    words: str  # of the refusal
    kind: str = "sd"


@dataclass(frozen=True)
class OneFile:
    """A file with a real model's keys; a change gives a key another shape, `only` replaces them all."""

    family: str
    words: str
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    only: tuple[str, ...] = ()


@dataclass(frozen=True)
class Content:
    """A file that is no safetensors file."""

    name: str
    content: bytes
    words: str


FOLDERS = [
    Folder(UNET, {"in_channels": 9}, "an inpainting model"),
    Folder(UNET, {"in_channels": 5}, "shown depth"),
    Folder(UNET, {"in_channels": 8}, "edits pictures"),
    Folder(UNET, {"in_channels": 7}, "an upscaler"),
    Folder(UNET, {"in_channels": 12}, "made for 12 channels"),
    Folder(VAE, {"latent_channels": 16}, "made for 4 channels, and its VAE has 16"),
    Folder(UNET, {"time_cond_proj_dim": 256}, "distilled"),
    Folder(UNET, {"class_embed_type": "timestep"}, "told a class"),
    Folder(UNET, {"num_class_embeds": 1000}, "told a class"),
    Folder(SCHEDULER, {"_class_name": "EDMDPMSolverMultistepScheduler"}, "Playground 2.5"),
    Folder(SCHEDULER, {"_class_name": "EDMEulerScheduler"}, "noise levels of EDM"),
    Folder(SCHEDULER, {"_class_name": "FlowMatchEulerDiscreteScheduler"}, "straight paths"),
    Folder(SCHEDULER, {"_class_name": "LCMScheduler"}, "few steps"),
    Folder(SCHEDULER, {"_class_name": "TCDScheduler"}, "few steps"),
    Folder(SCHEDULER, {"prediction_type": "sample"}, "predicts sample"),
    Folder(SCHEDULER, {"prediction_type": "flow_prediction"}, "predicts flow_prediction"),
    Folder(SCHEDULER, {"num_train_timesteps": 1}, "noise levels"),
    Folder(INDEX, {"vae": ["diffusers", "AutoencoderTiny"]}, "AutoencoderTiny as its vae"),
    Folder(INDEX, {"vae": ["diffusers", "ConsistencyDecoderVAE"]}, "ConsistencyDecoderVAE as its vae"),
    Folder(INDEX, {"unet": ["diffusers", "UNetMotionModel"]}, "UNetMotionModel as its unet"),
    Folder(INDEX, {"unet": ["diffusers", "Kandinsky3UNet"]}, "Kandinsky3UNet as its unet"),
    Folder(INDEX, {"text_encoder": ["transformers", "T5EncoderModel"]}, "T5EncoderModel as its text_encoder"),
    Folder(INDEX, {"text_encoder": ["alt_diffusion", "RobertaSeriesModelWithTransformation"]}, "as its text_encoder"),
    Folder(INDEX, {"text_encoder": [None, None]}, "has nothing as its text_encoder"),
    Folder(INDEX, {"tokenizer": ["transformers", "XLMRobertaTokenizer"]}, "as its tokenizer"),
    Folder(INDEX, {"_class_name": ["StableDiffusionPipeline"]}, "is a"),
    # Of XL: the inpainting model, CosXL and the one that edits, Playground 2.5, a refiner, LCM as a U-Net of its own.
    Folder(UNET, {"in_channels": 9}, "an inpainting model", "sdxl"),
    Folder(UNET, {"in_channels": 8}, "edits pictures", "sdxl"),
    Folder(UNET, {"time_cond_proj_dim": 256}, "distilled", "sdxl"),
    Folder(SCHEDULER, {"_class_name": "EDMDPMSolverMultistepScheduler"}, "Playground 2.5", "sdxl"),
    Folder(SCHEDULER, {"_class_name": "LCMScheduler"}, "few steps", "sdxl"),
    Folder(INDEX, {"text_encoder": [None, None]}, "has nothing as its text_encoder", "sdxl"),
    Folder(INDEX, {"text_encoder_2": ["transformers", "CLIPTextModel"]}, "as its text_encoder_2", "sdxl"),
    Folder(INDEX, {"text_encoder": ["kolors", "ChatGLMModel"]}, "ChatGLMModel as its text_encoder", "sdxl"),
    *(
        Folder(INDEX, {"_class_name": name}, f"is a {name}")
        for name in (
            "StableDiffusionInpaintPipeline",
            "StableDiffusionDepth2ImgPipeline",
            "StableDiffusionUpscalePipeline",
            "StableDiffusionXLImg2ImgPipeline",
            "StableDiffusionXLInpaintPipeline",
            "StableDiffusion3Pipeline",
            "StableUnCLIPPipeline",
            "FluxPipeline",
            "LatentConsistencyModelPipeline",
            "PixArtAlphaPipeline",
            "KolorsPipeline",
            "StableCascadePriorPipeline",
            "SanaPipeline",
            "AuraFlowPipeline",
            "QwenImagePipeline",
        )
    ),
]
FILES: list[OneFile | Content] = [
    OneFile("sd15", "an inpainting model", {FIRST: (320, 9, 3, 3)}),
    OneFile("sd2", "shown depth", {FIRST: (320, 5, 3, 3)}),
    OneFile("sd15", "edits pictures", {FIRST: (320, 8, 3, 3)}),
    OneFile("sdxl", "an inpainting model", {FIRST: (320, 9, 3, 3)}),
    OneFile("sd15", "no text encoder", without=("cond_stage_model.",)),
    OneFile("sdxl", "no text encoder", without=("conditioner.embedders.1.",)),
    OneFile("sdxl", "Playground", {"edm_mean": (4,)}),
    OneFile("sdxl", "noise levels of EDM", {"edm_vpred.sigma_max": ()}),
    OneFile("sdxl", "a shortened", without=("model.diffusion_model.middle_block.",)),
    OneFile(
        "sd15", "put the one that belongs to it beside it as model.vae.safetensors", without=("first_stage_model.",)
    ),
    OneFile("sd15", "a VAE alone", without=("model.diffusion_model.",)),
    OneFile("sd15", "a LoRA", {"lora_unet_mid_block.lora_down.weight": (4, 4)}),
    OneFile("sd15", "a ControlNet", {"control_model.time_embed.0.weight": (4, 4)}),
    OneFile("sdxl", "the SDXL refiner", {"conditioner.embedders.0.model.text_projection": (4, 4)}),
    OneFile("sd15", "a LoHa", only=("lora_unet_a.hada_w1_a",)),
    OneFile("sd15", "a textual inversion", only=("emb_params",)),
    OneFile("sd15", "a FLUX.1 transformer", only=("double_blocks.0.img_attn.qkv.weight",)),
    OneFile(
        "sd15",
        "a Stable Diffusion 3 transformer",
        only=("model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight",),
    ),
    OneFile("sd15", "a Lumina transformer", only=("cap_embedder.0.weight",)),
    OneFile("sd15", "a U-Net alone", only=("input_blocks.0.0.weight",)),
    OneFile("sd15", "a text encoder alone", only=("text_model.embeddings.token_embedding.weight",)),
    OneFile("sd15", "no Stable Diffusion checkpoint", only=("weight",)),
    Content("model.safetensors", b"PK\x03\x04" + b"x" * 90, "can run code"),
    Content("model.ckpt", b"\x80\x02}q\x00X" + b"x" * 90, "can run code"),
    Content("model.gguf", b"GGUF" + b"x" * 90, "quantized"),
    Content("page.safetensors", b"<html>not here</html>", "damaged"),
    Content("empty.safetensors", b"", "damaged"),
    Content("huge.safetensors", (1 << 62).to_bytes(8, "little"), "damaged"),
    Content("list.safetensors", (2).to_bytes(8, "little") + b"[]", "damaged"),
    Content("odd.safetensors", (17).to_bytes(8, "little") + b'{"weight": "zzz"}', "damaged"),
]


def named(row: Folder | OneFile | Content) -> str:
    if isinstance(row, Folder):
        return f"{row.kind} folder: {row.file} {json.dumps(row.changes)}"
    return f"file: {row.words}" if isinstance(row, OneFile) else f"file: {row.name}"


def changed(base: Path, folder: Path, file: str, changes: dict[str, Any]) -> Path:
    """A copy of a toy without its weights, with something else in one of its configs."""
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")
    return folder


def written(row: OneFile, path: Path) -> Path:
    """The file of a row; its numbers are holes."""
    tensors = {} if row.only else dict(real_tensors(row.family))
    tensors = {key: value for key, value in tensors.items() if not key.startswith(row.without or ("-",))}
    shapes = {**row.shapes, **dict.fromkeys(row.only, (4, 4))}
    return write_empty(path, tensors | {key: torch.empty(shape, device="meta") for key, shape in shapes.items()})


def refused(path: Path) -> str:
    """The sentence by which a model is refused."""
    with pytest.raises(BaseModelError) as caught:
        load_base(str(path), device="cpu")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_table_is_long_enough() -> None:
    assert len(FOLDERS) + len(FILES) >= 75


@pytest.mark.parametrize("row", FOLDERS, ids=named)
def test_a_folder_that_only_has_the_class_is_refused_by_what_it_is(
    toy_base: Path, toy_xl_base: Path, tmp_path: Path, row: Folder
) -> None:
    base = toy_xl_base if row.kind == "sdxl" else toy_base
    assert row.words in refused(changed(base, tmp_path / "model", row.file, row.changes))


@pytest.mark.parametrize("row", FILES, ids=named)
def test_a_file_that_cannot_be_trained_is_called_what_it_is(tmp_path: Path, row: OneFile | Content) -> None:
    path = tmp_path / (row.name if isinstance(row, Content) else "model.safetensors")
    if isinstance(row, Content):
        path.write_bytes(row.content)
    else:
        written(row, path)
    assert row.words in refused(path)


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


@pytest.mark.parametrize(
    ("name", "scheduler", "is_distilled"),
    [
        ("stabilityai/sdxl-turbo", {}, True),
        ("models/dreamshaperXL_lightningDPMSDE.safetensors", {}, True),
        ("models/Juggernaut-XL-Hyper", {}, True),
        ("SimianLuo/LCM_Dreamshaper_v7", {}, True),
        ("models/realvisxlV50_8step.safetensors", {}, True),
        ("models/plain", {"timestep_spacing": "trailing"}, True),
        ("models/plain", {"timestep_spacing": "trailing", "rescale_betas_zero_snr": True}, False),
        ("models/plain", {"timestep_spacing": "leading"}, False),
        ("stabilityai/stable-diffusion-xl-base-1.0", {}, False),
        ("/home/turbo/models/sd15", {}, False),  # a folder's own name counts, not where it lies
        ("models/hyperrealism_v3", {}, False),
    ],
)
def test_a_model_that_was_distilled_is_warned_of(
    tmp_path: Path, name: str, scheduler: dict[str, Any], is_distilled: bool
) -> None:
    (tmp_path / "scheduler").mkdir()
    (tmp_path / SCHEDULER).write_text(json.dumps(scheduler), encoding="utf-8")
    warning = variants.warning_of(name, tmp_path)
    assert bool(warning) is is_distilled
    assert not is_distilled or "few steps" in warning
