"""The parts of the pocket flow model: a small FLUX.2 klein, of the classes that `Flux2KleinPipeline` is made of.

What the pipeline does by default is what the parts are shaped for: hidden states 9, 18 and 27 of the text encoder side
by side, text before the picture, padding that attends, no guidance embedding.

A text encoder of 27 layers costs a quarter of a training step and is not needed for captions of this world. So six layers
are trained, and `spread` puts them where the pipeline reads, with layers between them that pass on what they are given.
"""

from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel
from torch import Tensor, nn
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

from tools.pocket.flow_tokenizer import END, PADDING
from tools.pocket.settings import LATENT_CHANNELS, LATENT_SIZE

TEXT_WIDTH = 64
TRAINED_LAYERS = (2, 4, 6)  # whose states are read while the text encoder is trained: the last one of each pair
READ_LAYERS = (9, 18, 27)  # what the pipeline reads by default
TOKEN_CHANNELS = 4 * LATENT_CHANNELS  # a token is a patch of 2 x 2 latents
TOKENS_A_SIDE = LATENT_SIZE // 2


class FlowModel(nn.Module):
    """Transformer and text encoder, to be trained as one; the last layer starts at zero."""

    def __init__(self, tokenizer: Qwen2Tokenizer) -> None:
        super().__init__()
        self.transformer = build_transformer()
        self.text_encoder = build_text_encoder(tokenizer)
        nn.init.zeros_(self.transformer.proj_out.weight)

    def forward(self, noisy: Tensor, sigmas: Tensor, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The velocity predict_velocity tells, for text as token ids and mask (B, L)."""
        return predict_velocity(
            self.transformer, noisy, sigmas, embed_text(self.text_encoder, token_ids, attention_mask)
        )


def build_transformer() -> Flux2Transformer2DModel:
    """Two blocks with a stream each for text and picture, then six with one stream for both; width 192."""
    return Flux2Transformer2DModel(
        in_channels=TOKEN_CHANNELS,
        num_layers=2,
        num_single_layers=6,
        attention_head_dim=32,
        num_attention_heads=6,
        joint_attention_dim=len(READ_LAYERS) * TEXT_WIDTH,
        timestep_guidance_channels=128,
        axes_dims_rope=(4, 10, 10, 8),  # of the 32 numbers a head: reference picture, row, column, word
        rope_theta=100,  # the longest wave is for 24 words and 8 rows, not for klein's 512 and 128
        guidance_embeds=False,
    )


def build_text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen3ForCausalLM:
    """A narrow Qwen3 with the layers that are trained."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=TRAINED_LAYERS[-1],
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=TEXT_WIDTH // 2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
        pad_token_id=tokenizer.get_vocab()[PADDING],
        eos_token_id=tokenizer.get_vocab()[END],
    )
    return Qwen3ForCausalLM(config)


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Straight paths, evenly spaced; klein's shift by the number of tokens is meant for large pictures."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0, use_dynamic_shifting=False)


@torch.no_grad()
def spread(text_encoder: Qwen3ForCausalLM) -> Qwen3ForCausalLM:
    """The same text encoder with 27 layers: its states 9, 18 and 27 are states 2, 4 and 6 of the one that was trained.

    A layer whose two last projections are zero adds nothing to what it is given.
    """
    deeper = {"num_hidden_layers": READ_LAYERS[-1], "layer_types": None}  # of which there is one a layer; made anew
    deep: Any = Qwen3ForCausalLM(Qwen3Config.from_dict({**text_encoder.config.to_dict(), **deeper}))
    for layer in deep.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    shallow = iter(text_encoder.model.layers)
    for before, trained, read in zip((0, *TRAINED_LAYERS), TRAINED_LAYERS, READ_LAYERS, strict=False):
        for place in range(read - (trained - before), read):
            deep.model.layers[place].load_state_dict(next(shallow).state_dict())
    deep.model.embed_tokens.load_state_dict(text_encoder.model.embed_tokens.state_dict())
    deep.model.norm.load_state_dict(text_encoder.model.norm.state_dict())
    return deep.to(dtype=text_encoder.dtype).train(text_encoder.training)


def embed_text(text_encoder: Qwen3ForCausalLM, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """What the pipeline will make of token ids (B, L): three hidden states side by side, (B, L, 3 * TEXT_WIDTH)."""
    # The decoder under the language model: its word scores would be computed for nothing.
    output = text_encoder.model(
        input_ids=token_ids, attention_mask=attention_mask, output_hidden_states=True, use_cache=False
    )
    return torch.cat([output.hidden_states[layer] for layer in TRAINED_LAYERS], dim=-1)


def predict_velocity(transformer: Flux2Transformer2DModel, noisy: Tensor, sigmas: Tensor, text: Tensor) -> Tensor:
    """The predicted noise minus picture (B, N, C) for noisy tokens (B, N, C), noise levels (B,) from 0 to 1 and text."""
    # The model takes levels in the format of its tokens; in bfloat16 one of .9 is off by two of a thousand steps.
    exactly = transformer.time_guidance_embed.time_proj.register_forward_pre_hook(lambda *_: (1000 * sigmas,))
    rows = columns = torch.arange(TOKENS_A_SIDE)
    words, origin = torch.arange(text.shape[1]), torch.arange(1)
    with exactly:
        return transformer(
            hidden_states=noisy,
            timestep=sigmas,
            encoder_hidden_states=text,
            img_ids=torch.cartesian_prod(origin, rows, columns, origin),
            txt_ids=torch.cartesian_prod(origin, origin, origin, words),
            return_dict=False,
        )[0]
