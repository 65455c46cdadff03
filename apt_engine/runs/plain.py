"""Plain DreamBooth beside a run: the same photos, seed, steps, prompts and all else, but nothing that holds the model back.

Random numbers are keyed by seed, step, sample and purpose, so both runs draw the same photos, noises and samples.
"""

import filecmp
import shutil
from pathlib import Path

from apt_engine.errors import EngineError, RunError
from apt_engine.runs import library
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.presets import load_presets
from apt_engine.settings.training import TrainingConfig

PRESETS = ("augmentation-off", "regularization-off")
# Plain training knows no better step than its last, and its LoRA is the one of that step.
REST = {"indicator": "absolute", "border": "masked", "reference_caption": "same", "prior_preservation": False}
TO_THE_END = {"stop": "never", "ema_decay": 0.0}


def plain_of(config: TrainingConfig, photo_count: int) -> TrainingConfig:
    """The settings of plain DreamBooth with so many photos, the rest as in `config`."""
    presets = load_presets()
    overrides = {name: value for key in PRESETS for name, value in presets[key].overrides.items()}
    return config.replace(**overrides, **REST, **TO_THE_END, steps=config.steps_for(photo_count))


def find_plain(store: RunStore, run: Run) -> Run | None:
    """The plain run beside one, where there is one already; None for a run that is plain itself.

    Raises:
        RunError: the settings of the run cannot be read.
    """
    config, photos = run.config, run.photo_paths
    plain = plain_of(config, len(photos))
    if config == plain:
        return None
    return next((other for other in store.list() if _is(other, plain, photos)), None)


def make_plain(store: RunStore, run: Run) -> Run:
    """A new plain run beside one; with its photos and their captions.

    Raises:
        RunError: the run is plain itself, or its settings cannot be read.
        DiskError: the disk is full.
    """
    config = run.config
    plain = plain_of(config, len(run.photo_paths))
    if config == plain:
        raise RunError(f"Run {run.id} is plain DreamBooth itself; choose one with a part of APT.")
    made = store.create(plain, lambda folder: _copy(run, folder))
    library.rename(made, f"{library.title_of(run) or config.subject}, plain")
    return made


def _copy(run: Run, folder: Path) -> None:
    for path in (*run.photo_paths, run.path / "photos" / "captions.json"):
        if path.is_file():
            shutil.copy(path, folder / path.name)


def _is(other: Run, plain: TrainingConfig, photos: list[Path]) -> bool:
    try:
        if other.config != plain:
            return False
    except EngineError:
        return False
    own = other.photo_paths
    names = [path.name for path in own] == [path.name for path in photos]
    return names and all(filecmp.cmp(*pair, shallow=False) for pair in zip(own, photos, strict=True))
