"""Toys of the real classes, SD and SDXL: they build and draw in a fraction of a second. Their pictures mean nothing."""

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import pre_tokenizers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

SEED = 0
TOKEN_WIDTH = 32
POOLED_WIDTH = 24
WORDS = ("a", "of", "on", "in", "the", "photo", "cat", "car", "dog", "backpack", "beach", "thing", "zwx")
START, END = "<|startoftext|>", "<|endoftext|>"


def toy_pipeline(prediction_type: str = "epsilon") -> StableDiffusionPipeline:
    """The pipeline in eval mode, the same at every call; the global random stream is left as it was.

    Pictures of 32 px have latents (1, 4, 8, 8), prompts have states (1, 77, 32).
    """
    tokenizer = toy_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        unet, vae, text_encoder = _unet(), _autoencoder(), _text_encoder(tokenizer)
    for module in (unet, vae, text_encoder):
        module.eval()
    pipeline = StableDiffusionPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        scheduler=_scheduler(prediction_type),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_toy_base(folder: Path, prediction_type: str = "epsilon") -> Path:
    """Write the toy in diffusers layout, as safetensors; returns `folder`."""
    toy_pipeline(prediction_type).save_pretrained(folder, safe_serialization=True)
    return folder


def toy_xl_pipeline() -> StableDiffusionXLPipeline:
    """As `toy_pipeline`, for SDXL: prompts have states (1, 77, 64) and pooled states (1, 24)."""
    tokenizer, tokenizer_2 = toy_tokenizer(), toy_tokenizer(pad_token="!")  # as in SDXL, only padding differs
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        unet, vae, text_encoder = _xl_unet(), _autoencoder(), _text_encoder(tokenizer)
        text_encoder_2 = CLIPTextModelWithProjection(_text_config(tokenizer_2, layers=2))
    for module in (unet, vae, text_encoder, text_encoder_2):
        module.eval()
    pipeline = StableDiffusionXLPipeline(
        unet=unet,
        vae=vae,
        text_encoder=text_encoder,
        text_encoder_2=text_encoder_2,
        tokenizer=tokenizer,
        tokenizer_2=tokenizer_2,
        scheduler=EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_toy_xl_base(folder: Path) -> Path:
    """Write the XL toy in diffusers layout, as safetensors; returns `folder`."""
    toy_xl_pipeline().save_pretrained(folder, safe_serialization=True)
    return folder


def toy_tokenizer(pad_token: str = END) -> CLIPTokenizer:
    """CLIP's byte-level tokenizer: each of WORDS is one token, anything else is spelled byte by byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = list(dict.fromkeys(merge for word in WORDS for merge in _merges(word)))
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet), *("".join(merge) for merge in merges), START, END]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,  # pyright: ignore[reportArgumentType]  # pairs are what it takes
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=pad_token,
        model_max_length=77,
    )


def _merges(word: str) -> list[tuple[str, str]]:
    """The pairs that build a word from its left, its last letter carrying the end mark."""
    letters = [*word[:-1], f"{word[-1]}</w>"]
    return [("".join(letters[:end]), letters[end]) for end in range(1, len(letters))]


def _unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
        norm_num_groups=4,
        cross_attention_dim=TOKEN_WIDTH,
    )


def _xl_unet() -> UNet2DConditionModel:
    """Two layers a block and a growing number of transformer blocks, as in SDXL."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 16),
        layers_per_block=2,
        transformer_layers_per_block=(1, 2),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        norm_num_groups=4,
        cross_attention_dim=2 * TOKEN_WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + POOLED_WIDTH,
    )


def _autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=32,
        block_out_channels=(4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=4,
        norm_num_groups=2,
    )


def _text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(_text_config(tokenizer))


def _text_config(tokenizer: CLIPTokenizer, layers: int = 1) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TOKEN_WIDTH,
        intermediate_size=TOKEN_WIDTH,
        projection_dim=POOLED_WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=len(tokenizer) - 2,
        eos_token_id=len(tokenizer) - 1,
        pad_token_id=len(tokenizer) - 1,
    )


def _scheduler(prediction_type: str) -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
