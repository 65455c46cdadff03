"""Keeping house: runs get titles, go to the bin and come back, are packed to be given away; and pictures made so far."""

import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from apt_engine.errors import ConfigError, RunError
from apt_engine.runs.run import Run, RunStore, runs_in, write_atomically, writing
from apt_engine.settings.sampling import SampleRequest

LONGEST_TITLE = 80


def title_of(run: Run) -> str:
    """The name a person gave the run; empty when it has none."""
    try:
        return (run.path / "title.txt").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def rename(run: Run, title: str) -> None:
    """Give a run a title; an empty one takes it away. The folder keeps its name.

    Raises:
        DiskError: it cannot be written.
    """
    write_atomically(run.path / "title.txt", " ".join(title.split())[:LONGEST_TITLE].encode())


def discard(store: RunStore, run: Run) -> None:
    """Move a run to the bin.

    Raises:
        DiskError: it cannot be moved.
    """
    target = store.data_dir / "bin" / run.id
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        run.path.rename(target)


def discarded(store: RunStore) -> list[Run]:
    """The runs in the bin, newest first."""
    return runs_in(store.data_dir / "bin")


def restore(store: RunStore, run_id: str) -> Run:
    """Take a run back out of the bin.

    Raises:
        RunError: it is not there.
    """
    run = next((run for run in discarded(store) if run.id == run_id), None)
    if run is None:
        raise RunError(f"Run {run_id} is not in the bin any more; it was emptied or the run was taken out.")
    with writing(store.runs_dir):
        store.runs_dir.mkdir(parents=True, exist_ok=True)
        return Run(run.path.rename(store.runs_dir / run.id))


def empty_bin(store: RunStore) -> int:
    """Delete what is in the bin, for good; returns how many runs that were."""
    runs = discarded(store)
    for run in runs:
        shutil.rmtree(run.path, ignore_errors=True)
    return len(runs)


def pack(run: Run, target: Path, *, with_photos: bool = False) -> Path:
    """Write a zip of what somebody else needs: LoRA files, settings, samples, events. Photos stay out unless asked for.

    Raises:
        DiskError: it cannot be written.
    """
    kept = ["config.json", "events.jsonl", "title.txt", "exports", "samples", *(["photos"] if with_photos else [])]
    aside = target.with_name(f".{target.name}.part")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in _files(run.path, kept):
                archive.write(path, f"{run.id}/{path.relative_to(run.path).as_posix()}")
        aside.replace(target)
    return target


def recent_pictures(store: RunStore, most: int) -> list[Path]:
    """The newest generated pictures, newest first; each folder is one request."""
    folders = sorted((store.data_dir / "generated").glob("[0-9]*"), reverse=True)
    found: list[Path] = []
    for folder in folders:
        found += sorted(folder.glob("*.png"))
        if len(found) >= most:
            break
    return found[:most]


def settings_inside(path: Path) -> SampleRequest:
    """The request that made a picture, read out of its PNG.

    Raises:
        ConfigError: the picture is gone, or was not made here.
    """
    try:
        with Image.open(path) as image:
            return SampleRequest.from_dict(json.loads(image.info["apt_studio"]))
    except (OSError, KeyError, ValueError) as error:
        raise ConfigError(f"The picture {path.name} holds no settings of APT Studio; choose another.") from error


def _files(folder: Path, names: list[str]) -> Iterator[Path]:
    for name in names:
        path = folder / name
        yield from sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else ()
        if path.is_file():
            yield path
