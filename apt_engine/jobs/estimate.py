"""What a training would take, told before it starts: time from earlier runs here, the rest from what the base is."""

import contextlib
import os
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import psutil  # comes with accelerate

from apt_engine.bases import flow_footprint, footprint
from apt_engine.bases.hub import is_downloaded
from apt_engine.bases.profiles import denoiser_config, needs_of, text_configs
from apt_engine.errors import EngineError
from apt_engine.runs.history import RunSummary, summarize
from apt_engine.runs.run import KEPT_OPTIMIZER_STATES
from apt_engine.runs.store import RunStore
from apt_engine.runs.verdict import passes
from apt_engine.settings.ending import first_end, is_checked
from apt_engine.settings.presets import is_hub_id, load_presets
from apt_engine.settings.training import TrainingConfig

T = TypeVar("T")
RUNS_LOOKED_AT = 8
STEPS_NEEDED = 5  # to tell a pace
HALF = ("bf16", "fp16")
LATENT_CELL = 8  # pixels a side, of all families
LARGEST_WHOLE = 1024 * 1024  # pixels that go through the VAE at once
TILE = 512 * 512  # pixels of what goes through where not even that fits
VAE_NUMBERS = 83_653_863  # of every Stable Diffusion, in fp32; klein's and Z-Image's have 84 million
VAE_BYTES_PER_PIXEL = 3 * 256 * 4  # measured: three times the widest layer of its last block
POCKET_SECONDS_PER_STEP = 0.23  # on one core, batch 4, samples in between
# Without a GPU: a step of Stable Diffusion 1.5 at 512 px, batch 1, all parts of APT, on two cores (benchmarks.single_file).
CPU_SECONDS, CPU_NUMBERS, CPU_PIXELS, CPU_CORES = 6.0, 860e6, 512**2, 2
CPU_FLOPS = 3.1e12  # of that step's matrix products, with gradient checkpointing (benchmarks.step_cost)
GPU_TOOLS = ("nvidia-smi", "rocm-smi", "xpu-smi")


@dataclass(frozen=True)
class Estimate:
    """Seconds (None where nothing like it ran here yet), bytes of memory and disk, bytes still to be downloaded.

    None for bytes of a base model of which nothing is known. `is_slow` where the seconds are those without a GPU, reckoned from
    another computer's.
    """

    seconds: float | None
    memory: int | None
    disk: int | None
    download: int | None
    is_slow: bool = False


def estimate(config: TrainingConfig, photo_count: int, store: RunStore) -> Estimate:
    """What training so many photos with these settings would take."""
    steps = config.steps_for(photo_count)
    pace = _pace(config, store)
    if pace is None and config.base == "pocket":
        pace = POCKET_SECONDS_PER_STEP * config.batch_size * config.accumulate / 4
    seconds = steps * pace if pace else None
    is_here = not is_hub_id(config.base) or is_downloaded(config.base)
    needs = needs_of(config.base, load_presets())
    if needs is None:
        return Estimate(seconds, memory=None, disk=None, download=0 if is_here else None)
    is_slow = pace is None and (config.device == "cpu" or not has_gpu())
    slowly = _where_sound(_pace_without_gpu, config) if is_slow else None
    seconds = steps * slowly if slowly else seconds
    attention, feed_forward, convolutions = needs.lora
    at_rank_16 = attention + feed_forward * config.feed_forward + convolutions * config.convolutions
    disk = at_rank_16 * config.rank // 16 * (1 + config.checkpoints_in(steps) + 2 * KEPT_OPTIMIZER_STATES)
    return Estimate(
        seconds,
        _where_sound(memory_of, config) or needs.memory,
        disk,
        0 if is_here else needs.download,
        slowly is not None,
    )


def has_gpu() -> bool:
    """Whether this computer seems to have one that torch can use; told without torch, by what its driver brings along."""
    is_apple = platform.system() == "Darwin" and platform.machine() == "arm64"
    return is_apple or any(map(shutil.which, GPU_TOOLS))


def _pace_without_gpu(config: TrainingConfig) -> float | None:
    """Seconds a step, reckoned from the size of the model and the picture; None where the shapes are not known."""
    denoiser = denoiser_config(config.base, load_presets())
    if not denoiser or config.base == "pocket":
        return None
    if flow_footprint.is_flow(denoiser):
        training = _training(config)
        work = flow_footprint.step_flops(denoiser, training, has_reference=config.needs_reference) / CPU_FLOPS
    else:
        numbers = footprint.weight_numbers(denoiser) / CPU_NUMBERS
        work = numbers * config.resolution**2 / CPU_PIXELS * config.batch_size
    return CPU_SECONDS * work * config.accumulate * CPU_CORES / (os.cpu_count() or 1)


def verdict_seconds(summary: RunSummary, checkpoints: int) -> float | None:
    """What judging so many checkpoints of a run would take, by the pace of its steps; None where there was no step yet.

    A step asks the model once a photo, once more where the untrained one is asked too, and backward takes as long as two.
    """
    config, pace = summary.run.config, summary.seconds_per_step
    if not pace:
        return None
    a_step = config.batch_size * config.accumulate * (3 + config.needs_reference)
    return pace / a_step * passes(checkpoints, config.sample_steps, len(summary.run.photo_paths))


def plain_seconds(summary: RunSummary) -> float | None:
    """What training plain DreamBooth beside a run would take; None where there was no step yet."""
    config, pace = summary.run.config, summary.seconds_per_step
    if not pace:
        return None
    steps = config.steps_for(len(summary.run.photo_paths))
    return pace * steps * 3 / (3 + config.needs_reference)  # backward takes as long as two passes


