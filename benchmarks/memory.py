"""What a step of training takes of memory: `python -m benchmarks.memory`.

The real U-Nets of SD 1.5 (512 px) and SDXL (1024 px) with a LoRA of rank 16 take a real step on tensors without numbers
(torch's FakeTensorMode). Every storage that comes to life is counted until it is gone: what is alive at most during forward (with
the reference pass), backward, and the optimizer's step, weights and LoRA left out. Formats are those of a GPU in half precision:
frozen weights in bf16, LoRA in fp32, autocast, norms in fp32. The same on the CPU, whose autocast leaves norms in half
precision; they are set to fp32 by hand. What a kernel takes for itself while it runs is not seen.
"""

import argparse
import dataclasses
import gc
import inspect
import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from apt_engine.bases import footprint
from apt_engine.bases.base import PromptStates
from apt_engine.bases.checkpoints import ASSETS
from apt_engine.bases.quantized import PackedLinear, pack
from apt_engine.lora import adapter
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.latents import LatentSource, View
from benchmarks.step_cost import PARTS, SD15, SDXL, BareBase, NumberlessStep

ENDINGS = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "feed_forward": ("ff.net.0.proj", "ff.net.2"),
    "convolutions": ("conv1", "conv2"),
}


def _family(name: str) -> dict[str, Any]:
    config = json.loads((ASSETS / name / "unet" / "config.json").read_text(encoding="utf-8"))
    known = inspect.signature(UNet2DConditionModel.__init__).parameters
    return {key: value for key, value in config.items() if key in known}


class Alive(TorchDispatchMode):
    """Counts the bytes of all storages made inside and still alive.

    Args:
        known: tensors that do not count.
    """

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in known}  # noqa: SLF001  # a storage's only name
        self.now = 0
        self.peak = 0

    def begin_phase(self) -> int:
        """The peak since the phase before; a new one begins."""
        peak, self.peak = self.peak, self.now
        return peak

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf.untyped_storage())
        return result

    def _note(self, storage: Any) -> None:
        key = storage._cdata  # noqa: SLF001
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


class HalfBase(BareBase):
    """Computes under autocast, as a base in half precision does."""

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, states: PromptStates) -> Tensor:
        """The U-Net's output."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype != torch.float32):
            return super().predict(noisy_latents, timesteps, states)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured."""

    unet: dict[str, Any]
    part: str = "APT"
    side: int = 0  # of the latents; the U-Net's own where 0
    batch: int = 1
    rank: int = 16
    is_half: bool = True
    is_checkpointed: bool = False
    precision: str = "full"
    trained: tuple[str, ...] = ("attention",)


PLANNED = {
    "SD 1.5, 512 px": Setting(unet=SD15),
    "SD 1.5, 512 px, checkpointing": Setting(unet=SD15, is_checkpointed=True),
    "SD 1.5, 512 px, fp32": Setting(unet=SD15, is_half=False),
    "SD 1.5, 512 px, batch 2, rank 64, all layers": Setting(unet=SD15, batch=2, rank=64, trained=tuple(ENDINGS)),
    "SD 2.1, 768 px": Setting(unet=_family("sd2"), side=96),
    "SD 2.1, 768 px, checkpointing, batch 4": Setting(unet=_family("sd2"), side=96, is_checkpointed=True, batch=4),
    "SDXL, 1024 px": Setting(unet=SDXL),
    "SDXL, 1024 px, checkpointing": Setting(unet=SDXL, is_checkpointed=True),
    "SDXL, 1024 px, checkpointing, 8 bits": Setting(unet=SDXL, is_checkpointed=True, precision="8bit"),
    "SDXL, 1024 px, checkpointing, 4 bits": Setting(unet=SDXL, is_checkpointed=True, precision="4bit"),
    "SDXL, 1024 px, 4 bits": Setting(unet=SDXL, precision="4bit"),
    "SD 1.5, 512 px, 8 bits": Setting(unet=SD15, precision="8bit"),
}


@dataclass(frozen=True)
class Phases:
    """Peaks in bytes; weights, LoRA and AdamW's moments left out. `frozen` are the bytes of the base model's weights."""

    forward: int
    backward: int
    optimizer: int
    frozen: int


def measure(setting: Setting) -> Phases:
    """Peaks of a step whose optimizer has its moments already."""
    step = _step_of(setting, FakeTensorMode(allow_non_fake_inputs=True))
    trained = [parameter for parameter in step.parameters if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, foreach=True)
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    moments = [value for state in optimizer.state.values() for value in state.values()]
    marks: list[int] = []

    def backward(loss: Tensor) -> None:
        marks.append(alive.begin_phase())
        loss.backward()

    gc.collect()
    with Alive([*step.parameters, *moments]) as alive:
        step(1, backward)
        marks.append(alive.begin_phase())
        torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=True)
        optimizer.step()
    forward, backward_peak = marks
    frozen = sum(tensor.nbytes for tensor in step.parameters if not tensor.requires_grad)
    return Phases(forward, backward_peak, alive.peak, frozen)


def _step_of(setting: Setting, mode: FakeTensorMode) -> NumberlessStep:
    """A step over a U-Net whose weights have shapes and no numbers."""
    with torch.device("meta"):
        net = UNet2DConditionModel(**setting.unet)
    endings = tuple(ending for kind in setting.trained for ending in ENDINGS[kind])
    frozen = torch.bfloat16 if setting.is_half else torch.float32
    pretend = make_numberless(net, mode, setting, endings, frozen)
    base: Any = HalfBase(net, "cpu")  # a step asks a base for no more
    base.dtype = frozen
    side = setting.side or setting.unet["sample_size"]
    return numberless_step(base, pretend, (4, side, side), PARTS[setting.part], setting.batch)


