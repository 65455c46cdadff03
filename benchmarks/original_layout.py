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

FORMATS = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}


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


def published_tensors(family: str) -> dict[str, Tensor]:
    """The same and what published files of SD 1.5 and SDXL hold beside it, which no part needs: 1,131 and 2,515 keys."""
    tensors = real_tensors(family)
    prefix = {"sd15": "cond_stage_model", "sdxl": "conditioner.embedders.0"}.get(family)
    if prefix:
        places = torch.empty(1, 77, dtype=torch.int64, device="meta")
        tensors[f"{prefix}.transformer.text_model.embeddings.position_ids"] = places
    if family == "sdxl":
        tensors["conditioner.embedders.1.model.logit_scale"] = torch.empty((), device="meta")
    return tensors


def write_random(path: Path, tensors: dict[str, Tensor], seed: int = 0, dtype: torch.dtype = torch.float16) -> Path:
    """A file of real shapes with small random numbers, as a model has before it was trained: ones in its norms.

    One tensor is made and written after the other.
    """
    generator = torch.Generator().manual_seed(seed)
    with path.open("wb") as file:
        file.write(_header(tensors, dtype))
        for name, tensor in tensors.items():
            made = _random(name, tensor, generator, dtype)
            file.write(made.contiguous().flatten().view(torch.uint8).numpy().data)
    return path


def _random(name: str, tensor: Tensor, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    if not tensor.is_floating_point():
        return torch.arange(tensor.shape[-1], dtype=tensor.dtype)
    if tensor.ndim > 1:
        return (torch.randn(tensor.shape, generator=generator) * tensor[0].numel() ** -0.5).to(dtype)
    return torch.full(tensor.shape or (1,), float(name.endswith("weight")), dtype=dtype)


def _header(tensors: dict[str, Tensor], dtype: torch.dtype, metadata: dict[str, str] | None = None) -> bytes:
    """How a safetensors file of these begins; whole numbers stay what they are."""
    entries: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    place = 0
    for name, tensor in tensors.items():
        kind, size = (FORMATS[dtype], dtype.itemsize) if tensor.is_floating_point() else ("I64", 8)
        offsets = [place, place := place + size * tensor.numel()]
        entries[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": offsets}
    header = json.dumps(entries).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def write_empty(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    """A file of real shapes in fp16 that takes no room: all its numbers are holes, zeros."""
    header = _header(tensors, torch.float16, metadata)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(2 * tensor.numel() for tensor in tensors.values()))
    return path
