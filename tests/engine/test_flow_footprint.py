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
from benchmarks.flow_memory import Setting, config_of, counted
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
    [{}, {"is_checkpointed": True, "batch": 2}, {"feed_forward": True, "rank": 64}],
    ids=str,
)
def test_a_step_takes_what_was_told(kind: Any, shapes: dict[str, Any], options: dict[str, Any]) -> None:
    """Weights left out; at real size see `benchmarks.flow_memory`."""
    setting = Setting(kind=kind, shapes=shapes, side=16, **options)
    told = flow_footprint.step_bytes(config_of(setting), setting.training)
    assert told == pytest.approx(counted(setting), rel=0.15)


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
