"""kohya's layout of LoRA files, which most other programs read: its names, its header, and where rank and alpha stand.

A layer has three tensors, named after what the base model says other programs call it.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from apt_engine.bases.base import KohyaNames
from apt_engine.errors import LoraError

PREFIX = "lora_unet_"


@dataclass(frozen=True, kw_only=True)
class ExportInfo:
    """What a file for other programs says about itself.

    Attributes:
        name: title of the LoRA; shown to strangers, so no path.
        resolution: side of the training pictures in pixels.
        trigger_phrase: the words in a prompt that mean the subject.
    """

    name: str
    resolution: int
    trigger_phrase: str


def keys(names: KohyaNames, layer: str) -> tuple[str, str, str]:
    """The names of A, B and alpha of one of the denoiser's layers."""
    stem = PREFIX + names.layer(layer).replace(".", "_")
    return f"{stem}.lora_down.weight", f"{stem}.lora_up.weight", f"{stem}.alpha"


def header(names: KohyaNames, info: ExportInfo, rank: int, alpha: float, has_convolutions: bool) -> dict[str, str]:
    """The six keys sd-scripts itself keeps when told to keep little, and what the model specification demands.

    No date: it would make equal trainings give unequal files.
    """
    return {
        "format": "pt",
        "ss_base_model_version": names.base_model_version,
        "ss_v2": str(names.base_model_version == "sd_v2"),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
        "ss_network_args": json.dumps({"conv_dim": str(rank), "conv_alpha": f"{alpha:g}"} if has_convolutions else {}),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{names.architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": info.name,
        "modelspec.resolution": f"{info.resolution}x{info.resolution}",
        "modelspec.prediction_type": names.prediction,
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
