"""Looking into attention where pixels and words ask and answer in one sequence, words first, whatever computes q and k.

A module's own projections are not what it attends with: norms and rotary embedding follow. So the one call that all must make,
torch's `scaled_dot_product_attention`, is watched while the module runs. Attention kernels of other makers do not make it.

h heads of width D, S tokens of both kinds.
"""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle


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
