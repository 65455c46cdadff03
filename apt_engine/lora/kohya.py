"""kohya's layout of LoRA files, which most other programs read: its names, its header, and where rank and alpha stand.

A layer has three tensors, named after what the base model says other programs call it.
"""

import json
from pathlib import Path

from torch import Tensor, nn

from apt_engine.bases.base import BaseModel, KohyaNames, LoraLayers
from apt_engine.bases.original_layout import UPSAMPLER
from apt_engine.errors import LoraError
from apt_engine.lora.about import FOR_KOHYA, ExportInfo

PREFIX = "lora_unet_"
ORIGINAL = "model.diffusion_model."


def keys(names: KohyaNames, layer: str) -> tuple[str, str, str]:
    """The names of A, B and alpha of one of the denoiser's layers."""
    stem = PREFIX + names.layer(layer).replace(".", "_")
    return f"{stem}.lora_down.weight", f"{stem}.lora_up.weight", f"{stem}.alpha"


def known_as(names: KohyaNames | None, layer: str) -> list[str]:
    """What files of all programs call one of the denoiser's layers: diffusers' name, or that in the original checkpoint."""
    originals = names.weight(layer).removesuffix(".weight").removeprefix(ORIGINAL) if names else layer
    # An upsampler stands behind the attention where there is one; only one of the two places is there.
    places = [originals.replace(UPSAMPLER, place) for place in ("1.", "2.")] if UPSAMPLER in originals else [originals]
    return list(dict.fromkeys(PREFIX + name.replace(".", "_") for name in (layer, *places)))


def text_prefix(number: int, count: int) -> str:
    """Before the layers of a text encoder: one alone has no number."""
    return "lora_te_" if count == 1 else f"lora_te{number}_"


def parts_beside(base: BaseModel) -> list[nn.Module]:
    """The text encoders that files may have layers of, in their order."""
    found = (getattr(base.pipeline, name, None) for name in ("text_encoder", "text_encoder_2"))
    return [part for part in found if isinstance(part, nn.Module)]


def header(layers: LoraLayers, info: ExportInfo, rank: int, alpha: float, has_convolutions: bool) -> dict[str, str]:
    """The six keys sd-scripts itself keeps when told to keep little, and what the model specification demands.

    No date: it would make equal trainings give unequal files.
    """
    names = layers.kohya
    assert names
    return {
        "format": "pt",
        "ss_base_model_version": names.base_model_version,
        "ss_v2": str(names.base_model_version == "sd_v2"),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
        "ss_network_args": json.dumps({"conv_dim": str(rank), "conv_alpha": f"{alpha:g}"} if has_convolutions else {}),
        **info.header(f"{layers.architecture}/lora", FOR_KOHYA, prediction=names.prediction),
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
