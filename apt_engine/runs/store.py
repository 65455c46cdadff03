"""All runs of one data directory."""

import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import platformdirs

from apt_engine.errors import RunError
from apt_engine.reading.regular import is_named, is_regular
from apt_engine.runs.files import free_path, writing
from apt_engine.runs.run import Run, config_bytes
from apt_engine.settings.training import TrainingConfig


def default_data_dir() -> Path:
    """Where runs live unless `--data-dir` says otherwise."""
    return Path(platformdirs.user_data_dir("APT Studio", appauthor=False))


def runs_in(folder: Path) -> list[Run]:
    """The runs in a folder, newest first."""
    entries = folder.glob("[!.]*")
    found = [entry for entry in entries if is_named(entry) and is_regular(entry / "config.json")]
    return [Run(entry) for entry in sorted(found, key=lambda entry: entry.name, reverse=True)]


class RunStore:
    """All runs of one data directory."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.runs_dir = data_dir / "runs"

    def create(self, config: TrainingConfig, save_photos: Callable[[Path], None]) -> Run:
        """Make a run's folder, with its photos by `save_photos(folder)`. It appears whole or not at all.

        Raises:
            DiskError: the disk is full or cannot be written.
        """
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{_slug(config.subject)}"
        with writing(self.runs_dir):
            self.runs_dir.mkdir(parents=True, exist_ok=True)
            aside = self.runs_dir / f".{name}-{os.getpid()}.part"
            try:
                (aside / "photos").mkdir(parents=True)
                save_photos(aside / "photos")
                (aside / "config.json").write_bytes(config_bytes(config))
                (aside / "events.jsonl").touch()
                return Run(aside.rename(free_path(self.runs_dir / name)))
            finally:
                shutil.rmtree(aside, ignore_errors=True)

    def list(self) -> list[Run]:
        """All runs, newest first."""
        return runs_in(self.runs_dir)

    def open(self, run_id: str) -> Run:
        """The run of an id, or the newest one for "latest".

        Raises:
            RunError: there is no such run.
        """
        runs = self.list()
        if run_id == "latest" and runs:
            return runs[0]
        found = next((run for run in runs if run.id == run_id), None)
        if found is None:
            hint = f"the newest is {runs[0].id}" if runs else "there are none yet: train one first"
            raise RunError(f"There is no run {run_id} in {self.data_dir}; {hint}.")
        return found

    def size_of(self, run_id: str) -> int:
        """Bytes of a run's events so far, 0 where there is no such run; cheap enough to ask every second."""
        path = self.runs_dir / Path(run_id).name / "events.jsonl"
        return path.stat().st_size if run_id and is_regular(path) else 0

    def next_pictures_dir(self) -> Path:
        """Where the next pictures go; a folder that is not there yet."""
        return free_path(self.data_dir / "generated" / time.strftime("%Y%m%d-%H%M%S"))


def _slug(text: str) -> str:
    return re.sub(r"[^\w]+", "-", text.lower()).strip("-_")[:40] or "run"
