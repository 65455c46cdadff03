"""What is told of a flow transformer's memory: numbers exactly, a step's bytes within 15 percent of what torch makes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import Flux2Transformer2DModel, ZImageTransformer2DModel

from apt_engine.bases import flow_footprint
from apt_engine.bases.checkpoints import ASSETS
from apt_engine.bases.footprint import Training
from apt_engine.bases.profiles import build_config
from apt_engine.jobs.estimate import estimate, memory_of
from apt_engine.jobs.plan import plan
from apt_engine.lora import adapter
from apt_engine.runs.store import RunStore
from apt_engine.settings.presets import load_presets
from benchmarks.flow_memory import Setting, config_of, counted, flops
from benchmarks.flow_step import bare_base

KLEIN: dict[str, Any] = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 4,
    "attention_head_dim": 128,
    "num_attention_heads": 4,
    "joint_attention_dim": 96,
    "guidance_embeds": False,
}
Z_IMAGE: dict[str, Any] = {
    "in_channels": 4,
    "dim": 512,
    "n_layers": 5,
    "n_refiner_layers": 1,
    "n_heads": 4,
    "n_kv_heads": 4,
    "cap_feat_dim": 64,
    "axes_dims": [32, 48, 48],
}
KINDS = pytest.mark.parametrize(
    ("kind", "shapes"),
    [(Flux2Transformer2DModel, KLEIN), (ZImageTransformer2DModel, Z_IMAGE)],
    ids=("klein", "z-image"),
)
IDS = {"klein": "black-forest-labs/FLUX.2-klein-base-4B", "z-image": "Tongyi-MAI/Z-Image"}


def read(part: str) -> dict[str, Any]:
    return json.loads((ASSETS / part / "config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("family", "numbers"), [("klein", 3_875_544_576), ("z-image", 6_154_908_736)])
def test_weights_are_counted_to_the_last(family: str, numbers: int) -> None:
    config = read(f"{family}/transformer")
    kind = Flux2Transformer2DModel if family == "klein" else ZImageTransformer2DModel
    with torch.device("meta"):
        transformer = kind.from_config(config)
    assert sum(parameter.numel() for parameter in transformer.parameters()) == numbers
    assert flow_footprint.weight_numbers(config) == numbers
    assert flow_footprint.text_numbers(read(f"{family}/text_encoder")) == 4_022_468_096  # Qwen3-4B


@KINDS
@pytest.mark.parametrize("feed_forward", [False, True])
def test_a_lora_is_counted_to_the_last(kind: Any, shapes: dict[str, Any], feed_forward: bool) -> None:
    with torch.device("meta"):
        transformer = kind(**shapes)
    lora = bare_base(transformer).lora
    adapter.attach(transformer, 4, 4.0, lora.attention + (lora.feed_forward if feed_forward else ()), 0)
    own = sum(parameter.numel() for parameter in adapter.trainable_parameters(transformer).values())
    config = config_of(Setting(kind=kind, shapes=shapes, side=8))
    assert own == flow_footprint.lora_numbers(config, Training(height=16, width=16, rank=4, feed_forward=feed_forward))


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of a stand-in for a tensor
@KINDS
@pytest.mark.parametrize(
    "options",
    [{}, {"is_checkpointed": True, "batch": 2}, {"feed_forward": True, "rank": 64}, {"precision": "4bit"}],
    ids=str,
)
def test_a_step_takes_what_was_told(kind: Any, shapes: dict[str, Any], options: dict[str, Any]) -> None:
    """Weights left out; at real size see `benchmarks.flow_memory`."""
    setting = Setting(kind=kind, shapes=shapes, side=16, **options)
    told = flow_footprint.step_bytes(config_of(setting), setting.training)
    assert told == pytest.approx(counted(setting), rel=0.15)


@pytest.mark.parametrize("family", IDS)
def test_packed_weights_take_fewer_bytes_and_a_smaller_card(family: str) -> None:
    """At 4 bits nine in ten weights take 4.5 bits instead of 16; the language model, at work alone, is then the largest."""
    config = build_config(load_presets(), (), {"subject": "car", "base": IDS[family], "device": "cuda"})
    denoiser = read(f"{family}/transformer")
    whole, half, quarter = (
        flow_footprint.resident_bytes(denoiser, Training(height=128, width=128, precision=precision))
        for precision in ("full", "8bit", "4bit")
    )
    weights = 2 * flow_footprint.weight_numbers(denoiser)
    assert whole - half == pytest.approx(weights * (1 - 8.125 / 16), rel=0.06)
    assert whole - quarter == pytest.approx(weights * (1 - 4.5 / 16), rel=0.06)
    assert (memory_of(config.replace(base_precision="4bit")) or 0) < 10_000_000_000


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # of a stand-in for a tensor
@KINDS
@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_the_products_of_a_step_are_told(kind: Any, shapes: dict[str, Any], is_checkpointed: bool) -> None:
    """All but those of the LoRA, of the ends, and of what is told of the noise level."""
    setting = Setting(kind=kind, shapes=shapes, side=16, part="ATA", is_checkpointed=is_checkpointed)
    told = flow_footprint.step_flops(config_of(setting), setting.training, has_reference=True)
    assert told == pytest.approx(flops(setting), rel=0.08)


@pytest.mark.parametrize(("family", "tera"), [("klein", 148.9), ("z-image", 233.0)])
def test_without_a_gpu_the_time_follows_the_products(
    family: str, tera: float, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its own profile: 1024 px, checkpointing, the reference pass; six seconds for 3.1 TFLOP on two cores."""
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    config = build_config(load_presets(), (), {"subject": "car", "base": IDS[family], "device": "cpu", "steps": 10})
    needs = estimate(config, 5, RunStore(data_dir))
    assert needs.is_slow
    assert needs.seconds == pytest.approx(10 * 6 * tera / 3.1 / 2, rel=0.01)


@pytest.mark.parametrize("family", IDS)
def test_a_base_not_yet_here_is_planned_by_the_shapes_of_its_family(family: str, data_dir: Path) -> None:
    config = build_config(load_presets(), (), {"subject": "car", "base": IDS[family], "device": "cuda"})
    assert (config.resolution, config.rank, config.indicator) == (1024, 16, "relative")
    assert config.gradient_checkpointing
    memory = memory_of(config)
    assert memory is not None
    weights = 2 * flow_footprint.weight_numbers(read(f"{family}/transformer"))
    assert memory > max(weights, 8_000_000_000)  # the language model is there alone
    assert estimate(config, 5, RunStore(data_dir)).memory == memory
    assert (memory_of(config.replace(device="cpu")) or 0) > memory + 7_000_000_000  # there it stays
    fits = {fit.card: fit.config for fit in plan(config)}
    assert fits[8] is None
    assert fits[24] == config
    assert fits[12] is not None or family == "z-image"
