"""Toys with a LoRA that does something, and what is asked of its files."""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from apt_engine.bases.base import BaseModel
from apt_engine.bases.sd import StableDiffusion
from apt_engine.lora import adapter, files
from apt_engine.lora.about import ExportInfo
from tests.engine.test_bases import stable_diffusion
from tests.toy import TOKEN_WIDTH

ABOUT = ExportInfo(name="zwx_car-000300", resolution=512, trigger_phrase="zwx car")
HALF_TOLERANCE = 2e-4  # of outputs with a standard deviation of 0.28
EFFECT = 0.03  # what the LoRA of `trained` changes at least; a wrong alpha changes more than that
LAYERS = stable_diffusion().lora
ATTENTION = LAYERS.attention
WITH_FEED_FORWARD = LAYERS.chosen(feed_forward=True, convolutions=False)
WITH_CONVOLUTIONS = LAYERS.chosen(feed_forward=False, convolutions=True)
SHAPES_OF_SETTINGS = [
    (4, 4.0, ATTENTION),
    (4, 8.0, ATTENTION),
    (4, 1.5, WITH_FEED_FORWARD),
    (4, 2.0, WITH_CONVOLUTIONS),
    (4, 4.0, LAYERS.all),
]

Write = Callable[[BaseModel, Path], None]


def write_diffusers(base: BaseModel, path: Path) -> None:
    files.export_diffusers(base, path, ABOUT)


def write_kohya(base: BaseModel, path: Path) -> None:
    files.export_kohya(base, path, ABOUT)


LAYOUTS: list[Write] = [files.save, write_diffusers, write_kohya]


def trained(rank: int = 4, alpha: float = 8.0, endings: tuple[str, ...] = ATTENTION) -> StableDiffusion:
    """A toy whose LoRA does something: with B still zero every comparison below would hold for an empty file."""
    base = stable_diffusion()
    adapter.attach(base.denoiser, rank, alpha, endings, seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in adapter.trainable_parameters(base.denoiser).items():
        if name.endswith("lora_B.weight"):
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.2
    return base


@torch.no_grad()
def predict(model: StableDiffusion | UNet2DConditionModel) -> Tensor:
    unet = model.pipeline.unet if isinstance(model, StableDiffusion) else model
    generator = torch.Generator().manual_seed(3)
    latents, states = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 7, TOKEN_WIDTH, generator=generator)
    return unet(latents.to(unet.dtype), 500, states.to(unet.dtype)).sample.float()


def difference(one: StableDiffusion | UNet2DConditionModel, other: StableDiffusion | UNet2DConditionModel) -> float:
    return float((predict(one) - predict(other)).abs().max())


def header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors, about = load_file(path), header(path)
    change(tensors)
    save_file(tensors, path, about)
