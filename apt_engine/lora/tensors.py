"""The tensors of a LoRA file, read only once its header, its ranks and alphas and what it says about itself are in order."""

import json
import math
import re
from pathlib import Path
from typing import Any

from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from safetensors import SafetensorError, safe_open
from torch import Tensor

from apt_engine.errors import LoraError
from apt_engine.reading.regular import open_regular
from apt_engine.reading.tensor_files import FLOATS, is_pickle, read_header

HIGHEST_RANK = 1024
HIGHEST_ALPHA = 4096.0
HIGHEST_WEIGHT = 65_504.0  # of fp16
MOST_TENSORS = 20_000  # SDXL with both text encoders and all convolutions has 8,000
LARGEST_FILE = 8_000_000_000  # bytes
# Of PEFT's settings in a header, lists of layers' names and tables by such names. PEFT takes text in their place for a regular
# expression, which may be one that never ends; of all others only plain values pass: some make it import modules.
_NAMES = ("target_modules", "exclude_modules")
_TABLES = ("rank_pattern", "alpha_pattern")
_WORDS = ("peft_type", "task_type", "base_model_name_or_path", "revision", "peft_version", "bias", "megatron_core")
_OPPOSITES = (("lora_A", "lora_B"), ("lora_down", "lora_up"), (".down.", ".up."))
_PAIRS = (*_OPPOSITES, *((up, down) for down, up in _OPPOSITES))
_NAME = re.compile(r"[\w.\-^$\\]{1,300}")


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a file and what it says about itself.

    Raises:
        LoraError: it cannot be read, is damaged, holds numbers that are not finite, or settings that no LoRA has.
    """
    try:
        with open_regular(path) as file:
            if is_pickle(file.read(8)):
                raise LoraError(f"{path} is a PyTorch file, which can run code; get the LoRA as .safetensors.")
        header, about = read_header(path)
        if len(header) > MOST_TENSORS:
            raise ValueError(f"it holds {len(header):,} tensors")
        _check_settings(about)
        _check_shapes({name: tensor.shape for name, tensor in header.items()})
        _check_formats({name: tensor.dtype for name, tensor in header.items() if tensor.shape})
        if sum(tensor.end - tensor.begin for tensor in header.values()) > LARGEST_FILE:
            raise ValueError("it is larger than any LoRA")
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in header}
        _check_numbers(tensors)
    except OSError as error:
        raise LoraError(
            f"The LoRA file {path} cannot be read ({error.strerror or error}); choose another file."
        ) from error
    except SafetensorError as error:  # its header was whole a moment ago
        raise LoraError(
            f"The LoRA file {path} changed while it was read ({error}); try again once it is whole."
        ) from error
    except ValueError as error:
        raise LoraError(f"The LoRA file {path} is damaged or not a LoRA ({error}); choose another file.") from error
    return tensors, about


def _check_shapes(shapes: dict[str, tuple[int, ...]]) -> None:
    for name, shape in shapes.items():
        is_down = bool(re.search(r"lora_(A|down)(\.\w+)?\.weight$|[._]down\.weight$", name))
        is_up = bool(re.search(r"lora_(B|up)(\.\w+)?\.weight$|[._]up\.weight$", name))
        if not is_down and not is_up:
            continue
        if len(shape) not in (2, 4):
            raise ValueError(f"{name:.100} has {len(shape)} dimensions")
        rank = shape[0] if is_down else shape[1]
        partner = next((name.replace(*pair) for pair in _PAIRS if pair[0] in name), name)
        if partner not in shapes:  # PEFT would fill its place with whatever is in the memory
            raise ValueError(f"it has no {partner:.100}")
        if not 1 <= rank <= HIGHEST_RANK:
            raise ValueError(f"{name:.100} has rank {rank:,}, not 1 to {HIGHEST_RANK}")


def _check_formats(formats: dict[str, str]) -> None:
    odd = next((name for name, kind in formats.items() if kind not in FLOATS), None)
    if odd:
        raise ValueError(f"{odd:.100} is in {formats[odd]}, not in fp16, bf16 or fp32")


def _check_numbers(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        largest = float(tensor.abs().max()) if tensor.numel() else 0.0
        if not largest <= HIGHEST_WEIGHT:
            what = "too large" if math.isfinite(largest) else "not finite"
            raise ValueError(f"{name:.100} holds numbers that are {what}")
        if name.endswith(".alpha") and tensor.numel() == 1:
            _check_number("alpha", float(tensor), HIGHEST_ALPHA)


def _check_settings(about: dict[str, str]) -> None:
    """PEFT's own settings, which diffusers hands to it."""
    if LORA_ADAPTER_METADATA_KEY not in about:
        return
    try:
        settings: dict[str, Any] = dict(json.loads(about[LORA_ADAPTER_METADATA_KEY]))
    except (ValueError, TypeError, RecursionError):
        raise ValueError("its settings cannot be read") from None
    for name, value in settings.items():
        _check_setting(name.rpartition(".")[2], value)


def _check_setting(name: str, value: Any) -> None:
    if name in _NAMES and value is not None:
        is_right = isinstance(value, list) and all(isinstance(item, str) and _NAME.fullmatch(item) for item in value)
    elif name in _TABLES and value is not None:
        is_right = isinstance(value, dict) and all(_NAME.fullmatch(key) for key in value)
        for number in value.values() if is_right else ():
            _check_number(name, number, HIGHEST_ALPHA)
    elif name in ("r", "lora_alpha"):
        is_right = True
        _check_number(name, value, HIGHEST_RANK if name == "r" else HIGHEST_ALPHA)
    else:
        is_word = isinstance(value, str) and (name in _WORDS or (name, value) == ("init_lora_weights", "gaussian"))
        is_plain = value is None or isinstance(value, bool | int | float) or is_word
        is_right = is_plain or value in ({}, []) or (name == "runtime_config" and isinstance(value, dict))
    if not is_right:
        raise ValueError(f"its setting {name:.60} is none that is taken from a file")


def _check_number(name: str, value: Any, most: float) -> None:
    kinds = (int,) if name == "r" else (int, float)
    if type(value) not in kinds or not 0 < value <= most:
        raise ValueError(f"its {name} is {value!r:.40}, and must be more than 0 and at most {most:g}")
