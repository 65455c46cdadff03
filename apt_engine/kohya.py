"""The layout of LoRA files that sd-scripts, ComfyUI, Forge and AUTOMATIC1111 share: names of keys, and the header.

For SD 1.x and 2.x the names are diffusers' own with underscores; for SDXL they are those of the original model (input_blocks,
middle_block, output_blocks), which is what sd-scripts writes and what all of them read.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

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


def keys_of(layer: str, *, xl_layers: int = 0) -> tuple[str, str, str]:
    """Keys of A, B and alpha of a layer, by its name in diffusers.

    Args:
        layer: its name.
        xl_layers: layers in each block of an SDXL U-Net, 2 in the real one; 0 for other models.
    """
    stem = PREFIX + (original_name(layer, xl_layers) if xl_layers else layer).replace(".", "_")
    return f"{stem}.lora_down.weight", f"{stem}.lora_up.weight", f"{stem}.alpha"


def original_name(layer: str, layers: int) -> str:
    """An attention layer of SDXL as the original model counts it: one row of all blocks' layers and changes of size."""
    if found := re.match(r"(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.(.+)", layer):
        side, first = ("input", 1) if found[1] == "down" else ("output", 0)
        return f"{side}_blocks.{first + (layers + 1) * int(found[2]) + int(found[3])}.1.{found[4]}"
    return re.sub(r"^mid_block\.attentions\.0\.", "middle_block.1.", layer)


def is_kohya(keys: Iterable[str]) -> bool:
    """Whether a file has this layout, by its keys."""
    return any(key.startswith(PREFIX) for key in keys)


def header(info: ExportInfo, rank: int, alpha: float) -> dict[str, str]:
    """The six keys sd-scripts itself keeps when told to keep little, and what the model specification demands.

    No date: it would make equal trainings give unequal files.
    """
    return {
        "format": "pt",
        "ss_base_model_version": info.base_model_version,
        "ss_v2": str(info.base_model_version == "sd_v2"),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
        "ss_network_args": "{}",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{ARCHITECTURES[info.base_model_version, info.prediction_type]}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": info.name,
        "modelspec.resolution": f"{info.resolution}x{info.resolution}",
        "modelspec.prediction_type": "v" if info.prediction_type == "v_prediction" else "epsilon",
        "modelspec.trigger_phrase": info.trigger_phrase,
    }
