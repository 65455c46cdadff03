"""Files in the layout of single-file checkpoints: a pipeline's, or empty and random ones of real shapes."""

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from apt_engine.bases.checkpoints import ASSETS
from apt_engine.bases.original_layout import original_tensors


def save_original(
    path: Path, pipeline: StableDiffusionPipeline | StableDiffusionXLPipeline, *, has_vae: bool = True
) -> Path:
    """Write a pipeline as one file; text encoders as CLIP's own names where the first, as OpenCLIP's where the second."""
    tensors = original_tensors(
        pipeline.unet,
        pipeline.vae if has_vae else None,
        pipeline.text_encoder,
        getattr(pipeline, "text_encoder_2", None),
    )
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, path)
    return path


def real_tensors(family: str) -> dict[str, Tensor]:
    """Every tensor of a real checkpoint of a family of `assets/families`, without its numbers: on the meta device."""
    configs = ASSETS / family
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(configs / "unet"))
        vae = AutoencoderKL.from_config(AutoencoderKL.load_config(configs / "vae"))
        encoder = CLIPTextModel(CLIPTextConfig.from_pretrained(configs / "text_encoder"))
        second = None
        if family == "sdxl":
            second = CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(configs / "text_encoder_2"))
    return original_tensors(unet, vae, encoder, second)


def write_random(path: Path, tensors: dict[str, Tensor], seed: int = 0) -> Path:
    """A file of real shapes in fp16 with small random numbers, as a model has before it was trained: ones in its norms."""
    generator = torch.Generator().manual_seed(seed)
    made: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        if tensor.ndim > 1:
            scale = tensor[0].numel() ** -0.5
            made[name] = (torch.randn(tensor.shape, generator=generator) * scale).half()
        else:
            made[name] = torch.full(tensor.shape, float(name.endswith("weight")), dtype=torch.float16)
    save_file(made, path)
    return path


def write_empty(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    """A file of real shapes in fp16 that takes no room: all its numbers are holes, zeros."""
    entries: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    place = 0
    for name, tensor in tensors.items():
        entries[name] = {
            "dtype": "F16",
            "shape": list(tensor.shape),
            "data_offsets": [place, place := place + 2 * tensor.numel()],
        }
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + place)
    return path
