"""What a training would take, told before it starts: time from earlier runs here, the rest from what the base is."""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from apt_engine.bases.hub import is_downloaded
from apt_engine.errors import EngineError
from apt_engine.runs.events import StepFinished
from apt_engine.runs.run import KEPT_OPTIMIZER_STATES
from apt_engine.runs.store import RunStore
from apt_engine.settings.presets import is_hub_id, load_presets, profile_of
from apt_engine.settings.training import TrainingConfig

RUNS_LOOKED_AT = 8
POCKET_SECONDS_PER_STEP = 0.23  # on one core, batch 4, samples in between


@dataclass(frozen=True)
class Needs:
    """Of a family of base models, in bytes.

    Attributes:
        memory: to train.
        download: of the base model.
        lora: of a LoRA of rank 16 in fp32: its attention, its feed-forward layers, its convolutions.
    """

    memory: int
    download: int
    lora: tuple[int, int, int]


# Pocket: measured. The others: half-precision weights, LoRA and activations at the profile's size; sizes of the files.
NEEDS = {
    "base-pocket": Needs(700_000_000, 0, (1_200_000, 1_000_000, 2_400_000)),
    "base-sd15": Needs(6_000_000_000, 4_300_000_000, (12_800_000, 11_200_000, 31_300_000)),
    "base-sd2": Needs(7_000_000_000, 5_200_000_000, (13_400_000, 11_200_000, 31_300_000)),
    "base-sdxl": Needs(12_000_000_000, 13_900_000_000, (92_900_000, 74_600_000, 20_900_000)),
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
    attention, feed_forward, convolutions = needs.lora
    at_rank_16 = attention + feed_forward * config.feed_forward + convolutions * config.convolutions
    disk = at_rank_16 * config.rank // 16 * (2 + steps // config.save_every_steps + 2 * KEPT_OPTIMIZER_STATES)
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
        alike = ("base", "resolution", "batch_size", "needs_reference", "gradient_checkpointing", "convolutions")
        if any(getattr(earlier, name) != getattr(config, name) for name in alike):
            continue
        seconds = [event.seconds for event in run.events()[0] if isinstance(event, StepFinished)]
        if len(seconds) >= 5:
            yield statistics.median(seconds)
