"""A device that is none: its tensors compute on the CPU, refuse fp64 as Apple's GPUs do, and each transfer from them is recorded.

torch calls it `meta`, the one device it knows without a driver; unlike there, tensors here have numbers.
"""

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")
CPU = torch.device("cpu")
ITEM = torch.ops.aten._local_scalar_dense.default
CONJUGATE = torch.ops.aten._conj.default
INDEX = torch.ops.aten.index.Tensor  # by numbers or by truths, in one operation


class DeviceTensor(torch.Tensor):
    """A tensor that says it is on the fake device; its numbers are in `kept`, on the CPU."""

    kept: Tensor

    @staticmethod
    def __new__(cls: type["DeviceTensor"], kept: Tensor) -> "DeviceTensor":
        made = torch.Tensor._make_wrapper_subclass(
            cls, kept.shape, kept.stride(), kept.storage_offset(), dtype=kept.dtype, device=DEVICE
        )
        made.kept = kept
        return made

    def __repr__(self, *_: Any, **__: Any) -> str:
        return f"DeviceTensor({self.kept})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Outside the mode nothing of the device can be used."""
        raise AssertionError(f"{func} outside of FakeDevice")


class _Uploads(TorchFunctionMode):
    """`torch.tensor` makes a tensor without numbers on `meta` itself; here the numbers go there."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and (device := kwargs.pop("device", None)) is not None:
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


class FakeDevice(TorchDispatchMode):
    """Makes the device work inside.

    Attributes:
        waits: what made the host wait for the device: transfers from it, and operations whose result depends on its numbers.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self._uploads = _Uploads()

    def __enter__(self) -> "FakeDevice":
        self._uploads.__enter__()
        return super().__enter__()

    def __exit__(self, *failure: Any) -> None:
        super().__exit__(*failure)
        self._uploads.__exit__(*failure)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        assert all(isinstance(tensor, DeviceTensor) or tensor.device == CPU for tensor in inputs)
        is_input = any(isinstance(tensor, DeviceTensor) for tensor in inputs)
        device = kwargs.get("device")
        is_output = is_input if device is None else torch.device(device) == DEVICE
        if device is not None:
            kwargs = {**kwargs, "device": CPU}
        if is_input and (not is_output or func is ITEM or _depends_on_numbers(func, args)):
            self.waits.append(str(func))
        made = func(*_bare(args), **_bare(kwargs))
        if is_output and any(isinstance(leaf, Tensor) and leaf.dtype == torch.float64 for leaf in tree_leaves(made)):
            raise TypeError(f"{func}: the device has no fp64")
        if func is CONJUGATE:  # torch puts it off with a mark that is not seen in here
            made = made.resolve_conj()
        is_made_here = is_output and func is not ITEM
        return tree_map_only(Tensor, DeviceTensor if is_made_here else _same, made)


def _depends_on_numbers(func: Any, args: Any) -> bool:
    """Whether the host must know the numbers to know how many come out."""
    if func is INDEX:
        return any(index is not None and index.dtype == torch.bool for index in args[1])
    return torch.Tag.dynamic_output_shape in func.tags


def _bare(values: Any) -> Any:
    return tree_map_only(DeviceTensor, lambda tensor: tensor.kept, values)


def _same(tensor: Tensor) -> Tensor:
    return tensor
