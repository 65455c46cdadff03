"""What checks and drift cost beside the training they watch: `python -m benchmarks.check_cost`.

    passes     forward passes of a run with the default settings, by the number of photos; a backward pass counts as two
    FLOPs      the same at the shapes of SD 1.5 (512 px): torch's FlopCounterMode on the meta device, where the backward pass of a
               LoRA costs what it costs; encoding the new views included
    seconds    CPU time on the pocket model as its profile trains: steps, a check and a drift in turn, medians

Only what training needs by itself is the divisor: no samples, no files.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from apt_engine.apt.split import SHOT_PHASES, VIEWS_OF
from apt_engine.bases.profiles import build_config
from apt_engine.photos.photo_set import photos_in, read_photos
from apt_engine.runs.store import RunStore
from apt_engine.settings.presets import load_presets
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.checks import cells_of
from apt_engine.training.drift import DRAWING_STEPS
from apt_engine.training.preparation import Prepared, load, prepare
from apt_engine.training.update import take_step
from benchmarks.likeness import ROOT
from benchmarks.parts import OFF
from benchmarks.step_cost import SD15, NumberlessStep, build_step

SD15_VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
}
PHOTOS = (2, 3, 5, 10, 15)
SUBJECT = ROOT / "assets" / "examples" / "teddy_bear"


def passes(config: TrainingConfig, photos: int) -> tuple[int, int]:
    """Forward passes of all checks, and of all drifts, of a run; that of the untrained model once a cell and prompt."""
    steps = config.steps_for(photos)
    views = [(photo, framing) for photo in range(photos) for framing in VIEWS_OF[config.new_views]]
    turns = cells_of(config, photos, views)
    checks = steps // config.check_steps(steps)
    split = sum(len(turns[check % len(turns)]) for check in range(checks)) + len(
        {cell for turn in turns for cell in turn}
    )
    drifts = 1 + steps // config.drift_every_steps
    return split, len(config.drift_prompts) * (DRAWING_STEPS + drifts + 1)


def sd15_flops() -> dict[str, float]:
    """FLOPs of a plain step and of encoding a picture, in forward passes of the U-Net."""
    step = build_step(NumberlessStep, SD15, "plain", device="meta", checkpointing=False)
    whole = _flops(lambda: step(1, Tensor.backward))
    with torch.no_grad():
        forward = _flops(lambda: step(1, lambda _loss: None))
        with torch.device("meta"):
            vae, pixels = AutoencoderKL(**SD15_VAE), torch.zeros(1, 3, 512, 512)
        encoding = _flops(lambda: vae.encode(pixels))
    return {"step": whole / forward, "encoding": encoding / forward}


def pocket_seconds(rounds: int) -> dict[str, float]:
    """Medians of a plain step, a check and a drift, again and again in turn; and the drawing of the drift's pictures."""
    config = build_config(load_presets(), (), {"subject": "teddy bear", "device": "cpu", "dtype": "fp32", **OFF})
    with tempfile.TemporaryDirectory() as folder:
        photos = read_photos(photos_in(SUBJECT))
        run = RunStore(Path(folder)).create(config, lambda place: photos.save(place, config.resolution))
        loaded = _finish(load(config, lambda: False))
        prepared: Prepared = _finish(prepare(run, loaded, None, config.steps_for(len(photos.photos))))
        assert prepared.checks
        taken: dict[str, list[float]] = {"step": [], "check": [], "drift": []}
        drawing = _seconds(lambda: prepared.drift)
        for number in range(1, rounds + 1):
            checks = prepared.checks
            taken["step"].append(_seconds(lambda: take_step(prepared, number)))  # noqa: B023  # called at once
            taken["check"].append(_seconds(lambda: checks.measure(number)))  # noqa: B023
            taken["drift"].append(_seconds(prepared.drift.measure))
    skipped = SHOT_PHASES  # of the first round the untrained model is asked too
    return {name: statistics.median(seconds[skipped:]) for name, seconds in taken.items()} | {"drawing": drawing}


def _flops(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def _seconds(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def _finish(work: Any) -> Any:
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def main() -> None:
    """Print three tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.check_cost", description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="timed rounds on the pocket model (%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config, cost = TrainingConfig(subject="thing"), sd15_flops()
    print(f"SD 1.5: a plain step is {cost['step']:.3f} forward passes, encoding a picture {cost['encoding']:.3f}")
    print("photos | steps | passes: checks, drift, training | share | share in FLOPs | of the sample grid's")
    for photos in PHOTOS:
        steps, (split, drift) = config.steps_for(photos), passes(config, photos)
        both, views = split + drift, photos * len(VIEWS_OF[config.new_views])
        share = (both + views * cost["encoding"]) / (cost["step"] * steps)
        grid = 2 * len(config.sample_prompts) * config.sample_steps * (1 + steps // config.sample_every_steps)
        print(
            f"{photos} | {steps} | {split}, {drift}, {3 * steps} | {both / (3 * steps):.1%} | {share:.1%} | {both / grid:.1%}"
        )
    taken = pocket_seconds(options.rounds)
    steps = config.steps_for(5)
    checks, drifts = steps // config.check_steps(steps), 1 + steps // config.drift_every_steps
    whole = checks * taken["check"] + drifts * taken["drift"] + taken["drawing"]
    print(f"pocket model, {options.rounds} rounds, CPU seconds: " + ", ".join(f"{n} {s:.4f}" for n, s in taken.items()))
    print(f"5 photos, {steps} steps: {whole / (steps * taken['step']):.1%} of plain training")


if __name__ == "__main__":
    main()
