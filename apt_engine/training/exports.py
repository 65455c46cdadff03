"""LoRA files for other programs, each read back in place of the trained LoRA and held against what that draws.

All of it happens on the one base model in memory: a fresh one to check each file cost its whole size again, at the very end
of a training that had just fitted.
"""

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import numpy
from PIL import Image

from apt_engine.bases.base import BaseModel
from apt_engine.bases.registry import load_base
from apt_engine.errors import LoraError
from apt_engine.lora import adapter, files, kohya
from apt_engine.runs.events import ExportReady
from apt_engine.runs.run import Checkpoint, Run
from apt_engine.sampling.sampler import Picture, Sampler
from apt_engine.settings.training import TrainingConfig

MEAN_TOLERANCE = 0.01  # of the pixel range; rounding a LoRA to fp16 moves a picture by less
CHECK_STEPS = 8
CHECK_SIDE = (
    256  # px at most: enough to tell two LoRAs apart, and the VAE takes 0.2 GB for it instead of 3 GB at 1024 px
)


def export_and_verify(run: Run, base: BaseModel, step: int, folder: Path | None = None) -> Iterator[ExportReady]:
    """Write the LoRA attached to `base` in each layout that has names for it, and prove that the files hold it.

    Args:
        folder: where to write; the run's own `exports` unless given.

    Raises:
        LoraError: a reloaded file misses a key or draws another picture. The trained LoRA is attached again, to the bit.
        DiskError: the files cannot be written.
    """
    config = run.config
    folder = folder or run.path / "exports"
    expected = _check_picture(base, config)
    for layout, path in _write(base, config, step, folder):
        with adapter.set_aside(base.denoiser):
            keys = files.load_exported(base, path)
            difference = numpy.abs(_check_picture(base, config) - expected)
        if difference.mean() > MEAN_TOLERANCE:
            raise LoraError(
                f"The exported file {path.name} draws another picture than the trained model (they differ by "
                f"{difference.mean():.3f} on average); please report this, the checkpoint itself is kept."
            )
        shown = path.relative_to(run.path).as_posix() if path.is_relative_to(run.path) else str(path)
        yield ExportReady(step=step, layout=layout, path=shown, keys=keys, difference=float(difference.max()))


def export_checkpoint(run: Run, checkpoint: Checkpoint, folder: Path | None = None) -> Iterator[ExportReady]:
    """Export one checkpoint of a run that does not train now.

    Raises:
        EngineError: as `export_and_verify`, or the base model cannot be loaded.
    """
    config = run.config
    base = load_base(config.base, device=config.device, dtype=config.dtype, attention=config.attention)
    files.load(base, checkpoint.lora_path)
    yield from export_and_verify(run, base, checkpoint.step, folder)


def _write(base: BaseModel, config: TrainingConfig, step: int, folder: Path) -> list[tuple[str, Path]]:
    name = f"{re.sub(r'[^a-z0-9]+', '_', config.phrase.lower()).strip('_') or 'subject'}-{step:06d}"
    written: list[tuple[str, Path]] = []
    if base.lora.kohya:
        about = kohya.ExportInfo(name=name, resolution=config.resolution, trigger_phrase=config.phrase)
        written.append(("kohya", folder / f"{name}.safetensors"))
        files.export_kohya(base, written[-1][1], about)
    written.append(("diffusers", folder / f"{name}-diffusers.safetensors"))
    files.export_diffusers(base, written[-1][1])
    return written


def _check_picture(base: BaseModel, config: TrainingConfig) -> numpy.ndarray:
    """One fixed picture as numbers in [0, 1]."""
    side = min(config.resolution, CHECK_SIDE)
    usual = Picture.of(config, config.fill(config.caption), config.seed)
    picture = dataclasses.replace(usual, steps=CHECK_STEPS, width=side, height=side)
    image: Image.Image = next(Sampler(base).generate([picture]))
    return numpy.asarray(image, dtype=numpy.float32) / 255
