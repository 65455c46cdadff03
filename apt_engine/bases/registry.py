"""From what the user wrote (pocket, a folder, an id of the hub) to a loaded base model."""

from pathlib import Path
from typing import Any

import diffusers.utils.logging
import torch
import transformers.utils.logging
from torch import nn

from apt_engine.bases import hub, variants
from apt_engine.bases.base import BaseModel, Source, unanswered
from apt_engine.bases.checkpoints import inspect
from apt_engine.bases.hub import parts_of
from apt_engine.bases.inspection import inspect_folder
from apt_engine.bases.klein import Klein
from apt_engine.bases.precision import check_precision
from apt_engine.bases.sd import StableDiffusion
from apt_engine.bases.sdxl import StableDiffusionXL
from apt_engine.bases.transformer_files import TransformerFile
from apt_engine.bases.trial import try_out
from apt_engine.bases.z_image import ZImage
from apt_engine.errors import BaseModelError, ConfigError, EngineError, is_out_of_memory
from apt_engine.reading.regular import read_json
from apt_engine.settings.presets import POCKET_DIR, at_home, is_hub_id, looks_like_path
from apt_engine.settings.training import TrainingConfig

ALL_THREADS = torch.get_num_threads()
SMALL_DENOISER = 100_000_000  # parameters; Stable Diffusion has 860 million, the pocket model 11
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FAMILIES: dict[str, type[BaseModel]] = {
    "StableDiffusionPipeline": StableDiffusion,
    "StableDiffusionXLPipeline": StableDiffusionXL,
    "Flux2KleinPipeline": Klein,
    "ZImagePipeline": ZImage,
}

# Their progress bars and advice are for notebooks; what matters becomes an event or an error.
for library in (diffusers.utils.logging, transformers.utils.logging):
    library.set_verbosity_error()
    library.disable_progress_bar()


def choose_device(wish: str) -> torch.device:
    """The device of a setting: auto is the GPU if there is one.

    Raises:
        ConfigError: this machine has no such device.
    """
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wish == "auto":
        wish = next(kind for kind, is_there in present.items() if is_there)
    if not present[wish]:
        raise ConfigError(f"This machine has no {wish} device that torch can use; set device to auto or cpu.")
    return torch.device(wish)


def choose_dtype(wish: str, device: torch.device) -> torch.dtype:
    """The number format of a setting: auto is half precision on CUDA and fp32 elsewhere."""
    if wish != "auto":
        return DTYPES[wish]
    if device.type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def choose_threads(denoiser: nn.Module) -> None:
    """Have torch compute on one thread from now on if the denoiser is small: waking others costs more than they bring.

    The pocket model's step takes 0.17 s on one thread and 0.28 s on two that sleep in between; where they spin instead, 0.13 s,
    but 1.2 s while another program is busy.
    """
    size = sum(parameter.numel() for parameter in denoiser.parameters())
    torch.set_num_threads(1 if size < SMALL_DENOISER else ALL_THREADS)


def load_base_of(config: TrainingConfig) -> BaseModel:
    """The base model of a run as its settings want it; see `load_base`."""
    return load_base(
        config.base,
        device=config.device,
        dtype=config.dtype,
        attention=config.attention,
        precision=config.base_precision,
    )


def load_base(
    name: str, *, device: str = "auto", dtype: str = "auto", attention: str = "fused", precision: str = "full"
) -> BaseModel:
    """The base model of a name, ready to use; on a CPU it also chooses torch's threads for it.

    Raises:
        BaseModelError: there is none of that name, or it cannot be loaded; says which and what to do.
        ConfigError: the device does not exist here, or the weights cannot be kept in that precision.
    """
    check_precision(precision)
    where = choose_device(device)
    source = _find(name)
    try:
        kind = kind_of(name, source)
        if isinstance(source, Path):
            inspect_folder(name, source)
        elif isinstance(source, TransformerFile):
            inspect_folder(str(source.parts), source.parts, without="transformer")
        base = FAMILIES[kind].load(
            source,
            name=name,
            device=where,
            dtype=choose_dtype(dtype, where),
            attention=attention,
            precision=precision,
        )
    except EngineError:
        raise
    except Exception as error:  # of a damaged file libraries raise anything, tokenizers a bare Exception
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:300]
        raise BaseModelError(
            f"The base model {name} cannot be loaded ({reason}); check that the model is complete."
        ) from error
    missing = unanswered(base)
    if missing:
        raise BaseModelError(
            f"{name} cannot be used: {type(base).__name__} does not say {', '.join(missing)}; choose another base model."
        )
    if where.type == "cpu":
        choose_threads(base.denoiser)
    try_out(base)
    return base


def _find(name: str) -> Source:
    """A folder, a checkpoint in one file, or of an id of the hub the folder in its cache, fetched first if need be."""
    if name == "pocket":
        return POCKET_DIR
    path = at_home(name)
    try:
        if path.is_dir():
            return path
        is_there = path.exists()
    except OSError as error:  # of a drive that went away, or a folder that may not be entered
        reason = error.strerror or error
        raise BaseModelError(
            f"The base model {name} cannot be read ({reason}); check the path and the drive."
        ) from error
    if is_there:
        return inspect(path)
    if looks_like_path(name):
        raise BaseModelError(f"The base model {name} is not there; check the path and the drive.")
    if not is_hub_id(name):
        raise BaseModelError(
            f"There is no base model {name}; write pocket, the path of a model folder or file, or a hub id such as owner/model."
        )
    for _ in hub.fetch(name):  # whoever has a bar to show has fetched it before
        pass
    folder = hub.folder_of(name)
    if not folder:
        raise BaseModelError(f"{name} on the hub lacks some of its parts; choose another model.")
    return folder


def kind_of(name: str, source: Source) -> str:
    """The class of diffusers' pipelines that a model is of, once it is supported and whole."""
    if not isinstance(source, Path):
        return str(source.index["_class_name"])
    return _kind_of_folder(name, source)


def _supported(name: str, kind: str) -> str:
    if kind not in FAMILIES:
        raise BaseModelError(f"{name} is a {kind}; supported are {', '.join(FAMILIES)}.")
    return kind


def _kind_of_folder(name: str, folder: Path) -> str:
    """The class a folder says it is, once all its parts are there."""
    try:
        index: dict[str, Any] = read_json(folder / "model_index.json")
        kind = str(index["_class_name"])
    except (OSError, ValueError, TypeError, KeyError):
        raise BaseModelError(
            f"{name} is not a model in diffusers layout (no readable model_index.json in {folder}); "
            "choose the folder that holds model_index.json."
        ) from None
    _supported(name, kind)
    # Without this, transformers makes an empty tokenizer where there is none.
    missing = [part for part in parts_of(index) if not (folder / part).is_dir()]
    if missing:
        raise BaseModelError(f"{name} has no folder {missing[0]}; check that the folder is complete.")
    if "unet" in index:
        variants.refuse_others(name, folder, index)
    return kind
