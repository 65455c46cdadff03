"""What is told of memory before the start, held against torch: numbers exactly, a step's bytes within 15 percent."""

import json
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

from apt_engine.bases import footprint
from apt_engine.bases.checkpoints import ASSETS
from apt_engine.jobs.estimate import estimate
from apt_engine.lora import adapter
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig
from benchmarks.memory import ENDINGS, Setting, measure

SMALL: dict[str, Any] = {
    "sample_size": 32,
    "block_out_channels": [64, 128],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
    "transformer_layers_per_block": [1, 3],
    "attention_head_dim": [2, 4],
    "norm_num_groups": 16,
    "cross_attention_dim": 64,
}


def config_of(family: str) -> dict[str, Any]:
    return json.loads((ASSETS / family / "unet" / "config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("family", "numbers"), [("sd15", 859_520_964), ("sd2", 865_910_724), ("sdxl", 2_567_463_684)])
def test_weights_are_counted_to_the_last(family: str, numbers: int) -> None:
    """The numbers are those of the published models."""
    assert footprint.weight_numbers(config_of(family)) == numbers


def test_text_encoders_are_counted_to_the_last() -> None:
    def numbers(part: str) -> int:
        return footprint.text_numbers(json.loads((ASSETS / part / "config.json").read_text(encoding="utf-8")))

    assert numbers("sd15/text_encoder") == numbers("sdxl/text_encoder") == 123_060_480
    assert numbers("sd2/text_encoder") == 340_387_840
    assert numbers("sdxl/text_encoder_2") == 694_659_840


def test_a_lora_is_counted_to_the_last() -> None:
    with torch.device("meta"):
        net = UNet2DConditionModel(**SMALL)
    unet = dict(net.config)
    assert footprint.weight_numbers(unet) == sum(parameter.numel() for parameter in net.parameters())
    adapter.attach(net, 4, 4.0, tuple(ending for kind in ENDINGS.values() for ending in kind), 0)
    own = sum(parameter.numel() for parameter in adapter.trainable_parameters(net).values())
    training = footprint.Training(height=32, width=32, rank=4, feed_forward=True, convolutions=True)
    assert footprint.lora_numbers(unet, training) == own


@pytest.mark.parametrize(
    "options",
    [{}, {"is_half": False}, {"is_checkpointed": True, "batch": 2}, {"batch": 2, "rank": 8, "convolutions": True}],
    ids=str,
)
def test_a_step_takes_what_was_told(options: dict[str, Any]) -> None:
    """Held against every storage that torch makes in a plain step; at real size see `benchmarks.memory`."""
    trained = ("attention", "convolutions") if options.get("convolutions") else ("attention",)
    setting = {name: value for name, value in options.items() if name != "convolutions"}
    phases = measure(Setting(unet=SMALL, part="plain", trained=trained, **setting))
    unet = dict(UNet2DConditionModel(**SMALL).config)
    told = footprint.step_bytes(unet, footprint.Training(height=32, width=32, **options))
    assert told == pytest.approx(max(phases.forward, phases.backward), rel=0.15)


def test_the_estimate_follows_the_settings_that_matter(data_dir: Any) -> None:
    store = RunStore(data_dir)

    def memory(**settings: Any) -> int:
        base = "stabilityai/stable-diffusion-xl-base-1.0"
        config = TrainingConfig(**{"subject": "bear", "base": base, "resolution": 1024, "device": "cuda", **settings})
        return estimate(config, 5, store).memory or 0

    plain = memory()
    assert plain == pytest.approx(13.3e9, rel=0.02)  # 5.1 of weights, 0.3 of LoRA and moments, 7.9 of a step
    # A picture through the VAE counts then.
    assert memory(gradient_checkpointing=True) == pytest.approx(9.0e9, rel=0.02)
    assert memory(batch_size=2) > plain + 7e9
    assert memory(rank=64) > plain
    assert memory(dtype="fp32") > plain + 5e9

    # At 512 px the step of a checkpointed run takes less than the text encoders, which leave a GPU and stay on a CPU.
    small = {"resolution": 512, "gradient_checkpointing": True}
    on_gpu = memory(**small)
    text = 2 * (123_060_480 + 694_659_840)
    unet = config_of("sdxl")
    training = footprint.Training(height=64, width=64, is_checkpointed=True)
    assert on_gpu == footprint.resident_bytes(unet, training) + text
    vae, picture = 4 * 83_653_863, 3 * 256 * 4 * 512**2
    assert memory(**small, device="cpu", dtype="bf16") == on_gpu + vae + max(
        picture, footprint.step_bytes(unet, training)
    )


def test_a_base_whose_config_is_none_has_no_known_memory(data_dir: Any, tmp_path: Any) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "config.json").write_text('{"block_out_channels": [320]}', encoding="utf-8")
    config = TrainingConfig(subject="bear", base=str(tmp_path))
    assert estimate(config, 5, RunStore(data_dir)).memory == 6_000_000_000  # of its family
