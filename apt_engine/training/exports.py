"""LoRA files for other programs, each read back in place of the trained LoRA and held against what that draws.

All of it happens on the one base model in memory: a fresh one to check each file cost its whole size again, at the very end
of a training that had just fitted.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy
from PIL import Image

from apt_engine import VERSION
from apt_engine.bases.base import BaseModel
from apt_engine.bases.registry import load_base, load_base_of
from apt_engine.errors import LoraError
from apt_engine.lora import adapter, files
from apt_engine.lora.about import ExportInfo, thumbnail
from apt_engine.lora.card import Card
from apt_engine.lora.card import write as write_card
from apt_engine.lora.merged import export_merged
from apt_engine.runs.events import ExportReady
from apt_engine.runs.history import summarize
from apt_engine.runs.run import Checkpoint, Run
from apt_engine.sampling.sampler import Picture, Sampler
from apt_engine.settings.presets import is_hub_id, load_presets, presets_within
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.memory import release_memory

POCKET = "the pocket model of APT Studio"
MEAN_TOLERANCE = 0.01  # of the pixel range; rounding a LoRA to fp16 moves a picture by less
CHECK_STEPS = 8
CHECK_SIDE = (
    128  # px at most: enough to tell two LoRAs apart, and the VAE takes 0.2 GB for it instead of 3 GB at 1024 px
)


def export_and_verify(
    run: Run,
    base: BaseModel,
    step: int,
    folder: Path | None = None,
    on_step: Callable[[float], None] = lambda fraction: None,
) -> Iterator[ExportReady]:
    """Write the LoRA attached to `base` in each layout that has names for it, prove that the files hold it, and describe them.

    Args:
        run: whose LoRA it is.
        base: with the LoRA.
        step: that it comes from.
        folder: where to write; the run's own `exports` unless given.
        on_step: called between the steps of drawing; what it raises ends the work.

    Raises:
        LoraError: a reloaded file misses a key or draws another picture. The trained LoRA is attached again, to the bit.
        DiskError: the files cannot be written.
    """
    config = run.config
    folder = folder or run.path / "exports"
    picture = _check_picture(base, config, on_step)
    expected = _numbers(picture)
    release_memory()  # the heap would keep what drawing took, and the files come on top
    written = _write(base, _about(run, base, step, picture), folder)
    for layout, path in written.items():
        with adapter.set_aside(base.denoiser):
            keys = files.load_exported(base, path)
            difference = numpy.abs(_numbers(_check_picture(base, config, on_step)) - expected)
        release_memory()
        if difference.mean() > MEAN_TOLERANCE:
            raise LoraError(
                f"The exported file {path.name} draws another picture than the trained model (they differ by "
                f"{difference.mean():.3f} on average); please report this, the checkpoint itself is kept."
            )
        yield _ready(run, step, layout, path, keys, float(difference.max()))
    describe(run, base, step, written)


def export_checkpoint(
    run: Run, checkpoint: Checkpoint, folder: Path | None = None, *, merged: bool = False
) -> Iterator[ExportReady]:
    """Export one checkpoint of a run that does not train now.

    Args:
        run: whose checkpoint it is.
        checkpoint: which.
        folder: where to write; the run's own `exports` unless given.
        merged: whether a whole model with the LoRA inside is written too.

    Raises:
        EngineError: as `export_and_verify`, or the base model cannot be loaded.
    """
    config = run.config
    base = load_base_of(config)
    files.load(base, checkpoint.lora_path)
    yield from export_and_verify(run, base, checkpoint.step, folder)
    if merged:
        about = _about(run, base, checkpoint.step, _check_picture(base, config))
        if config.base_precision != "full":  # the file is to hold the whole weights; the packed ones were for training
            base = load_base(config.base, device="cpu", dtype=config.dtype)
            files.load(base, checkpoint.lora_path)
        path = (folder or run.path / "exports") / f"{about.name}-merged.safetensors"
        yield _ready(run, checkpoint.step, "merged", path, export_merged(base, path, about), 0.0)
        describe(run, base, checkpoint.step, {**_paths(base, about, path.parent), "merged": path})


def describe(run: Run, base: BaseModel, step: int, written: dict[str, Path]) -> Path | None:
    """Put a model card beside exported files, by layout; None where a README.md lies there that is not ours."""
    config, known = run.config, _shared_name(run.config.base)
    card = Card(
        info=_about(run, base, step),
        base=POCKET if known == "pocket" else known or base.lora.architecture,
        hub_id=known if is_hub_id(known) else "",
        caption=config.fill(config.caption),
        files={layout: path.name for layout, path in written.items()},
    )
    return write_card(card, next(iter(written.values())).parent)


def _ready(run: Run, step: int, layout: str, path: Path, keys: int, difference: float) -> ExportReady:
    shown = path.relative_to(run.path).as_posix() if path.is_relative_to(run.path) else str(path)
    return ExportReady(step=step, layout=layout, path=shown, keys=keys, difference=difference)


def _about(run: Run, base: BaseModel, step: int, picture: Image.Image | None = None) -> ExportInfo:
    """What the files say about themselves; of the base model no more than strangers may know."""
    config = run.config
    splits = summarize(run).splits
    details = {
        "version": VERSION,
        "base": _shared_name(config.base) or base.lora.architecture,
        "preset": ", ".join(presets_within(config, load_presets())),
        "step": str(step),
        "kept_step": str(splits[-1].kept_step or "") if splits else "",
        "stop_reason": splits[-1].message if splits else "",
    }
    return ExportInfo(
        name=f"{re.sub(r'[^a-z0-9]+', '_', config.phrase.lower()).strip('_') or 'subject'}-{step:06d}",
        resolution=config.resolution,
        trigger_phrase=config.phrase,
        thumbnail=thumbnail(picture) if picture else "",
        details={name: value for name, value in details.items() if value},
    )


def _shared_name(base: str) -> str:
    """A base model's name if all know it, an id of the hub or the pocket model; empty for a place on this computer."""
    return base if base == "pocket" or is_hub_id(base) else ""


def _paths(base: BaseModel, about: ExportInfo, folder: Path) -> dict[str, Path]:
    """Where each layout that has names for the base is written."""
    kohya_too = {"kohya": folder / f"{about.name}.safetensors"} if base.lora.kohya else {}
    return {**kohya_too, "diffusers": folder / f"{about.name}-diffusers.safetensors"}


def _write(base: BaseModel, about: ExportInfo, folder: Path) -> dict[str, Path]:
    paths = _paths(base, about, folder)
    if "kohya" in paths:
        files.export_kohya(base, paths["kohya"], about)
    files.export_diffusers(base, paths["diffusers"], about)
    return paths


def _check_picture(
    base: BaseModel, config: TrainingConfig, on_step: Callable[[float], None] = lambda fraction: None
) -> Image.Image:
    """One fixed picture."""
    side = min(config.resolution, CHECK_SIDE)
    usual = Picture.of(config, config.fill(config.caption), config.seed)
    picture = dataclasses.replace(usual, steps=CHECK_STEPS, width=side, height=side)
    return next(Sampler(base).generate([picture], on_step))


def _numbers(image: Image.Image) -> numpy.ndarray:
    """In [0, 1]."""
    return numpy.asarray(image, dtype=numpy.float32) / 255
