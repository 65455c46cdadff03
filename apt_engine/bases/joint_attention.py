"""Looking into attention where pixels and words ask and answer in one sequence, words first, whatever computes q and k.

A module's own projections are not what it attends with: norms and rotary embedding follow. So the one call that all must make,
torch's `scaled_dot_product_attention`, is watched while the module runs. Attention kernels of other makers do not make it.

h heads of width D, S tokens of both kinds, P picture positions.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from apt_engine.bases import random
from apt_engine.bases.base import Attention

MOST_ROWS = 512  # of a map that are compared; all 4,096 of a picture of 1024 px would take 8 times the memory


class _Calls(TorchFunctionMode):
    """Tells query and key of each call inside, both (B, h, S, D)."""

    def __init__(self, on_call: Callable[[Tensor, Tensor], None]) -> None:
        super().__init__()
        self._on_call = on_call

    def __torch_function__(  # torch's own
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func is F.scaled_dot_product_attention:
            given = dict(zip(("query", "key"), args, strict=False)) | named
            self._on_call(given["query"], given["key"])
        return func(*args, **named)


def watch_module(module: nn.Module, on_call: Callable[[Tensor, Tensor], None]) -> list[RemovableHandle]:
    """Hooks that tell what a module attends with; its output stays the same."""
    calls = _Calls(on_call)

    def enter(*_: object) -> None:
        calls.__enter__()

    def leave(*_: object) -> None:
        calls.__exit__(None, None, None)

    return [
        module.register_forward_pre_hook(enter),
        module.register_forward_hook(leave, always_call=True),  # checkpointing cuts a module's second run short
    ]


def picture_rows(name: str, query: Tensor, key: Tensor, text: int) -> Attention:
    """What a layer's picture positions attend with, in a sequence of `text` words and then the picture.

    Where there are many, the same ones ask at every call; which they are depends on the layer's name.
    """
    positions = query.shape[2] - text
    if positions <= MOST_ROWS:
        return Attention(query[:, :, text:], key, text_start=0, positions=positions)
    rows = _sample(name, positions).to(query.device)
    return Attention(query[:, :, text + rows], key, text_start=0, positions=positions, rows=rows)


@functools.lru_cache(maxsize=1024)
def _sample(name: str, positions: int) -> Tensor:
    chosen = torch.randperm(positions, generator=random.generator(0, 0, 0, f"{name} rows"))
    return chosen[:MOST_ROWS].sort().values
