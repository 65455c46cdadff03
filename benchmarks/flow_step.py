"""A base of klein's or Z-Image's own class around a bare transformer: all that a step asks for."""

from types import SimpleNamespace
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2Transformer2DModel, ZImageTransformer2DModel
from torch import nn

from apt_engine.bases.base import CaptionTokens, PromptStates
from apt_engine.bases.klein import Klein
from apt_engine.bases.z_image import ZImage

TOKENS = 9  # of the usual caption, without its template
TEMPLATE_TOKENS = 4
KLEIN_WORDS, Z_IMAGE_WORDS = 512, 24


class _Bare:
    """Random states: a step costs the same whatever they say."""

    device: torch.device

    def caption_tokens(self, prompt: str) -> CaptionTokens:
        """As many as the usual caption has."""
        del prompt
        return CaptionTokens(
            tuple(range(TOKENS)), tuple(range(TEMPLATE_TOKENS, TEMPLATE_TOKENS + TOKENS)), is_cut=False
        )


class BareKlein(_Bare, Klein):
    """Of klein's class."""

    def encode_prompts(self, prompts: list[str]) -> PromptStates:
        """Padded, as klein's are."""
        width = self._pipeline.transformer.config.joint_attention_dim
        return PromptStates(torch.randn(len(prompts), KLEIN_WORDS, width, device=self.device))


class BareZImage(_Bare, ZImage):
    """Of Z-Image's class."""

    def encode_prompts(self, prompts: list[str]) -> PromptStates:
        """Of one length."""
        width = self._pipeline.transformer.config.cap_feat_dim
        hidden = torch.randn(len(prompts), Z_IMAGE_WORDS, width, device=self.device)
        return PromptStates(hidden, lengths=(Z_IMAGE_WORDS,) * len(prompts))


def numberless(transformer: Any, dtype: torch.dtype) -> Klein | ZImage:
    """A base around a transformer whose weights have no numbers, so that they stay in the formats they are in."""
    keep = transformer.to
    transformer.to = lambda *_, **__: transformer
    frozen = {name: parameter.requires_grad for name, parameter in transformer.named_parameters()}
    base = bare_base(transformer, dtype)
    for name, parameter in transformer.named_parameters():
        parameter.requires_grad_(frozen[name])
    transformer.to = keep
    return base


def bare_base(transformer: Any, dtype: torch.dtype = torch.float32) -> Klein | ZImage:
    """A base around a transformer that lies where it lies."""
    is_klein = isinstance(transformer, Flux2Transformer2DModel)
    assert is_klein or isinstance(transformer, ZImageTransformer2DModel)
    pipeline = SimpleNamespace(
        transformer=transformer,
        text_encoder=nn.Identity(),
        vae=nn.Identity(),
        tokenizer=SimpleNamespace(model_max_length=KLEIN_WORDS),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0 if is_klein else 6.0),
        vae_scale_factor=8,
        config=SimpleNamespace(is_distilled=False),
    )
    kind = BareKlein if is_klein else BareZImage
    device = next(transformer.parameters()).device
    return kind(pipeline, name="bare", device=device, dtype=dtype)
