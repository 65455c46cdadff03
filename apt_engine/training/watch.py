"""Looking into the denoiser while it runs: self-attention outputs and cross-attention maps of the mid and up blocks.

The reference pass (adapter off) leaves channel statistics and attention maps behind; the tuned pass (adapter on) is held
against them layer by layer as it runs, so that no second set of maps is kept. Plain module hooks do it: they work with
any attention processor, fused or not, and change no output.

B samples, P = Q spatial positions, C channels, h heads, D = C / h, K tokens.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from apt_engine.apt.losses import alignment, channel_statistics, stabilization
from apt_engine.errors import BaseModelError

WATCHED_BLOCKS = ("mid_block.", "up_blocks.")


@dataclass(frozen=True)
class TokenPairs:
    """Which columns of the two passes' maps belong together: indices of tokens, padding left out.

    (J,) for all samples alike, or (B, J) with `kept` (B, J): 1 for columns that count, 0 for those that fill up.
    """

    tuned: Tensor
    reference: Tensor
    kept: Tensor | None = None

    def columns(self, attention: Tensor, indices: Tensor) -> Tensor:
        """The columns (B, h, Q, J) of maps (B, h, Q, K); those that fill up are 0."""
        if self.kept is None:
            return attention[..., indices]
        return torch.take_along_dim(attention, indices[:, None, None], dim=-1) * self.kept[:, None, None]

    def correct(self, loss: Tensor) -> Tensor:
        """A mean (B,) over all columns as one over those that count."""
        return loss if self.kept is None else loss * self.kept.shape[1] / self.kept.sum(dim=1)


@dataclass
class Watched:
    """What is known of the two passes of one step.

    Attributes:
        latent_mask: (B, H, W), 1 for latent cells inside the photo.
        tokens: the tokens that count.
        reference: by layer, what the reference pass left: statistics, or maps without padding's columns.
        losses: by layer, the loss (B,) of the tuned pass against it.
        is_tuned: which pass runs now.
        queries: by layer, the projection that waits for its key.
    """

    latent_mask: Tensor
    tokens: TokenPairs
    reference: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, Tensor] = field(default_factory=dict)
    is_tuned: bool = False
    queries: dict[str, Tensor] = field(default_factory=dict)

    def positions(self, count: int) -> Tensor:
        """The mask (B, P) at the resolution of a layer with `count` positions: valid where all its latent cells are."""
        return position_mask(self.latent_mask, count)

    def total(self, suffix: str) -> Tensor:
        """Mean over layers (B,) of the losses of self-attention (attn1) or cross-attention (attn2); zeros without any."""
        parts = [loss for name, loss in self.losses.items() if name.endswith(suffix)]
        return torch.stack(parts).mean(dim=0) if parts else self.latent_mask.new_zeros(len(self.latent_mask))


class Probes:
    """Hooks on a denoiser. Enter `watch` for a whole step, backward included: checkpointing runs the layers again then."""

    def __init__(self, denoiser: nn.Module, *, features: bool, maps: bool) -> None:
        attentions: list[tuple[str, Any]] = [
            (name, module)
            for name, module in denoiser.named_modules()
            if name.startswith(WATCHED_BLOCKS) and name.endswith((".attn1", ".attn2"))
        ]
        self._self_attentions = [item for item in attentions if item[0].endswith(".attn1")] if features else []
        self._cross_attentions = [item for item in attentions if item[0].endswith(".attn2")] if maps else []
        if maps and not self._cross_attentions:
            raise BaseModelError("This base model has no cross-attention in its mid and up blocks; set alignment to 0.")

    @contextlib.contextmanager
    def watch(self, latent_mask: Tensor, tokens: TokenPairs) -> Iterator[Watched]:
        """Hooks in place; set `is_tuned` between the passes."""
        seen = Watched(latent_mask, tokens)
        handles = []
        try:
            for name, module in self._self_attentions:
                handles.append(module.to_out[0].register_forward_pre_hook(_feature_hook(seen, name)))
            for name, module in self._cross_attentions:
                handles.append(module.to_q.register_forward_hook(_query_hook(seen, name)))
                handles.append(module.to_k.register_forward_hook(_key_hook(seen, name, module.heads)))
            yield seen
        finally:
            for handle in handles:
                handle.remove()


def attention_map(query: Tensor, key: Tensor, heads: int) -> Tensor:
    """softmax(Q K^T / sqrt(D)) (B, h, Q, K) from projections (B, Q, C) and (B, K, C), in fp32."""
    query, key = (part.unflatten(-1, (heads, -1)).transpose(1, 2).float() for part in (query, key))
    return torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1]), dim=-1)


def position_mask(latent_mask: Tensor, count: int) -> Tensor:
    """(B, H, W) brought to (B, count): halved, rounding up, until it has so many cells; valid where all parts are."""
    mask = latent_mask[:, None]
    while mask.shape[-1] * mask.shape[-2] > count:
        mask = -F.max_pool2d(-mask, 2, ceil_mode=True)
    return mask.flatten(1)


def _feature_hook(seen: Watched, name: str) -> Any:
    def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        features = inputs[0]
        statistics = channel_statistics(features, seen.positions(features.shape[1]))
        if seen.is_tuned:
            seen.losses[name] = stabilization(statistics, seen.reference[name])
        else:
            seen.reference[name] = statistics

    return hook


def _query_hook(seen: Watched, name: str) -> Any:
    def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], query: Tensor) -> None:
        seen.queries[name] = query

    return hook


def _key_hook(seen: Watched, name: str, heads: int) -> Any:
    """The key follows the query in every processor: with it the map can be formed. Padding's columns are not kept."""

    def hook(_module: nn.Module, _inputs: tuple[Tensor, ...], key: Tensor) -> None:
        query = seen.queries.pop(name)
        if not seen.is_tuned:
            seen.reference[name] = seen.tokens.columns(attention_map(query, key, heads), seen.tokens.reference)
            return
        valid = seen.positions(query.shape[1])
        arguments = query, key, heads, seen.tokens, seen.reference[name], valid
        seen.losses[name] = checkpoint(_alignment_of, *arguments, use_reentrant=False)

    return hook


def _alignment_of(
    query: Tensor, key: Tensor, heads: int, tokens: TokenPairs, reference: Tensor, valid: Tensor
) -> Tensor:
    """AA of one layer (B,). Checkpointed: the map is formed anew in backward instead of being kept."""
    tuned = tokens.columns(attention_map(query, key, heads), tokens.tuned)
    return tokens.correct(alignment(tuned, reference, valid))
