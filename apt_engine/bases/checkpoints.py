"""What a single `.safetensors` file is, told from the names and shapes in its header. Imports no torch.

Civitai, ComfyUI, AUTOMATIC1111 and Forge keep a whole model in one file, with the layer names of the original programs: the
U-Net below `model.diffusion_model.`, the VAE below `first_stage_model.`, text encoders below `cond_stage_model.` or
`conditioner.`. Everything else that comes as such a file is refused by what it is, before a byte of its weights is read.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from numpy.typing import NDArray

from apt_engine.bases.transformer_files import TransformerFile, family_of, inspect_transformer
from apt_engine.bases.variants import SHOWN
from apt_engine.errors import BaseModelError
from apt_engine.reading import tensor_files
from apt_engine.reading.regular import open_regular
from apt_engine.reading.tensor_files import Tensor

ASSETS = Path(__file__).resolve().parents[2] / "assets" / "families"
TOKENIZER_DIR = ASSETS / "clip-tokenizer"
Tensors = dict[str, Tensor]

UNET = "model.diffusion_model."
VAE = "first_stage_model."
FIRST_CONVOLUTION = f"{UNET}input_blocks.0.0.weight"
SIZE_EMBEDDING = f"{UNET}label_emb.0.0.weight"
BLOCKS_OF_SDXL = 10  # of its deepest stage
# By a part of a name: what such a file is instead.
STRANGERS = {
    "hada_w1_a": "a LoHa",
    "lokr_w1": "a LoKr",
    "lora_unet_": "a LoRA",
    ".lora_A.": "a LoRA",
    ".lora_down.": "a LoRA",
    ".lora.down.": "a LoRA",
    "control_model.": "a ControlNet",
    "control_layers.": "a ControlNet",
    "controlnet_cond_embedding": "a ControlNet",
    "input_hint_block": "a ControlNet",
    "emb_params": "a textual inversion",
    "double_blocks.": "a FLUX.1 transformer",
    "joint_blocks.": "a Stable Diffusion 3 transformer",
    "cap_embedder.": "a Lumina transformer",
    "conditioner.embedders.0.model.": "the SDXL refiner",
}
ALONE = {
    "input_blocks.0.0.weight": "a U-Net alone",
    "down_blocks.0.resnets.0.conv1.weight": "one part of a model in diffusers layout",
    "decoder.conv_in.weight": "a VAE alone",
    "text_model.embeddings.token_embedding.weight": "a text encoder alone",
}
TEXT_ENCODERS = {
    "sd15": ("cond_stage_model.transformer.text_model.",),
    "sd2": ("cond_stage_model.model.",),
    "sdxl": ("conditioner.embedders.0.transformer.text_model.", "conditioner.embedders.1.model."),
}
FORMATS = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}  # in numpy's words; it has none for BF16
NORM_OF_SD2 = f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias"
UNEQUAL = 0.09  # standard deviation; v-prediction has more
WHOLE = "choose a whole Stable Diffusion 1.x, 2.x or XL checkpoint, or a folder in diffusers layout"


@dataclass(frozen=True, kw_only=True)
class SingleFile:
    """A checkpoint that can be loaded.

    Attributes:
        path: of the file.
        family: sd15, sd2 or sdxl, a folder of `assets/families`.
        vae: the file that holds the VAE, this one or another beside it.
        prediction_type: epsilon or v_prediction.
    """

    path: Path
    family: str
    vae: Path
    prediction_type: str

    @property
    def configs(self) -> Path:
        """The folder of its configs, in diffusers layout but for the tokenizers."""
        return ASSETS / self.family

    @property
    def index(self) -> dict[str, Any]:
        """The parts of its pipeline, and the pipeline's class."""
        return json.loads((self.configs / "model_index.json").read_text(encoding="utf-8"))


def inspect(path: Path) -> SingleFile | TransformerFile:
    """What a file is: a whole model, or a flow transformer that others' parts make one.

    Raises:
        BaseModelError: no checkpoint that can be trained; says what it is instead.
    """
    tensors, about = read_header(path)
    flow = family_of(tensors)
    if flow:
        return inspect_transformer(path, tensors, flow, ASSETS / flow / "transformer" / "config.json")
    _refuse_strangers(path, tensors)
    channels = tensors[FIRST_CONVOLUTION].shape[1]
    if channels != 4:
        raise _refusal(path, SHOWN.get(channels, f"a model with {channels} input channels"))
    family = _family(path, tensors)
    _check_formats(path, tensors)
    _check_text_encoder(path, tensors, family)
    return SingleFile(
        path=path,
        family=family,
        vae=_vae_of(path, tensors),
        prediction_type=_prediction_type(path, tensors, about, family),
    )


def read_header(path: Path) -> tuple[Tensors, dict[str, str]]:
    """The tensors of a safetensors file by name and what it says about itself, once it is sure that all its bytes are there.

    Raises:
        BaseModelError: it cannot be read, or is no whole safetensors file.
    """
    try:
        with open_regular(path) as file:
            _refuse_other_formats(path, file.read(8))
        return tensor_files.read_header(path)
    except OSError as error:
        reason = error.strerror or error
        raise BaseModelError(f"The model file {path} cannot be read ({reason}); check the drive it is on.") from error
    except tensor_files.CutOffError as error:
        raise BaseModelError(
            f"{path} is cut off: {error.size / 1e9:.2f} of {error.whole / 1e9:.2f} GB are there; get the file again."
        ) from None
    except ValueError as error:
        raise BaseModelError(f"{path} is damaged or not a safetensors file: {error}; get the file again.") from None


