"""The layout of checkpoints in one file: the names that the original programs give to layers, from diffusers' own."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import Tensor, nn

UNET = "model.diffusion_model."
VELOCITY_MARK = "v_pred"  # an empty tensor
TOP = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
UPSAMPLER = "upsampler."
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


@dataclass(frozen=True)
class Stack:
    """Matrices that a file has as one below the other; they are copied when it is made, and not before."""

    parts: list[Tensor]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all of them."""
        return (sum(len(part) for part in self.parts), *self.parts[0].shape[1:])

    def numel(self) -> int:
        """Numbers in all of them."""
        return sum(part.numel() for part in self.parts)

    def made(self) -> Tensor:
        """One tensor of all."""
        return torch.cat(self.parts)


def checkpoint_of(
    pipeline: Any, prediction_type: str, join: Callable[[list[Tensor]], Any] = torch.cat
) -> dict[str, Any]:
    """All parts of a pipeline as one file has them; an XL model that predicts velocities is marked as ComfyUI knows them.

    Args:
        pipeline: of diffusers.
        prediction_type: epsilon or v_prediction.
        join: what becomes of matrices that a file has as one; a `Stack` takes no memory.
    """
    second = getattr(pipeline, "text_encoder_2", None)
    tensors = original_tensors(pipeline.unet, pipeline.vae, pipeline.text_encoder, second, join)
    is_marked = second is not None and prediction_type == "v_prediction"
    return {**tensors, **({VELOCITY_MARK: torch.zeros(0)} if is_marked else {})}


def weight_in_checkpoint(layer: str, layers_per_block: int) -> str:
    """The name of a U-Net layer's weight in such a file."""
    return UNET + original_name_of(f"{layer}.weight", layers_per_block)


def original_tensors(
    unet: UNet2DConditionModel,
    vae: AutoencoderKL | None,
    encoder: nn.Module,
    encoder_2: nn.Module | None = None,
    join: Callable[[list[Tensor]], Any] = torch.cat,
) -> dict[str, Any]:
    """All parts of a model as one file has them; one that attends to 1,024 numbers a token is a 2.x model."""
    tensors: dict[str, Any] = {f"{UNET}{key}": value for key, value in original_unet(unet).items()}
    if vae:
        tensors |= {f"first_stage_model.{key}": value for key, value in original_vae(vae).items()}
    if encoder_2:
        tensors |= original_open_clip(encoder_2, "conditioner.embedders.1.model.", join)
    elif unet.config.cross_attention_dim == 1024:
        return tensors | original_open_clip(encoder, "cond_stage_model.model.", join)
    prefix = "conditioner.embedders.0" if encoder_2 else "cond_stage_model"
    for key, value in encoder.state_dict().items():
        tensors[f"{prefix}.transformer.text_model.{key.removeprefix('text_model.')}"] = value
    return tensors


def original_name(layer: str, layers_per_block: int) -> str:
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


def original_unet(unet: UNet2DConditionModel) -> dict[str, Tensor]:
    """The U-Net's weights by their original names."""
    named = {original_name_of(key, unet.config.layers_per_block): value for key, value in unet.state_dict().items()}
    made: dict[str, Tensor] = {}
    for name, value in named.items():
        block = name.split(UPSAMPLER)[0]  # it stands last in its layer, behind the attention where there is one
        is_second = UPSAMPLER in name and any(other.startswith(f"{block}1.") for other in named)
        made[name.replace(UPSAMPLER, "2." if is_second else "1.")] = value
    return made


def original_vae(vae: AutoencoderKL) -> dict[str, Tensor]:
    """The VAE's; its attention was of convolutions 1 x 1."""
    last = len(vae.config.block_out_channels) - 1
    made: dict[str, Tensor] = {}
    for key, value in vae.state_dict().items():
        is_matrix = "mid_block.attentions" in key and value.ndim == 2
        made[_vae_name(key, last)] = value[:, :, None, None] if is_matrix else value
    return made


def original_open_clip(
    encoder: nn.Module, prefix: str, join: Callable[[list[Tensor]], Any] = torch.cat
) -> dict[str, Any]:
    """A text encoder with q, k and v in one matrix."""
    weights = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    made: dict[str, Any] = {
        "token_embedding.weight": weights.pop("embeddings.token_embedding.weight"),
        "positional_embedding": weights.pop("embeddings.position_embedding.weight"),
        "ln_final.weight": weights.pop("final_layer_norm.weight"),
        "ln_final.bias": weights.pop("final_layer_norm.bias"),
    }
    if "text_projection.weight" in weights:
        made["text_projection"] = weights.pop("text_projection.weight").T
    for key in [key for key in weights if ".q_proj." in key]:
        parts = [weights.pop(key.replace("q_proj", f"{letter}_proj")) for letter in "qkv"]
        stem, kind = key.replace("encoder.layers", "transformer.resblocks").split(".self_attn.q_proj.")
        made[f"{stem}.attn.in_proj_{kind}"] = join(parts)
    for key, value in weights.items():
        name = key.replace("encoder.layers", "transformer.resblocks").replace("self_attn.out_proj", "attn.out_proj")
        name = name.replace("layer_norm1", "ln_1").replace("layer_norm2", "ln_2")
        made[name.replace("mlp.fc1", "mlp.c_fc").replace("mlp.fc2", "mlp.c_proj")] = value
    return {prefix + key: value for key, value in made.items()}


def original_name_of(key: str, layers_per_block: int) -> str:
    """The original name of one of the U-Net's weights; an upsampler's has a mark where its place in the layer is to be put."""
    stem, kind = key.rsplit(".", 1)
    if stem in TOP:
        return f"{TOP[stem]}.{kind}"
    sampler = re.fullmatch(r"(down|up)_blocks\.(\d+)\.(?:down|up)samplers\.0\.conv", stem)
    if sampler:
        block = int(sampler[2])
        if sampler[1] == "down":
            return f"input_blocks.{(block + 1) * (layers_per_block + 1)}.0.op.{kind}"
        return f"output_blocks.{block * (layers_per_block + 1) + layers_per_block}.{UPSAMPLER}conv.{kind}"
    residual = re.fullmatch(r"(.*\.resnets\.\d+)\.(.*)", stem)
    if residual:
        return original_name(f"{residual[1]}.conv1", layers_per_block).replace(
            "in_layers.2", f"{RESIDUAL[residual[2]]}.{kind}"
        )
    return f"{original_name(stem, layers_per_block)}.{kind}"


def _vae_name(key: str, last: int) -> str:
    key = key.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    key = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", key)
    key = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", key)
    key = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda match: f"up.{last - int(match[1])}.upsample", key)
    key = re.sub(r"down_blocks\.(\d+)\.resnets", r"down.\1.block", key)
    key = re.sub(r"up_blocks\.(\d+)\.resnets", lambda match: f"up.{last - int(match[1])}.block", key)
    if "mid_block.attentions.0." in key:
        part, kind = key.split("mid_block.attentions.0.")[1].rsplit(".", 1)
        key = f"{key.split('mid_block')[0]}mid.attn_1.{VAE_ATTENTION[part]}.{kind}"
    return key
