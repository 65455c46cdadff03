"""What a training would take, told before it starts: time from earlier runs here, the rest from what the base is."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from apt_engine.config import TrainingConfig
from apt_engine.errors import EngineError
from apt_engine.events import StepFinished
from apt_engine.hub import is_downloaded, is_hub_id
from apt_engine.presets import load_presets, profile_of
from apt_engine.runs import KEPT_OPTIMIZER_STATES, RunStore

RUNS_LOOKED_AT = 8
POCKET_SECONDS_PER_STEP = 0.3  # on two cores, batch 4


@dataclass(frozen=True)
class Needs:
    """Of a family of base models: bytes of memory to train, of the download, and of one LoRA of rank 16 in fp32."""

    memory: int
    download: int
    lora: int


# Pocket: measured. The others: half-precision weights, LoRA and activations at the profile's size; sizes of the files.
NEEDS = {
    "base-pocket": Needs(memory=700_000_000, download=0, lora=3_400_000),
    "base-sd15": Needs(memory=6_000_000_000, download=4_300_000_000, lora=12_800_000),
    "base-sd2": Needs(memory=7_000_000_000, download=5_200_000_000, lora=13_400_000),
    "base-sdxl": Needs(memory=12_000_000_000, download=13_900_000_000, lora=93_000_000),
}


@dataclass(frozen=True)
class Estimate:
    """Seconds (None where nothing like it ran here yet), bytes of memory and disk, bytes still to be downloaded."""

    seconds: float | None
    memory: int
    disk: int
    download: int


def estimate(config: TrainingConfig, photo_count: int, store: RunStore) -> Estimate:
    """What training so many photos with these settings would take."""
    profile = profile_of(config.base, load_presets())
    needs = NEEDS[profile.key]
    steps = config.steps_for(photo_count)
    pace = _pace(config, store)
    if pace is None and profile.key == "base-pocket":
        pace = POCKET_SECONDS_PER_STEP * config.batch_size / 4
    lora = needs.lora * config.rank // 16 * (2 if config.feed_forward else 1)
    disk = lora * (2 + steps // config.save_every_steps + 2 * KEPT_OPTIMIZER_STATES)
    is_here = not is_hub_id(config.base) or is_downloaded(config.base)
    return Estimate(steps * pace if pace else None, needs.memory, disk, 0 if is_here else needs.download)


def _pace(config: TrainingConfig, store: RunStore) -> float | None:
    """Seconds a step, the median of the newest run of the same base, size and batch."""
    for seconds in _paces(config, store):
        return seconds
    return None


def _paces(config: TrainingConfig, store: RunStore) -> Iterator[float]:
    for run in store.list()[:RUNS_LOOKED_AT]:
        try:
            earlier = run.config
        except EngineError:
            continue
        alike = ("base", "resolution", "batch_size", "needs_reference", "gradient_checkpointing")
        if any(getattr(earlier, name) != getattr(config, name) for name in alike):
            continue
        seconds = [event.seconds for event in run.events()[0] if isinstance(event, StepFinished)]
        if len(seconds) >= 5:
            yield statistics.median(seconds)