def _refuse_other_formats(path: Path, start: bytes) -> None:
    if tensor_files.is_pickle(start):
        raise BaseModelError(f"{path} is a PyTorch checkpoint, which can run code; get the model as .safetensors.")
    if start.startswith(b"GGUF"):
        raise BaseModelError(f"{path} is a GGUF file of quantized weights; get the model as .safetensors.")


def _refuse_strangers(path: Path, tensors: Tensors) -> None:
    for part, kind in STRANGERS.items():
        if any(part in name for name in tensors):
            raise _refusal(path, kind)
    if FIRST_CONVOLUTION in tensors and len(tensors[FIRST_CONVOLUTION].shape) == 4:
        return
    for part, kind in ALONE.items():
        if any(name.endswith(part) for name in tensors):
            raise _refusal(path, kind)
    raise _refusal(path, "no Stable Diffusion checkpoint")


def _family(path: Path, tensors: Tensors) -> str:
    """By the width of the text states that the U-Net attends to, and what SDXL is told of sizes."""
    if SIZE_EMBEDDING in tensors:
        deepest = f"{UNET}input_blocks.7.1.transformer_blocks.{BLOCKS_OF_SDXL - 1}."
        if not any(name.startswith(deepest) for name in tensors) or f"{UNET}middle_block.1.norm.weight" not in tensors:
            raise _refusal(path, "a shortened Stable Diffusion XL, such as SSD-1B")
        if tensors[SIZE_EMBEDDING].shape[1] != 2816:
            raise _refusal(path, "a Stable Diffusion XL model of another kind")
        if "edm_mean" in tensors or "edm_vpred.sigma_max" in tensors:
            raise _refusal(path, "a Stable Diffusion XL model with the noise levels of EDM, such as Playground 2.5")
        return "sdxl"
    width = next(
        (
            tensor.shape[1]
            for name, tensor in tensors.items()
            if name.endswith("input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight")
        ),
        0,
    )
    families = {768: "sd15", 1024: "sd2"}
    if width not in families or f"{UNET}output_blocks.11.1.transformer_blocks.0.norm1.bias" not in tensors:
        raise _refusal(path, "a U-Net of an unknown kind")
    return families[width]


def _check_formats(path: Path, tensors: Tensors) -> None:
    """Weights in eight bits have scales that nobody wrote down alike."""
    name = next((name for name, tensor in tensors.items() if tensor.dtype.startswith("F8")), None)
    if name:
        raise BaseModelError(
            f"{path} has weights in {tensors[name].dtype} ({name}); get the model in fp16, bf16 or fp32."
        )


def _check_text_encoder(path: Path, tensors: Tensors, family: str) -> None:
    missing = next(
        (prefix for prefix in TEXT_ENCODERS[family] if not any(name.startswith(prefix) for name in tensors)), None
    )
    if missing:
        raise BaseModelError(f"{path} has no text encoder (nothing below {missing}); {WHOLE}.")


def _vae_of(path: Path, tensors: Tensors) -> Path:
    """The file itself, or what AUTOMATIC1111 would take: `name.vae.safetensors` beside it."""
    if f"{VAE}decoder.conv_in.weight" in tensors:
        return path
    beside = path.with_name(f"{path.stem}.vae.safetensors")
    if beside.is_file():
        names, _ = read_header(beside)
        if "decoder.conv_in.weight" in names or f"{VAE}decoder.conv_in.weight" in names:
            return beside
    raise BaseModelError(f"{path} has no VAE; put the one that belongs to it beside it as {beside.name}.")


def _prediction_type(path: Path, tensors: Tensors, about: dict[str, str], family: str) -> str:
    """By the model specification's word in the header, or by the key that other programs look for; else by the weights.

    Only 2.x models come in both kinds without saying which: those that predict v have far more unequal numbers in one norm
    than those that predict noise, which is how ComfyUI tells them apart.
    """
    said = {"v": "v_prediction", "epsilon": "epsilon"}.get(about.get("modelspec.prediction_type", ""))
    if "v_pred" in tensors:
        return "v_prediction"
    if said or family != "sd2":
        return said or "epsilon"
    return "v_prediction" if float(_read(path, tensors[NORM_OF_SD2]).std()) > UNEQUAL else "epsilon"


def _read(path: Path, tensor: Tensor) -> NDArray[numpy.float32]:
    """The numbers of one tensor."""
    with path.open("rb") as file:
        file.seek(tensor.begin)
        content = file.read(tensor.end - tensor.begin)
    if tensor.dtype == "BF16":  # the upper half of an fp32
        return (numpy.frombuffer(content, numpy.uint16).astype(numpy.uint32) << 16).view(numpy.float32)
    return numpy.frombuffer(content, FORMATS[tensor.dtype]).astype(numpy.float32)


def _refusal(path: Path, kind: str) -> BaseModelError:
    return BaseModelError(f"{path} is {kind}; {WHOLE}.")
