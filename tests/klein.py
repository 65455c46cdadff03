"""A toy of FLUX.2 klein from the real classes: both kinds of blocks, a language model as text encoder, a VAE with statistics."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from tokenizers import pre_tokenizers
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

from apt_engine.bases.klein import Klein
from tests.toy import SEED, WORDS

LATENT_CHANNELS = 4
PROMPT_TOKENS = 64  # as the tokenizer says; klein's own says more than the 512 that are used
STATE_WIDTH = 8  # of each of the three hidden states that stand side by side
END, FROM, TO = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def toy_klein_pipeline(*, is_distilled: bool = False) -> Flux2KleinPipeline:
    """The pipeline in eval mode, the same at every call; the global random stream is left as it was.

    Pictures of 32 px have latents (1, 16, 4, 4), prompts have states (1, 64, 24).
    """
    tokenizer = toy_chat_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        transformer, vae, text_encoder = _transformer(), _autoencoder(), _text_encoder(tokenizer)
    for module in (transformer, vae, text_encoder):
        module.eval()
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    pipeline = Flux2KleinPipeline(scheduler, vae, text_encoder, tokenizer, transformer, is_distilled=is_distilled)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_toy_klein(folder: Path) -> Path:
    """Write the toy in diffusers layout; returns `folder`."""
    toy_klein_pipeline().save_pretrained(folder, safe_serialization=True)
    return folder


def toy_klein(*, is_distilled: bool = False) -> Klein:
    return Klein(
        toy_klein_pipeline(is_distilled=is_distilled), name="toy-klein", device=torch.device("cpu"), dtype=torch.float32
    )


def toy_chat_tokenizer() -> Qwen2Tokenizer:
    """Qwen's byte-level tokenizer: each of WORDS, with or without a space before it, is one token; the rest is spelled."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = list(dict.fromkeys((word[:end], word[end]) for word in WORDS for end in range(1, len(word))))
    merges += [("Ġ", word) for word in WORDS]
    tokens = [*alphabet, *("".join(merge) for merge in merges)]
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,  # pyright: ignore[reportArgumentType]  # pairs are what it takes
        additional_special_tokens=[FROM, TO],
        model_max_length=PROMPT_TOKENS,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _transformer() -> Flux2Transformer2DModel:
    """Three blocks of the first kind and two of the second, so that the later half has both."""
    return Flux2Transformer2DModel(
        in_channels=4 * LATENT_CHANNELS,
        num_layers=3,
        num_single_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=3 * STATE_WIDTH,
        timestep_guidance_channels=16,
        axes_dims_rope=(2, 2, 2, 2),
        guidance_embeds=False,
    )


def _autoencoder() -> AutoencoderKLFlux2:
    vae = AutoencoderKLFlux2(
        sample_size=32,
        block_out_channels=(4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=2,
    )
    vae.bn.running_mean.copy_(torch.randn(4 * LATENT_CHANNELS) / 4)
    vae.bn.running_var.copy_(torch.rand(4 * LATENT_CHANNELS) + 0.1)
    return vae


def _text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen3ForCausalLM:
    """Deep enough for its 27th hidden state."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=STATE_WIDTH,
            intermediate_size=STATE_WIDTH,
            num_hidden_layers=28,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=4,
            max_position_embeddings=512,
        )
    )
