"""A toy of Z-Image from the real classes: refiners and layers, a chat model as text encoder, a VAE as Stable Diffusion has it."""

from pathlib import Path

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline, ZImageTransformer2DModel
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

from apt_engine.bases.z_image import ZImage
from tests.klein import toy_chat_tokenizer
from tests.toy import SEED

LATENT_CHANNELS = 4
PROMPT_TOKENS = 64  # as the tokenizer says
STATE_WIDTH = 8
BASE_SHIFT, TURBO_SHIFT = 6.0, 3.0  # as the schedulers of the real ones say


def toy_z_image_pipeline(*, shift: float = BASE_SHIFT) -> ZImagePipeline:
    """The pipeline in eval mode, the same at every call; the global random stream is left as it was.

    Pictures of 32 px have latents (1, 16, 4, 4), prompts have states (1, their length, 8). The 16 picture tokens are filled up to
    32.
    """
    tokenizer = toy_chat_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        transformer, vae, text_encoder = _transformer(), _autoencoder(), _text_encoder(tokenizer)
    for module in (transformer, vae, text_encoder):
        module.eval()
    pipeline = ZImagePipeline(FlowMatchEulerDiscreteScheduler(shift=shift), vae, text_encoder, tokenizer, transformer)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def save_toy_z_image(folder: Path) -> Path:
    """Write the toy in diffusers layout; returns `folder`."""
    toy_z_image_pipeline().save_pretrained(folder, safe_serialization=True)
    return folder


def toy_z_image(*, shift: float = BASE_SHIFT, name: str = "toy-z-image") -> ZImage:
    return ZImage(toy_z_image_pipeline(shift=shift), name=name, device=torch.device("cpu"), dtype=torch.float32)


def _transformer() -> ZImageTransformer2DModel:
    """Its learnt fillings are random, as nothing but zeros would come of them."""
    transformer = ZImageTransformer2DModel(
        in_channels=LATENT_CHANNELS,
        dim=16,
        n_layers=4,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=STATE_WIDTH,
        axes_dims=[4, 2, 2],
        axes_lens=[256, 64, 64],
    )
    for filling in (transformer.x_pad_token, transformer.cap_pad_token):
        torch.nn.init.normal_(filling)
    return transformer


def _autoencoder() -> AutoencoderKL:
    return AutoencoderKL(
        sample_size=32,
        block_out_channels=(4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=2,
        scaling_factor=0.36,
        shift_factor=0.12,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def _text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen3Model:
    return Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=STATE_WIDTH,
            intermediate_size=STATE_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=4,
            max_position_embeddings=512,
        )
    )
