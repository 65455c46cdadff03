"""What a step takes on a flow transformer: `python -m benchmarks.flow_memory`.

Memory told from shapes against counted; with `--cost`, FLOPs and peak of each part of APT over plain.

Counted as in `benchmarks.memory`: every storage that torch makes, from when it is made until it is gone, in the formats of a GPU
in half precision, of weights that have shapes and no numbers.
"""

import argparse
import gc
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import Flux2Transformer2DModel, ZImageTransformer2DModel
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from apt_engine.bases import flow_footprint
from apt_engine.bases.footprint import Training
from apt_engine.lora import adapter
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.latents import LatentSource, View
from benchmarks.flow_shapes import KLEIN, Z_IMAGE
from benchmarks.flow_step import bare_base, numberless
from benchmarks.memory import Alive
from benchmarks.step_cost import PARTS, NumberlessStep


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is measured; `side` in tokens."""

    kind: Any
    shapes: dict[str, Any]
    side: int
    part: str = "plain"
    batch: int = 1
    rank: int = 16
    feed_forward: bool = False
    is_checkpointed: bool = False

    @property
    def training(self) -> Training:
        """The same for the one who tells."""
        return Training(
            height=2 * self.side,
            width=2 * self.side,
            batch=self.batch,
            rank=self.rank,
            feed_forward=self.feed_forward,
            is_checkpointed=self.is_checkpointed,
        )


MODELS = {"klein 4B": (Flux2Transformer2DModel, KLEIN), "Z-Image": (ZImageTransformer2DModel, Z_IMAGE)}
LARGE: dict[str, Any] = {"side": 32, "rank": 64, "feed_forward": True, "batch": 2, "is_checkpointed": True}
SIZES: dict[str, dict[str, Any]] = {
    "512 px": {"side": 32},
    "1024 px, checkpointing": {"side": 64, "is_checkpointed": True},
    "512 px, rank 64, feed-forward, batch 2, checkpointing": LARGE,
}
REAL = {
    f"{name}, {size}": Setting(kind=kind, shapes=shapes, **values)
    for name, (kind, shapes) in MODELS.items()
    for size, values in SIZES.items()
}


def config_of(setting: Setting) -> dict[str, Any]:
    """The config of its transformer, as a folder has it."""
    with torch.device("meta"):
        return {**setting.kind(**setting.shapes).config, "_class_name": setting.kind.__name__}


def counted(setting: Setting) -> int:
    """Bytes at the most during forward and backward, weights, LoRA and AdamW's moments left out."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    step = _step_of(setting, mode)
    gc.collect()
    with Alive(list(step.parameters)) as alive:
        step(1, Tensor.backward)
    return alive.peak


def _step_of(setting: Setting, mode: FakeTensorMode) -> NumberlessStep:
    with torch.device("meta"):
        net = setting.kind(**setting.shapes)
    endings = bare_base(net).lora
    adapter.attach(
        net,
        setting.rank,
        float(setting.rank),
        endings.attention + (endings.feed_forward if setting.feed_forward else ()),
        0,
    )
    if setting.is_checkpointed:
        net.enable_gradient_checkpointing()

    def pretend(tensor: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        with mode:
            return torch.empty(tensor.shape, dtype=dtype)

    for module in net.modules():
        for name, parameter in module.named_parameters(recurse=False):
            is_trained = parameter.requires_grad
            stand_in = pretend(parameter, torch.float32 if is_trained else torch.bfloat16)
            module.register_parameter(name, nn.Parameter(stand_in, requires_grad=is_trained))
        if isinstance(module, nn.LayerNorm):
            setattr(module, "forward", _norm_in_fp32(module))  # noqa: B010
    base: Any = numberless(net, torch.bfloat16)
    side = setting.side
    channels = 128 if setting.kind is Flux2Transformer2DModel else 64
    if setting.shapes.get("in_channels"):
        channels = setting.shapes["in_channels"] * (1 if setting.kind is Flux2Transformer2DModel else 4)
    latents, mask = torch.empty(channels, side, side, device="meta"), torch.empty(side, side, device="meta")
    view = View(pretend(latents), pretend(latents), pretend(mask))
    config = TrainingConfig.from_dict(
        {
            "subject": "backpack",
            "stabilization_lambda": 1,
            "alignment_lambda": 1,
            "batch_size": setting.batch,
            **PARTS[setting.part],
        }
    )
    return NumberlessStep(config, base, LatentSource([view], lambda _photo, _generator: view))


def _norm_in_fp32(norm: nn.LayerNorm) -> Any:
    """As CUDA's autocast calls it."""
    return lambda inputs: F.layer_norm(inputs.float(), list(norm.normalized_shape), None, None, norm.eps)


def flops(setting: Setting) -> int:
    """FLOPs of one step, both passes and backward; matrix products alone are counted."""
    step = _step_of(setting, FakeTensorMode(allow_non_fake_inputs=True))
    with FlopCounterMode(display=False) as counter:
        step(1, Tensor.backward)
    return counter.get_total_flops()


def _print_cost() -> None:
    print("| over a plain step | " + " | ".join(PARTS) + " |\n| --- |" + " ---: |" * len(PARTS))
    for name, kind, shapes in (
        ("klein 4B", Flux2Transformer2DModel, KLEIN),
        ("Z-Image", ZImageTransformer2DModel, Z_IMAGE),
    ):
        for is_checkpointed in (False, True):
            settings = [
                Setting(kind=kind, shapes=shapes, side=64, part=part, is_checkpointed=is_checkpointed) for part in PARTS
            ]
            how = f"{name}, 1024 px, {'with' if is_checkpointed else 'no'} checkpointing"
            numbers = list(map(flops, settings))
            print(
                f"| FLOPs, {how} | " + " | ".join(f"{number / numbers[0]:.3f}" for number in numbers) + " |", flush=True
            )
            peaks = list(map(counted, settings))
            print(f"| peak, {how} | " + " | ".join(f"{peak / peaks[0]:.3f}" for peak in peaks) + " |", flush=True)
            print(
                f"| MB over plain, {how} | " + " | ".join(f"{(peak - peaks[0]) / 1e6:.0f}" for peak in peaks) + " |",
                flush=True,
            )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description="What a step takes on a flow transformer.")
    parser.add_argument("--cost", action="store_true", help="each part of APT over plain")
    if parser.parse_args().cost:
        _print_cost()
    else:
        _print_plan()


def _print_plan() -> None:
    print("| setting | told MB | counted MB | told / counted |")
    print("| --- | ---: | ---: | ---: |")
    for name, setting in REAL.items():
        config = config_of(setting)
        resident = flow_footprint.resident_bytes(config, setting.training)
        told = resident + flow_footprint.step_bytes(config, setting.training)
        found = resident + counted(setting)
        print(f"| {name} | {told / 1e6:,.0f} | {found / 1e6:,.0f} | {told / found:.3f} |", flush=True)


if __name__ == "__main__":
    main()
