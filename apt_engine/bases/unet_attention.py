"""Looking into a U-Net while it runs: self-attention outputs and cross-attention of its mid and up blocks.

Plain module hooks do it: they work with any attention processor, fused or not, and change no output.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from apt_engine.bases.base import Attention, OnAttention, OnFeatures, WatchedLayers

WATCHED_BLOCKS = ("mid_block.", "up_blocks.")


def watched_layers(unet: nn.Module) -> WatchedLayers:
    """The attention layers of the mid and up blocks: where the paper's figures draw them."""
    names = [name for name, _ in unet.named_modules() if name.startswith(WATCHED_BLOCKS)]
    return WatchedLayers(
        features=tuple(name for name in names if name.endswith(".attn1")),
        maps=tuple(name for name in names if name.endswith(".attn2")),
    )


@contextlib.contextmanager
def watch(unet: nn.Module, on_features: OnFeatures | None, on_attention: OnAttention | None) -> Iterator[None]:
    """See `BaseModel.watch`."""
    layers = watched_layers(unet)
    with contextlib.ExitStack() as hooks:
        if on_features:
            for name in layers.features:
                hooks.enter_context(_watch_features(name, unet.get_submodule(name), on_features))
        if on_attention:
            for name in layers.maps:
                for hook in _watch_attention(name, unet.get_submodule(name), on_attention):
                    hooks.enter_context(hook)
        yield


def _watch_features(name: str, layer: Any, on_features: OnFeatures) -> RemovableHandle:
    return layer.to_out[0].register_forward_pre_hook(lambda _module, inputs: on_features(name, inputs[0]))


def _watch_attention(name: str, layer: Any, on_attention: OnAttention) -> list[RemovableHandle]:
    """The key follows the query in every processor: with it all is known."""
    waiting: list[Tensor] = []  # one at most: checkpointing may cut a second run short between the two

    def by_head(projected: Tensor) -> Tensor:
        return projected.unflatten(-1, (layer.heads, -1)).transpose(1, 2)

    def on_query(_module: nn.Module, _inputs: tuple[Tensor, ...], query: Tensor) -> None:
        waiting[:] = [query]

    def on_key(_module: nn.Module, _inputs: tuple[Tensor, ...], key: Tensor) -> None:
        on_attention(name, Attention(by_head(waiting.pop()), by_head(key), text_start=0))

    return [
        layer.to_q.register_forward_hook(on_query),
        layer.to_k.register_forward_hook(on_key),
    ]
