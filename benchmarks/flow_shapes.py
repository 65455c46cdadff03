"""Flow transformers of real shapes with random weights; their language models have the real width of states and little else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2Transformer2DModel,
    ZImageTransformer2DModel,
)
from tokenizers import pre_tokenizers
from torch import nn
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM, Qwen3Model

STATE_WIDTH = 2560  # of Qwen3-4B
KLEIN: dict[str, Any] = {
    "num_layers": 5,
    "num_single_layers": 20,
    "num_attention_heads": 24,
    "joint_attention_dim": 3 * STATE_WIDTH,
    "guidance_embeds": False,
}
Z_IMAGE: dict[str, Any] = {}  # what the class has by default
# One user's words and the start of an answer, as Qwen3's own template has them.
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
_FOUR = 4


def parts(family: str) -> dict[str, Callable[[], nn.Module]]:
    """How each part is built, by the name of its folder."""
    text = Qwen3Config(
        vocab_size=len(tokenizer()),
        hidden_size=STATE_WIDTH,
        intermediate_size=64,
        num_hidden_layers=27 if family == "klein" else 2,  # no more than are read
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=64,
        max_position_embeddings=2048,
    )
    if family == "klein":
        return {
            "transformer": lambda: Flux2Transformer2DModel(**KLEIN),
            "vae": AutoencoderKLFlux2,
            "text_encoder": lambda: Qwen3ForCausalLM(text),
        }
    return {
        "transformer": lambda: ZImageTransformer2DModel(**Z_IMAGE),
        "vae": lambda: AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * _FOUR,
            up_block_types=("UpDecoderBlock2D",) * _FOUR,
            layers_per_block=2,
            latent_channels=16,
            scaling_factor=0.3611,
            shift_factor=0.1159,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ),
        "text_encoder": lambda: Qwen3Model(text),
    }


def write_rest(family: str, folder: Path) -> None:
    """Tokenizer, scheduler, and last the index, once the weights are there."""
    tokenizer().save_pretrained(folder / "tokenizer")
    # That of Z-Image is not shifted by the number of tokens, and by more than a distilled model's of its family.
    is_klein = family == "klein"
    FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=is_klein, shift=1.0 if is_klein else 6.0).save_pretrained(
        folder / "scheduler"
    )
    index = {
        "_class_name": "Flux2KleinPipeline" if is_klein else "ZImagePipeline",
        "transformer": ["diffusers", "Flux2Transformer2DModel" if is_klein else "ZImageTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLFlux2" if is_klein else "AutoencoderKL"],
        "text_encoder": ["transformers", "Qwen3ForCausalLM" if is_klein else "Qwen3Model"],
        "tokenizer": ["transformers", "Qwen2Tokenizer"],
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    }
    (folder / "model_index.json").write_text(
        json.dumps(index | ({"is_distilled": False} if is_klein else {})), encoding="utf-8"
    )


def tokenizer() -> Qwen2Tokenizer:
    """Qwen's byte-level tokenizer without merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(alphabet)},
        merges=[],
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        model_max_length=512,
    )
    made.chat_template = TEMPLATE
    return made
