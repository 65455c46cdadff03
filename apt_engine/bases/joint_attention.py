"""Looking into attention where pixels and words ask and answer in one sequence, whatever computes q and k.

A module's own projections are not what it attends with: norms and rotary embedding follow. So the one call that all must make,
torch's `scaled_dot_product_attention`, is watched while the module runs. Attention kernels of other makers do not make it.

h heads of width D, S tokens of both kinds.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

OnCall = Callable[[Tensor, Tensor, Tensor | None], None]
MASKED = -1e4  # to the logit of a key that is not to be heard


class _Calls(TorchFunctionMode):
    """Tells query and key of each call inside, both (B, h, S, D), and its mask."""

    def __init__(self, on_call: OnCall) -> None:
        super().__init__()
        self._on_call = on_call

    def __torch_function__(  # torch's own
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if func is F.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | named
            self._on_call(given["query"], given["key"], given.get("attn_mask"))
        return func(*args, **named)


def watch_module(module: nn.Module, on_call: OnCall) -> list[RemovableHandle]:
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


def masked(query: Tensor, key: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Query and key (B, h, S, D + 1) whose scaled products are those of the two with a mask (B, 1, 1, S) applied.

    So nobody who looks at attention has to know of masks.
    """
    if mask is None:
        return query, key
    width = query.shape[-1]
    scaled = query.float() * math.sqrt((width + 1) / width)
    bias = torch.where(mask, 0.0, MASKED).transpose(-1, -2).expand(*key.shape[:-1], 1)
    return F.pad(scaled, (0, 1), value=math.sqrt(width + 1)), torch.cat([key.float(), bias], dim=-1)