def make_numberless(
    net: Any, mode: FakeTensorMode, setting: Any, endings: tuple[str, ...], frozen: torch.dtype
) -> Callable[..., Tensor]:
    """Give a network on the meta device a LoRA in fp32, and weights in a format that have shapes and no numbers.

    Args:
        net: a denoiser.
        mode: in which tensors have no numbers.
        setting: its rank, is_checkpointed and precision count.
        endings: of the names of layers that get a LoRA.
        frozen: the format of all other weights; in half precision norms compute in fp32.

    Returns:
        What makes such a tensor in the shape of another.
    """
    adapter.attach(net, setting.rank, float(setting.rank), endings, 0)
    if setting.is_checkpointed:
        net.enable_gradient_checkpointing()

    def pretend(tensor: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        with mode:
            return torch.empty(tensor.shape, dtype=dtype)

    for module in net.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_trained = parameter.requires_grad
            stand_in = pretend(parameter, torch.float32 if is_trained else frozen)
            module.register_parameter(name, nn.Parameter(stand_in, requires_grad=is_trained))
        if isinstance(module, nn.GroupNorm | nn.LayerNorm) and frozen != torch.float32:
            setattr(module, "forward", _norm_in_fp32(module))  # noqa: B010  # that it may be replaced is not typed
    if setting.precision != "full":
        # The first one makes the library's table, which must have numbers.
        PackedLinear(nn.Linear(64, 64), torch.device("cpu"), setting.precision)
        with mode:
            pack(net, torch.device("cpu"), setting.precision)
    return pretend


def numberless_step(
    base: Any, pretend: Callable[..., Tensor], shape: tuple[int, int, int], part: dict[str, Any], batch: int
) -> NumberlessStep:
    """A step with one photo, whose latents (C, h, w) have no numbers either."""
    latents, mask = torch.empty(shape, device="meta"), torch.empty(shape[1:], device="meta")
    view = View(pretend(latents), pretend(latents), pretend(mask))
    config = TrainingConfig.from_dict(
        {"subject": "backpack", "stabilization_lambda": 1, "alignment_lambda": 1, "batch_size": batch, **part}
    )
    return NumberlessStep(config, base, LatentSource([view], lambda _photo, _generator: view))


def _norm_in_fp32(norm: nn.GroupNorm | nn.LayerNorm) -> Callable[[Tensor], Tensor]:
    """As CUDA's autocast calls it."""

    def forward(inputs: Tensor) -> Tensor:
        own = dict(norm.named_parameters())  # none where it has none
        weight, bias = (own[name].float() if name in own else None for name in ("weight", "bias"))
        if isinstance(norm, nn.GroupNorm):
            return F.group_norm(inputs.float(), norm.num_groups, weight, bias, norm.eps)
        return F.layer_norm(inputs.float(), list(norm.normalized_shape), weight, bias, norm.eps)

    return forward


def _print_plan() -> None:
    print("| setting | told MB | counted MB | told / counted |")
    print("| --- | ---: | ---: | ---: |")
    for name, setting in PLANNED.items():
        told, counted = held(setting)
        print(f"| {name} | {told / 1e6:,.0f} | {counted / 1e6:,.0f} | {told / counted:.3f} |", flush=True)


def held(setting: Setting) -> tuple[int, int]:
    """Bytes told before the start, and counted: all that is there at once at the most, in a plain step."""
    with torch.device("meta"):
        net = UNet2DConditionModel(**setting.unet)
    adapter.attach(
        net, setting.rank, float(setting.rank), tuple(e for kind in setting.trained for e in ENDINGS[kind]), 0
    )
    trained = sum(parameter.numel() for parameter in adapter.trainable_parameters(net).values())
    phases = measure(dataclasses.replace(setting, part="plain"))
    resident = phases.frozen + 12 * trained
    side = setting.side or setting.unet["sample_size"]
    training = footprint.Training(
        height=side,
        width=side,
        batch=setting.batch,
        rank=setting.rank,
        feed_forward="feed_forward" in setting.trained,
        convolutions="convolutions" in setting.trained,
        is_half=setting.is_half,
        is_checkpointed=setting.is_checkpointed,
        precision=setting.precision,
    )
    unet = dict(net.config)
    told = footprint.resident_bytes(unet, training) + footprint.step_bytes(unet, training)
    return told, resident + max(phases.forward, phases.backward)


def _print_phases() -> None:
    print("| MB at most, batch 1 | | forward | backward | optimizer |")
    print("| --- | --- | ---: | ---: | ---: |")
    for name, unet in (("SD 1.5, 512 px", SD15), ("SDXL, 1024 px", SDXL)):
        for is_checkpointed in (False, True):
            plain, apt = (
                measure(Setting(unet=unet, part=part, is_checkpointed=is_checkpointed)) for part in ("plain", "APT")
            )
            cells = [
                f"{getattr(apt, phase) / 1e6:,.0f} / {getattr(plain, phase) / 1e6:,.0f} = "
                f"{getattr(apt, phase) / getattr(plain, phase):.3f}"
                for phase in ("forward", "backward", "optimizer")
            ]
            how = "checkpointing" if is_checkpointed else "no checkpointing"
            print(f"| {name} | {how} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="What a step takes of memory, plain against APT.")
    parser.add_argument("--plan", action="store_true", help="what is told before the start against what is counted")
    if parser.parse_args().plan:
        _print_plan()
    else:
        _print_phases()


if __name__ == "__main__":
    main()
