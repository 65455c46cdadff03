"""A real-size checkpoint in one file, at random weights, from loading to an exported LoRA: `python -m benchmarks.single_file`.

Prints seconds and peak memory of each phase: what the process holds of its own, and beside it the pages of mapped files,
which the system may drop and read again.
"""

import argparse
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
import torch
from PIL import Image

from apt_engine.bases.profiles import build_config
from apt_engine.bases.registry import load_base
from apt_engine.jobs.session import train
from apt_engine.lora import files
from apt_engine.lora.about import ExportInfo
from apt_engine.lora.merged import export_merged
from apt_engine.photos.photo_set import photos_in, read_photos
from apt_engine.runs.events import RunFinished, StageChanged
from apt_engine.runs.store import RunStore
from apt_engine.settings.presets import load_presets
from benchmarks.original_layout import published_tensors, write_random

SECONDS_BETWEEN_LOOKS = 0.05
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}


class Phases:
    """Seconds and peak memory of what goes on, looked at by a thread of its own."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._rows: list[tuple[str, float, float, float]] = []
        self._name, self._since, self._own, self._mapped = "", time.monotonic(), 0.0, 0.0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def begin(self, name: str) -> None:
        """End the phase that goes on and begin the next."""
        if self._name:
            self._rows.append((self._name, time.monotonic() - self._since, self._own, self._mapped))
        self._name, self._since, self._own, self._mapped = name, time.monotonic(), 0.0, 0.0

    def end(self) -> None:
        """Print all."""
        self.begin("")
        self._is_over.set()
        self._thread.join()
        print(f"{'phase':<12}{'seconds':>9}{'own GB':>9}{'mapped GB':>11}")
        for name, seconds, own, mapped in self._rows:
            print(f"{name:<12}{seconds:>9.1f}{own / 1e9:>9.2f}{mapped / 1e9:>11.2f}")

    def _look(self) -> None:
        while not self._is_over.wait(SECONDS_BETWEEN_LOOKS):
            memory = self._process.memory_info()
            self._own = max(self._own, memory.rss - memory.shared)
            self._mapped = max(self._mapped, memory.shared)


def main() -> None:
    """Measure one family."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.single_file", description=__doc__)
    parser.add_argument("--family", default="sd15", choices=("sd15", "sd2", "sdxl"))
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--dtype", default="bf16", choices=("fp32", "bf16"), help="of the file, and computed in")
    parser.add_argument("--folder", type=Path, help="where file and run are written, and deleted (a temporary folder)")
    options = parser.parse_args()
    with TemporaryDirectory(dir=options.folder) as folder:
        _measure(Path(folder), options)


def _measure(folder: Path, options: argparse.Namespace) -> None:
    phases = Phases()
    phases.begin("writing")
    tensors = published_tensors(options.family)
    path = write_random(folder / "model.safetensors", tensors, dtype=DTYPES[options.dtype])
    print(f"{len(tensors):,} keys, {path.stat().st_size / 1e9:.2f} GB")
    (folder / "photos").mkdir()
    for number in range(3):
        Image.new("RGB", (options.resolution,) * 2, (80 * number, 90, 120)).save(folder / "photos" / f"{number}.png")
    settings: dict[str, Any] = {
        "base": str(path),
        "resolution": options.resolution,
        "dtype": options.dtype,
        "steps": 2,
        "gradient_checkpointing": True,
        "warped_views": 1,
        "sample_every_steps": 0,
        "drift_every_steps": 0,
        "sample_prompts": [],
        "check_every_steps": 0,
    }
    config = build_config(load_presets(), (), {"subject": "thing", **settings})
    photos = read_photos(photos_in(folder / "photos"))
    store = RunStore(folder / "data")
    run = store.create(config, lambda where: photos.save(where, config.resolution))
    last = ""
    for event in train(store, run, lambda: False):
        if isinstance(event, StageChanged) and event.stage != last:
            phases.begin(last := event.stage)
        if isinstance(event, RunFinished):
            print(event.reason)
    phases.begin("reload")
    base = load_base(config.base, device="cpu", dtype=options.dtype)
    files.load(base, next((run.path / "exports").glob("*[0-9].safetensors")))
    phases.begin("merging")
    merged = folder / "merged.safetensors"
    export_merged(base, merged, ExportInfo(name="thing", resolution=options.resolution, trigger_phrase="thing"))
    print(f"merged: {merged.stat().st_size / 1e9:.2f} GB")
    phases.end()


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()
