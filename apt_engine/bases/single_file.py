"""Loads a checkpoint in one file as a pipeline of diffusers, with the configs and the tokenizer that ship with the app.

diffusers fetches them from the hub otherwise, even when it is told to stay offline.
"""

from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPTokenizer

from apt_engine.bases.checkpoints import ASSETS, TOKENIZER_DIR, SingleFile
from apt_engine.bases.transformer_files import PREFIX, TransformerFile
from apt_engine.errors import BaseModelError

PipelineT = TypeVar("PipelineT", StableDiffusionPipeline, StableDiffusionXLPipeline)
# Stable Diffusion 2.x and the second encoder of XL were trained with this in place of words that are not there.
OPEN_CLIP_PADDING = "!"
INCOMPLETE = "{path} does not hold all weights of such a model; get the file again."


def load_pipeline(kind: type[PipelineT], file: SingleFile, dtype: torch.dtype) -> PipelineT:
    """The pipeline of a file; its VAE in fp32, all else in `dtype`.

    Raises:
        BaseModelError: weights are missing.
        OSError, ValueError, KeyError, TypeError, RuntimeError: as diffusers raises them.
    """
    try:
        pipeline = _assemble(kind, file, dtype)
    except NotImplementedError as error:  # what the file does not have stays on the meta device, and cannot be moved
        raise BaseModelError(INCOMPLETE.format(path=file.path)) from error
    for name, part in pipeline.components.items():
        gap = next((key for key, weight in _weights(part) if weight.is_meta), None)
        if gap:
            raise BaseModelError(f"{file.path} has no weights for {gap} of its {name}; get the file again.")
    pipeline.scheduler = type(pipeline.scheduler).from_config(
        pipeline.scheduler.config, prediction_type=file.prediction_type
    )
    return pipeline


def load_transformer(kind: Any, file: TransformerFile, dtype: torch.dtype) -> Any:
    """The flow transformer of a file on the CPU, by its class of diffusers.

    Raises:
        BaseModelError: weights are missing.
        OSError, ValueError, KeyError, RuntimeError: as safetensors and diffusers raise them.
    """
    own = file.parts / "transformer" / "config.json"
    config = own.parent if own.is_file() else ASSETS / file.family / "transformer"
    weights = {PREFIX.sub("", name): value for name, value in load_file(file.path).items()}
    # diffusers' reader of Z-Image leaves the prefix of ComfyUI's files away, that of klein does not.
    try:
        return kind.from_single_file(weights, config=str(config), dtype=dtype, local_files_only=True)
    except NotImplementedError as error:  # as above
        raise BaseModelError(INCOMPLETE.format(path=file.path)) from error


def _assemble(kind: type[PipelineT], file: SingleFile, dtype: torch.dtype) -> PipelineT:
    configs = str(file.configs)
    vae = AutoencoderKL.from_single_file(
        str(file.vae), config=configs, subfolder="vae", torch_dtype=torch.float32, local_files_only=True
    )
    return kind.from_single_file(
        str(file.path), config=configs, vae=vae, torch_dtype=dtype, local_files_only=True, **_tokenizers(file)
    )


def _tokenizers(file: SingleFile) -> dict[str, CLIPTokenizer]:
    """All three families spell alike; they differ in what fills up a short prompt."""
    own = CLIPTokenizer.from_pretrained(TOKENIZER_DIR)
    other = CLIPTokenizer.from_pretrained(TOKENIZER_DIR, pad_token=OPEN_CLIP_PADDING)
    first = {"tokenizer": other if file.family == "sd2" else own}
    return {**first, "tokenizer_2": other} if "tokenizer_2" in file.index else first


def _weights(part: object) -> Iterable[tuple[str, torch.Tensor]]:
    return part.named_parameters() if isinstance(part, nn.Module) else ()
