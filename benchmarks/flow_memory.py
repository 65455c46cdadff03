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
from diffusers import Flux2Transformer2DModel, ZImageTransformer2DModel
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from apt_engine.bases import flow_footprint
from apt_engine.bases.footprint import Training
from benchmarks.flow_shapes import KLEIN, Z_IMAGE
from benchmarks.flow_step import bare_base, numberless
from benchmarks.memory import Alive, make_numberless, numberless_step
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
    precision: str = "full"

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
            precision=self.precision,
        )


# torch's counter knows the fused attention of GPUs alone.
_ATEN: Any = torch.ops.aten
FUSED: dict[Any, Any] = {
    _ATEN._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),  # noqa: SLF001
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: (  # noqa: SLF001
        lambda *shapes, **_: sdpa_backward_flop_count(*shapes[:4])
    ),
}
MODELS = {"klein 4B": (Flux2Transformer2DModel, KLEIN), "Z-Image": (ZImageTransformer2DModel, Z_IMAGE)}
LARGE: dict[str, Any] = {"side": 32, "rank": 64, "feed_forward": True, "batch": 2, "is_checkpointed": True}
SIZES: dict[str, dict[str, Any]] = {
    "512 px": {"side": 32},
    "1024 px, checkpointing": {"side": 64, "is_checkpointed": True},
    "512 px, rank 64, feed-forward, batch 2, checkpointing": LARGE,
    "1024 px, checkpointing, 8 bits": {"side": 64, "is_checkpointed": True, "precision": "8bit"},
    "1024 px, checkpointing, 4 bits": {"side": 64, "is_checkpointed": True, "precision": "4bit"},
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
    layers = bare_base(net).lora
    endings = layers.attention + (layers.feed_forward if setting.feed_forward else ())
    pretend = make_numberless(net, mode, setting, endings, torch.bfloat16)
    base = numberless(net, torch.bfloat16)
    side = setting.side * base.size_multiple
    return numberless_step(base, pretend, base.latent_shape(side, side), PARTS[setting.part], setting.batch)


def flops(setting: Setting) -> int:
    """FLOPs of one step, both passes and backward; matrix products alone are counted, those inside fused attention too."""
    step = _step_of(setting, FakeTensorMode(allow_non_fake_inputs=True))
    with FlopCounterMode(display=False, custom_mapping=FUSED) as counter:
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