def facts(config: TrainingConfig, photo_count: int, store: RunStore) -> list[tuple[str, str, str]]:
    """What a person is told of a training before it starts; each as words, a number with its unit, and words."""
    needs = estimate(config, photo_count, store)
    folder = store.data_dir
    free = shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free
    slowly = "without a GPU" if needs.is_slow else ""
    of_all = f"of {size(psutil.virtual_memory().total)}" if config.base == "pocket" else ""
    return [
        ("", f"{photo_count}", "photo" if photo_count == 1 else "photos"),
        _steps(config, photo_count),
        ("", f"{config.resolution}", "px"),
        *([("about", duration(needs.seconds), slowly)] if needs.seconds and photo_count else []),
        ("memory", _size_or_word(needs.memory), of_all),
        ("disk", _size_or_word(needs.disk), f"of {size(free)} free"),
        ("download", _size_or_word(needs.download), ", once" if needs.download else ""),
    ]


def _steps(config: TrainingConfig, photo_count: int) -> tuple[str, str, str]:
    """How many steps, and whether it may end before the last of them."""
    steps = config.steps_for(photo_count)
    if not is_checked(config):
        return "all", f"{steps:,}", "steps"
    if photo_count == 1:
        return "all", f"{steps:,}", "steps: one photo is too few to tell when to stop"
    if steps <= first_end(photo_count):
        return "all", f"{steps:,}", "steps: too few to tell when to stop"
    return "stops by itself, at most", f"{steps:,}", "steps"


def sentence(config: TrainingConfig, photo_count: int, store: RunStore) -> str:
    """The same for a terminal: 5 photos, at most 500 steps, 64 px, about 3 min ..."""
    parts = (" ".join(filter(None, fact)).replace(" ,", ",") for fact in facts(config, photo_count, store))
    return f"{', '.join(parts)}."


def duration(seconds: float) -> str:
    """Seconds as a person says them: 40 s, 3 min, 2.5 h."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def size(count: float) -> str:
    """Bytes as a person says them: 12 MB, 1.1 GB."""
    return f"{count / 1e9:.1f} GB" if count >= 950e6 else f"{max(1, round(count / 1e6))} MB"


def _size_or_word(count: int | None) -> str:
    return "not known" if count is None else size(count) if count else "none"


def _where_sound(told: Callable[[TrainingConfig], T | None], config: TrainingConfig) -> T | None:
    """What is told of a base model; None where its own config lacks what it must say."""
    with contextlib.suppress(LookupError, TypeError, ValueError, StopIteration):
        return told(config)
    return None


def memory_of(config: TrainingConfig, *, largest_whole: int = LARGEST_WHOLE) -> int | None:
    """The most of what a step, a picture drawn in between, and prompts being encoded take. None where shapes do not tell.

    Text encoders and VAE are on a GPU for their own work alone; elsewhere they stay.

    Args:
        config: of a training.
        largest_whole: pixels that go through the VAE at once; larger pictures go in tiles.
    """
    denoiser = denoiser_config(config.base, load_presets())
    if not denoiser or config.base == "pocket":  # whose libraries take more than the model
        return None
    training = _training(config)
    shapes = _shapes(denoiser)
    resident = shapes.resident_bytes(denoiser, training)
    pixels = min(config.resolution**2, largest_whole)
    vae, picture = footprint.FP32 * VAE_NUMBERS, VAE_BYTES_PER_PIXEL * pixels
    text = training.bytes * sum(map(shapes.text_numbers, text_configs(config.base, load_presets())))
    step = shapes.step_bytes(denoiser, training)
    if config.device in ("cpu", "mps"):
        return resident + text + vae + max(step, picture)
    if flow_footprint.is_flow(denoiser):  # which goes out for a language model that does not fit beside it
        return max(resident + max(step, vae + picture), text)
    return resident + max(step, vae + picture, text)


def _training(config: TrainingConfig) -> footprint.Training:
    """What of a training counts for memory and time."""
    is_auto = config.dtype == "auto" and config.device not in ("cpu", "mps")
    side = -(-config.resolution // LATENT_CELL)
    return footprint.Training(
        height=side,
        width=side,
        batch=config.batch_size,
        rank=config.rank,
        feed_forward=config.feed_forward,
        convolutions=config.convolutions,
        is_half=is_auto or config.dtype in HALF,
        is_plain=config.attention == "plain",
        is_checkpointed=config.gradient_checkpointing,
        precision=config.base_precision,
    )


def _shapes(denoiser: footprint.Config) -> Any:
    """The module that knows such a denoiser."""
    return flow_footprint if flow_footprint.is_flow(denoiser) else footprint


def _pace(config: TrainingConfig, store: RunStore) -> float | None:
    """Seconds a step, the median of the last steps of the newest run of the same base, size and batch."""
    for run in store.list()[:RUNS_LOOKED_AT]:
        try:
            earlier, summary = run.config, summarize(run)
        except EngineError:
            continue
        alike = (
            "base",
            "resolution",
            "batch_size",
            "needs_reference",
            "gradient_checkpointing",
            "convolutions",
            "compile",
        )
        if any(getattr(earlier, name) != getattr(config, name) for name in alike):
            continue
        pace = summary.seconds_per_step
        if pace and len(summary.recent_seconds) >= STEPS_NEEDED:
            return pace * config.accumulate / earlier.accumulate
    return None
