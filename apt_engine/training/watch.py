"""Holding the tuned pass against the reference pass, layer by layer, on what the base lets be seen of itself.

The reference pass (adapter off) leaves channel statistics and attention maps behind; the tuned pass (adapter on) is held
against them layer by layer as it runs, so that no second set of maps is kept.

B samples, P picture positions, Q those whose maps are compared, C channels, h heads, D = C / h, K keys, J tokens of the caption.
"""

import contextlib
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from apt_engine.apt import losses
from apt_engine.bases.base import Attention, BaseModel, WatchedLayers
from apt_engine.errors import BaseModelError

MOST_NUMBERS = (
    6144  # of a head's map: of SDXL's 40 largest layers at 1024 px all would take 5 % of a checkpointed step's memory
)


@dataclass(frozen=True)
class TokenPairs:
    """Which columns of the two passes' maps belong together: indices among the prompt's states, padding left out.

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
    """What is known of the two passes of one micro-batch.

    With gradient checkpointing each layer is called again in backward and must compute the same again, but what comes of it is
    dropped: it holds the layer's graph, and all of them together the very memory that checkpointing is to save.

    Attributes:
        latent_mask: (B, H, W), 1 for latent cells inside the photo.
        tokens: the tokens that count.
        layers: those that are watched.
        shift: which positions are compared where a layer has too many; another at each step, so that all have their turn.
        is_tuned: which pass runs now.
        reference_features: by layer, the channel statistics that the reference pass left.
        reference_maps: by layer, its maps (B, h, Q, J).
        feature_losses: by layer, RS (B,) of the tuned pass.
        map_losses: by layer, AA (B,).
    """

    latent_mask: Tensor
    tokens: TokenPairs
    layers: WatchedLayers
    shift: int = 0
    is_tuned: bool = False
    reference_features: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    reference_maps: dict[str, Tensor] = field(default_factory=dict)
    feature_losses: dict[str, Tensor] = field(default_factory=dict)
    map_losses: dict[str, Tensor] = field(default_factory=dict)

    def stabilization(self) -> Tensor:
        """RS (B,), mean over layers; zeros where no features are watched.

        Raises:
            BaseModelError: no layer was seen at work.
        """
        return self._mean(self.feature_losses, self.layers.features, "stabilization")

    def alignment(self) -> Tensor:
        """AA (B,), mean over layers; zeros where no maps are watched.

        Raises:
            BaseModelError: no layer was seen at work.
        """
        return self._mean(self.map_losses, self.layers.maps, "alignment")

    def on_features(self, name: str, features: Tensor) -> None:
        """Keep or compare a layer's features (B, P, C)."""
        statistics = losses.channel_statistics(features, position_mask(self.latent_mask, features.shape[1]))
        if self.is_tuned:
            loss = losses.stabilization(statistics, self.reference_features[name])
            self.feature_losses.setdefault(name, loss)
        else:
            self.reference_features[name] = statistics

    def on_attention(self, name: str, attention: Attention) -> None:
        """Keep or compare a layer's map. Checkpointed: the tuned one is formed anew in backward instead of being kept.

        Tensors are handed over bare: what a checkpoint is given inside another is formed anew too, but for what is wrapped.
        """
        positions = attention.query.shape[2]
        rows = compared_rows(name, positions, self.tokens.tuned.shape[-1], self.shift)
        query, key = attention.query[:, :, rows], attention.key  # (B, h, Q, D) and (B, h, K, D)
        if not self.is_tuned:
            columns = self.tokens.reference + attention.text_start
            self.reference_maps[name] = self.tokens.columns(attention_map(query, key), columns)
            return
        mask = position_mask(self.latent_mask, positions)[:, rows]
        arguments = query, key, self.reference_maps[name], mask, self.tokens, attention.text_start
        loss = checkpoint(_alignment_of, *arguments, use_reentrant=False, preserve_rng_state=False)
        self.map_losses.setdefault(name, loss)

    def _mean(self, parts: dict[str, Tensor], watched: tuple[str, ...], setting: str) -> Tensor:
        if not watched:
            return self.latent_mask.new_zeros(len(self.latent_mask))
        if not parts:
            raise BaseModelError(f"No layer of this base model was seen at work; set {setting} to 0.")
        return torch.stack(list(parts.values())).mean(dim=0)


class Probes:
    """What is to be watched in a base. Enter `watch` for a whole step, backward included: checkpointing runs layers again then.

    Raises:
        BaseModelError: the base offers nothing of what is asked for.
    """

    def __init__(self, base: BaseModel, *, features: bool, maps: bool) -> None:
        self._base = base
        offered = base.watched_layers
        self._layers = WatchedLayers(offered.features if features else (), offered.maps if maps else ())
        if maps and not offered.maps:
            raise BaseModelError("No layer of this base model attends to the words of a prompt; set alignment to 0.")

    @contextlib.contextmanager
    def watch(self, latent_mask: Tensor, tokens: TokenPairs, shift: int = 0) -> Iterator[Watched]:
        """Watching inside; set `is_tuned` between the passes."""
        with self.watch_again(self.begin(latent_mask, tokens, shift)) as seen:
            yield seen

    def begin(self, latent_mask: Tensor, tokens: TokenPairs, shift: int) -> Watched:
        """Nothing seen yet of a micro-batch."""
        return Watched(latent_mask, tokens, self._layers, shift)

    @contextlib.contextmanager
    def watch_again(self, seen: Watched) -> Iterator[Watched]:
        """Watching inside goes on where it was."""
        on_features = seen.on_features if self._layers.features else None
        on_attention = seen.on_attention if self._layers.maps else None
        with self._base.watch(on_features, on_attention):
            yield seen


def attention_map(query: Tensor, key: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(D)) (B, h, Q, K) of queries (B, h, Q, D) and keys (B, h, K, D), in fp32.

    Under autocast the product would be formed in half precision whatever it is made of.
    """
    with _no_autocast(query.device):
        scaled = query.float() / math.sqrt(query.shape[-1])
        return torch.softmax(scaled @ key.float().transpose(-1, -2), dim=-1)


def compared_rows(name: str, positions: int, tokens: int, shift: int) -> slice:
    """The positions whose maps are compared: all, or every n-th, where a map of so many tokens has more than MOST_NUMBERS.

    n is odd, so that they do not stand in columns below each other where a picture is a power of 2 wide.
    """
    every = -(-positions * tokens // MOST_NUMBERS)
    every += every % 2 == 0
    return slice((zlib.crc32(name.encode()) + shift) % every, None, every)


def position_mask(latent_mask: Tensor, count: int) -> Tensor:
    """How much of each of a layer's positions (B, count) lies inside the photo, 0 .. 1, from latent cells (B, H, W).

    Halved, rounding up, until there are so many; a position that stands for photo and border counts by the photo's share, since
    deep layers have hardly one that is photo alone.
    """
    mask = latent_mask[:, None]
    while mask.shape[-1] * mask.shape[-2] > count:
        mask = F.avg_pool2d(mask, 2, ceil_mode=True)  # windows beyond the edge are means of what there is
    return mask.flatten(1)


def _no_autocast(device: torch.device) -> contextlib.AbstractContextManager[object]:
    has_autocast = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if has_autocast else contextlib.nullcontext()


def _alignment_of(
    query: Tensor, key: Tensor, reference: Tensor, mask: Tensor, tokens: TokenPairs, text_start: int
) -> Tensor:
    """AA of one layer (B,)."""
    tuned = tokens.columns(attention_map(query, key), tokens.tuned + text_start)
    return tokens.correct(losses.alignment(tuned, reference, mask))
