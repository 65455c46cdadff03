"""Weights of the layers in attention blocks, kept in 8 or 4 bits and made whole for the moment that a layer computes.

bitsandbytes packs them, in blocks of numbers with a scale each; it is optional. Its own layers are not used: on a CPU they pack
their weights anew in a pass without gradients, such as the reference pass, and give none from then on. Backward makes a weight
whole once more instead of keeping it.
"""

import re
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apt_engine.bases.precision import BLOCKS

# By the names of layers: attention and feed-forward layers of a U-Net's attention blocks, of klein's and of Z-Image's blocks.
PACKED = re.compile(
    r"\.attentions\.|^(single_)?transformer_blocks\.|^(layers|noise_refiner|context_refiner)\.\d+\.(attention|feed_forward)\."
)


def place(denoiser: nn.Module, device: torch.device, precision: str) -> None:
    """Move a frozen denoiser to its device, packed on the way where that is wished."""
    if precision != "full":
        pack(denoiser, device, precision)
    denoiser.to(device)


def pack(denoiser: nn.Module, device: torch.device, precision: str) -> None:
    """Pack the frozen linear layers of attention blocks on a device, one after the other."""
    for name, layer in list(denoiser.named_modules()):
        if type(layer) is nn.Linear and PACKED.search(name) and not layer.weight.requires_grad:
            parent, _, own = name.rpartition(".")
            setattr(denoiser.get_submodule(parent), own, PackedLinear(layer, device, precision))


class PackedLinear(nn.Linear):
    """A linear layer whose weight is packed; `weight` is a whole copy of it, made anew each time it is asked for."""

    def __init__(self, layer: nn.Linear, device: torch.device, precision: str) -> None:
        nn.Module.__init__(self)
        from bitsandbytes import functional

        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        self._dtype, self._block = layer.weight.dtype, BLOCKS[precision]
        weight = layer.weight.detach().to(device).contiguous()
        if precision == "4bit":
            packed, state = functional.quantize_4bit(weight, blocksize=self._block, quant_type="nf4")
            code = None
        else:
            packed, state = functional.quantize_blockwise(weight, blocksize=self._block)
            code = state.code
        self.register_buffer("_packed", packed, persistent=False)
        # As bytes: a module that is told another number format must not round them.
        self.register_buffer("_scales", state.absmax.view(torch.uint8), persistent=False)
        self.register_buffer("_code", code.view(torch.uint8) if code is not None else None, persistent=False)

    @property
    def weight(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]  # nothing sets it
        """(out, in), in the number format that the layer had."""
        return self.whole(self._dtype)

    @torch.no_grad()
    def whole(self, dtype: torch.dtype) -> Tensor:
        """The weight (out, in) in a number format."""
        packed: Any = self._packed
        scales: Any = self._scales
        scales = scales.view(torch.float32)
        operators: Any = torch.ops.bitsandbytes
        shape = (self.out_features, self.in_features)
        code: Any = self._code
        if code is None:
            return operators.dequantize_4bit(packed, scales, self._block, "nf4", shape, dtype)
        return operators.dequantize_blockwise(packed, scales, code.view(torch.float32), self._block, dtype)

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) to (..., out), in autocast's number format where there is one."""
        kind = input.device.type
        is_cast = torch.is_autocast_enabled(kind)
        output: Any = _Product.apply(input.to(torch.get_autocast_dtype(kind)) if is_cast else input, self)
        return output


class _Product(torch.autograd.Function):
    """Rows times the transpose of a packed weight; for backward the layer alone is remembered, which has it packed."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, layer: PackedLinear) -> Tensor:
        ctx.layer = layer
        bias: Any = layer.bias
        return F.linear(rows, layer.whole(rows.dtype), None if bias is None else bias.to(rows.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return gradient @ ctx.layer.whole(gradient.dtype), None
