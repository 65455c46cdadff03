"""kohya's layout of LoRA files, which most other programs read: its names, its header, and where rank and alpha stand.

A layer's three tensors are named after its module. For SD 1.x and 2.x that is diffusers' name: ComfyUI, Forge,
AUTOMATIC1111 and sd-scripts all know it. For SDXL it is the name in the original checkpoint (`input_blocks_4_1_...`):
sd-scripts knows no other there, the rest know both.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers.loaders import StableDiffusionLoraLoaderMixin, StableDiffusionXLLoraLoaderMixin
from torch import Tensor, nn

from apt_engine.errors import LoraError

PREFIX = "lora_unet_"
# The names of the model specification, https://github.com/Stability-AI/ModelSpec, by family and kind of prediction.
ARCHITECTURES = {
    ("sd_v1", "epsilon"): "stable-diffusion-v1",
    ("sd_v1", "v_prediction"): "stable-diffusion-v1",
    ("sd_v2", "epsilon"): "stable-diffusion-v2-512",
    ("sd_v2", "v_prediction"): "stable-diffusion-v2-768-v",
    ("sdxl_base_v1-0", "epsilon"): "stable-diffusion-xl-v1-base",
    ("sdxl_base_v1-0", "v_prediction"): "stable-diffusion-xl-v1-base",
}


@dataclass(frozen=True, kw_only=True)
class ExportInfo:
    """What a file for other programs says about itself.

    Attributes:
        name: title of the LoRA; shown to strangers, so no path.
        base_model_version: family of the base model: sd_v1, sd_v2 or sdxl_base_v1-0.
        prediction_type: epsilon or v_prediction.
        resolution: side of the training pictures in pixels.
        trigger_phrase: the words in a prompt that mean the subject.
    """

    name: str
    base_model_version: str
    prediction_type: str
    resolution: int
    trigger_phrase: str


def keys(denoiser: nn.Module, layer: str) -> tuple[str, str, str]:
    """The names of A, B and alpha of one of the denoiser's layers."""
    config: Any = denoiser.config
    name = _original_name(layer, config.layers_per_block) if is_xl(denoiser) else layer
    stem = PREFIX + name.replace(".", "_")
    return f"{stem}.lora_down.weight", f"{stem}.lora_up.weight", f"{stem}.alpha"


def header(info: ExportInfo, rank: int, alpha: float, has_convolutions: bool) -> dict[str, str]:
    """The six keys sd-scripts itself keeps when told to keep little, and what the model specification demands.

    No date: it would make equal trainings give unequal files.

    Raises:
        LoraError: other programs have no name for such a base model.
    """
    architecture = ARCHITECTURES.get((info.base_model_version, info.prediction_type))
    if architecture is None:
        raise LoraError(
            f"A LoRA for a base model of kind {info.base_model_version} ({info.prediction_type}) cannot be exported; "
            "use the checkpoint itself."
        )
    return {
        "format": "pt",
        "ss_base_model_version": info.base_model_version,
        "ss_v2": str(info.base_model_version == "sd_v2"),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
        "ss_network_args": json.dumps({"conv_dim": str(rank), "conv_alpha": f"{alpha:g}"} if has_convolutions else {}),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": info.name,
        "modelspec.resolution": f"{info.resolution}x{info.resolution}",
        "modelspec.prediction_type": "v" if info.prediction_type == "v_prediction" else "epsilon",
        "modelspec.trigger_phrase": info.trigger_phrase,
    }


def is_kohya(tensors: dict[str, Tensor]) -> bool:
    """Whether a file's tensors are in this layout."""
    return any(key.startswith(PREFIX) for key in tensors)


def rank_and_alpha(path: Path, tensors: dict[str, Tensor]) -> tuple[int, float]:
    """From the tensors: the header only repeats them. What is missing here is named when the keys are matched.

    Raises:
        LoraError: the layers' alphas differ.
    """
    rank = next((len(value) for key, value in tensors.items() if key.endswith(".lora_down.weight")), 0)
    alphas = {float(value) for key, value in tensors.items() if key.endswith(".alpha") and value.ndim == 0}
    if len(alphas) > 1:
        raise LoraError(f"The layers of the LoRA file {path} have different alphas; choose a file this app wrote.")
    return rank, alphas.pop() if alphas else 0.0


def read_with_diffusers(denoiser: nn.Module, tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Weights and alphas as diffusers' pipeline of this kind of denoiser makes them of a file's tensors."""
    copied = tensors.copy()  # the converter empties what it gets
    if is_xl(denoiser):
        read: Any = StableDiffusionXLLoraLoaderMixin.lora_state_dict(copied, unet_config=denoiser.config)
    else:
        read = StableDiffusionLoraLoaderMixin.lora_state_dict(copied)
    return read[0], read[1]


def is_xl(denoiser: nn.Module) -> bool:
    """Whether it is SDXL's U-Net: the only one that hears the size of a picture."""
    config: Any = denoiser.config
    return config.addition_embed_type == "text_time"


def _original_name(layer: str, layers_per_block: int) -> str:
    """The name in the original checkpoint, whose numbering runs on through all blocks.

    A down block has its layers and then a downsampler, after the first convolution's number 0; an up block has one layer
    more, with the upsampler inside the last. A layer is a residual part, number 0, and an attention, number 1. The middle block
    is residual, attention, residual.
    """
    match = re.fullmatch(r"(down_blocks|up_blocks|mid_block)\.(?:(\d+)\.)?(attentions|resnets)\.(\d+)\.(.*)", layer)
    assert match, layer
    direction, block, part, number, rest = match.groups()
    is_attention = part == "attentions"
    if not is_attention:
        rest = {"conv1": "in_layers.2", "conv2": "out_layers.3"}[rest]
    if direction == "mid_block":
        return f"middle_block.{1 if is_attention else 2 * int(number)}.{rest}"
    place = int(block) * (layers_per_block + 1) + int(number)
    place, blocks = (place + 1, "input_blocks") if direction == "down_blocks" else (place, "output_blocks")
    return f"{blocks}.{place}.{int(is_attention)}.{rest}"
