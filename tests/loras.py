"""Toys with a LoRA that does something, and what is asked of its files."""

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from apt_engine.lora import adapter, files, kohya
from tests.toy import TOKEN_WIDTH, toy_pipeline

ABOUT = kohya.ExportInfo(
    name="zwx_car-000300",
    base_model_version="sd_v1",
    prediction_type="epsilon",
    resolution=512,
    trigger_phrase="zwx car",
)
HALF_TOLERANCE = 2e-4  # of outputs with a standard deviation of 0.28
EFFECT = 0.03  # what the LoRA of `trained` changes at least; a wrong alpha changes more than that
ATTENTION = adapter.ATTENTION_LAYERS
WITH_FEED_FORWARD = adapter.kinds_of(feed_forward=True, convolutions=False)
WITH_CONVOLUTIONS = adapter.kinds_of(feed_forward=False, convolutions=True)
SHAPES_OF_SETTINGS = [
    (4, 4.0, ATTENTION),
    (4, 8.0, ATTENTION),
    (4, 1.5, WITH_FEED_FORWARD),
    (4, 2.0, WITH_CONVOLUTIONS),
    (4, 4.0, adapter.ALL_LAYERS),
]

Write = Callable[[nn.Module, Path], None]


def write_kohya(denoiser: nn.Module, path: Path) -> None:
    files.export_kohya(denoiser, path, ABOUT)


LAYOUTS: list[Write] = [files.save, files.export_diffusers, write_kohya]


def trained(rank: int = 4, alpha: float = 8.0, kinds: tuple[str, ...] = ATTENTION) -> UNet2DConditionModel:
    """A toy whose LoRA does something: with B still zero every comparison below would hold for an empty file."""
    unet = toy_pipeline().unet
    adapter.attach(unet, rank, alpha, kinds, seed=1)
    generator = torch.Generator().manual_seed(2)
    for name, parameter in adapter.trainable_parameters(unet).items():
        if name.endswith("lora_B.weight"):
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.2
    return unet


@torch.no_grad()
def predict(unet: UNet2DConditionModel) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    latents, states = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 7, TOKEN_WIDTH, generator=generator)
    return unet(latents.to(unet.dtype), 500, states.to(unet.dtype)).sample.float()


def difference(one: UNet2DConditionModel, other: UNet2DConditionModel) -> float:
    return float((predict(one) - predict(other)).abs().max())


def header(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors, about = load_file(path), header(path)
    change(tensors)
    save_file(tensors, path, about)
