"""A flow transformer alone in a `.safetensors` file, told from the names and shapes in its header. Imports no torch.

ComfyUI keeps FLUX.2 klein and Z-Image so, with the layer names of the original programs, bare or below `model.diffusion_model.`.
Text encoder, VAE, tokenizer and scheduler come from a folder in diffusers layout: one beside the file, or the family's own in the
hub's cache.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apt_engine.bases import hub
from apt_engine.errors import BaseModelError
from apt_engine.reading.regular import read_json
from apt_engine.reading.tensor_files import FLOATS, Tensor

PREFIX = re.compile(r"^(model\.)?diffusion_model\.")
PIPELINES = {"klein": "Flux2KleinPipeline", "z-image": "ZImagePipeline"}
HUB_IDS = {"klein": "black-forest-labs/FLUX.2-klein-base-4B", "z-image": "Tongyi-MAI/Z-Image"}
PARTS = ("text_encoder", "tokenizer", "vae", "scheduler")
FIRST = {"klein": "img_in.weight", "z-image": "x_embedder.weight"}  # (width, channels of a token)
WORDS = {"klein": "txt_in.weight", "z-image": "cap_embedder.1.weight"}  # (width, width of a word's state)
BLOCKS = {
    "klein": {"double_blocks": "num_layers", "single_blocks": "num_single_layers"},
    "z-image": {"layers": "n_layers", "noise_refiner": "n_refiner_layers", "context_refiner": "n_refiner_layers"},
}
# What packed weights bring along, in the ways of several programs.
QUANTIZED = re.compile(
    r"scaled_fp8$|\.(scale_weight|weight_scale|input_scale|absmax|quant_map|comfy_quant)$|quant_state"
)


@dataclass(frozen=True, kw_only=True)
class TransformerFile:
    """A transformer that can be loaded.

    Attributes:
        path: of the file.
        family: klein or z-image.
        parts: the folder in diffusers layout that holds all else; its own transformer need not be there.
    """

    path: Path
    family: str
    parts: Path

    @property
    def is_distilled(self) -> bool | None:
        """Whether its name says so, None where it says nothing: distilled kleins have the keys and shapes of their base."""
        name = self.path.stem.lower()
        return "base" not in name if "klein" in name else None

    @property
    def index(self) -> dict[str, Any]:
        """The parts of its pipeline, and the pipeline's class."""
        return json.loads((self.parts / "model_index.json").read_text(encoding="utf-8"))


def family_of(tensors: dict[str, Tensor]) -> str:
    """Klein or z-image, whatever its size; empty for any other file."""
    names = {PREFIX.sub("", name) for name in tensors}
    if {"double_stream_modulation_img.lin.weight", "single_blocks.0.linear1.weight"} <= names:
        return "klein"
    is_z_image = {"cap_embedder.0.weight", "x_pad_token", "layers.0.attention.qkv.weight"} <= names
    return "z-image" if is_z_image and not any("control_layers." in name for name in names) else ""


def inspect_transformer(path: Path, tensors: dict[str, Tensor], family: str, config: Path) -> TransformerFile:
    """What is needed to load a file of such a family.

    Args:
        path: of the file.
        tensors: its header.
        family: see `family_of`.
        config: of the family's transformer at its real size, for where the folder beside it has none.

    Raises:
        BaseModelError: weights are quantized, it is of another size, or nothing else of the model is there.
    """
    _refuse_quantized(path, tensors)
    parts = next(_folders(path, family), None)
    own = parts / "transformer" / "config.json" if parts else config
    own = own if own.is_file() else config
    try:
        sizes = _sizes(read_json(own), family)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        raise BaseModelError(f"{own} is not the config of such a transformer; get its folder again.") from None
    _check_size(path, tensors, family, sizes)
    if not parts:
        raise BaseModelError(
            f"{path} is a transformer alone, and the rest of its model is not here; put the folder of {HUB_IDS[family]} "
            f"beside it (model_index.json, {', '.join(PARTS)}), or choose {HUB_IDS[family]}, which is downloaded once."
        )
    return TransformerFile(path=path, family=family, parts=parts)


def _refuse_quantized(path: Path, tensors: dict[str, Tensor]) -> None:
    odd = next((name for name, tensor in tensors.items() if tensor.dtype not in FLOATS or QUANTIZED.search(name)), None)
    if odd:
        raise BaseModelError(
            f"{path} has quantized weights ({odd:.80} in {tensors[odd].dtype}); get it in bf16 or fp16, and set base_precision "
            "to 8bit or 4bit where memory is short."
        )


def _sizes(config: dict[str, Any], family: str) -> dict[str, int]:
    """What a config says of width, words and blocks."""
    is_klein = family == "klein"
    width = config["num_attention_heads"] * config["attention_head_dim"] if is_klein else config["dim"]
    words = config["joint_attention_dim" if is_klein else "cap_feat_dim"]
    return {"width": width, "text": words, **{kind: config[name] for kind, name in BLOCKS[family].items()}}


def _check_size(path: Path, tensors: dict[str, Tensor], family: str, wanted: dict[str, int]) -> None:
    names = {PREFIX.sub("", name): tensor.shape for name, tensor in tensors.items()}
    if any(name.startswith("guidance_in.") for name in names):
        raise BaseModelError(f"{path} is FLUX.2 dev, which is not supported; choose FLUX.2 klein base 4B.")
    first, words = (names.get(names_of[family], ()) for names_of in (FIRST, WORDS))
    found = {"width": first[0] if first else 0, "text": words[-1] if words else 0}
    for kind in BLOCKS[family]:
        found[kind] = len({name.split(".")[1] for name in names if name.startswith(f"{kind}.")})
    if found != wanted:
        told = [", ".join(f"{what} {count}" for what, count in sizes.items()) for sizes in (found, wanted)]
        is_larger = family == "klein" and found["width"] > wanted["width"]
        kind = "FLUX.2 klein 9B or another large FLUX.2" if is_larger else "a transformer of another size"
        raise BaseModelError(f"{path} is {kind} ({told[0]}); supported is {HUB_IDS[family]} ({told[1]}).")


def _folders(path: Path, family: str) -> Iterator[Path]:
    """Where the rest of the model may come from: beside the file by name, around it, the hub's cache."""
    beside = sorted(index.parent for index in path.parent.glob("*/model_index.json"))
    cached = hub.folder_of(HUB_IDS[family])
    for folder in (*beside, path.parent, *([cached] if cached else [])):
        try:
            kind = read_json(folder / "model_index.json")["_class_name"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if kind == PIPELINES[family] and all((folder / part).is_dir() for part in PARTS):
            yield folder
