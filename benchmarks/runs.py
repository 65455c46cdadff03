"""Runs of the benchmarks: trained once, kept, taken up again, and drawn with."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from apt_engine.bases.profiles import build_config
from apt_engine.bases.registry import load_base_of
from apt_engine.jobs.session import train
from apt_engine.lora import files
from apt_engine.photos.photo_set import photos_in, read_photos
from apt_engine.runs.history import summarize
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.sampling.sampler import Picture, Sampler
from apt_engine.settings.presets import load_presets
from apt_engine.settings.training import TrainingConfig
from tools.pocket.grid import GUIDANCE_SCALE

SIDE = 64


def finished_run(store: RunStore, name: str, photos_folder: Path, settings: dict[str, Any]) -> Run:
    """The run of that name, trained now to its end unless it is there; `settings` say what differs from the profile."""
    store.data_dir.mkdir(parents=True, exist_ok=True)
    marker = store.data_dir / f"{name}.txt"
    run = store.open(marker.read_text(encoding="utf-8")) if marker.exists() else None
    if run is None:
        photos = read_photos(photos_in(photos_folder))
        config = build_config(load_presets(), (), settings)
        run = store.create(config, lambda folder: photos.save(folder, config.resolution, config.crop))
        marker.write_text(run.id, encoding="utf-8")
    if summarize(run).state != "finished":
        for _ in train(store, run, lambda: False):
            pass
    return run


def draw(
    config: TrainingConfig,
    lora_path: Path | None,
    wanted: list[tuple[str, int]],
    guidance_scale: float = GUIDANCE_SCALE,
) -> Iterator[Image.Image]:
    """Pictures of (prompt, seed), by a checkpoint or by the base."""
    base = load_base_of(config)
    if lora_path is not None:
        files.load(base, lora_path)
    pictures = [
        Picture(prompt=config.fill(prompt), seed=seed, guidance_scale=guidance_scale, width=SIDE, height=SIDE)
        for prompt, seed in wanted
    ]
    return Sampler(base).generate(pictures)
