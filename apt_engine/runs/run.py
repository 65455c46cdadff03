"""Runs on disk. One run is one folder; its events, appended to one JSONL, are the only account of what happened.

    <data dir>/runs/<id>/
        config.json   events.jsonl   photos/01.png ... captions.json   prior/   samples/000050-1.png
        checkpoints/000050/   lora.safetensors  optimizer.safetensors  manifest.json
        exports/   <name>.safetensors (kohya)   diffusers/...

Whole files and folders appear under their final name only when complete: written aside, fsynced, then renamed.
"""

import contextlib
import dataclasses
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apt_engine.errors import EngineError, RunError
from apt_engine.reading.regular import is_named, is_regular, open_for_appending, read_json
from apt_engine.runs import files
from apt_engine.runs.event_file import read_events
from apt_engine.runs.events import Event, to_json
from apt_engine.runs.files import sha256, write_atomically, writing
from apt_engine.settings.training import TrainingConfig, renewed

KEPT_OPTIMIZER_STATES = 2
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint folder; `step` optimizer steps are behind it."""

    path: Path
    step: int

    @property
    def lora_path(self) -> Path:
        return self.path / "lora.safetensors"

    @property
    def optimizer_path(self) -> Path:
        return self.path / "optimizer.safetensors"

    @property
    def can_resume(self) -> bool:
        """Older checkpoints keep only their LoRA."""
        return self.optimizer_path.exists()

    def is_intact(self) -> bool:
        """Whether every file still has the bytes that were saved."""
        try:
            hashes: dict[str, str] = read_json(self.path / MANIFEST)["sha256"]
            present = {
                name: self.path / name for name in hashes if Path(name).name == name and (self.path / name).exists()
            }
            return "lora.safetensors" in present and all(sha256(path) == hashes[name] for name, path in present.items())
        except (OSError, ValueError, KeyError, TypeError):
            return False


class Run:
    """One run's folder. Cheap to make; reads the disk when asked."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def events_path(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def config(self) -> TrainingConfig:
        """The config the run was created with.

        Raises:
            RunError: the file is missing, damaged, or has settings that only a newer version knows.
        """
        try:
            values = renewed(dict(read_json(self.path / "config.json")))
            newer = sorted(values.keys() - {field.name for field in dataclasses.fields(TrainingConfig)})
            config = TrainingConfig.from_dict(values) if not newer else None
        except (OSError, ValueError, TypeError, EngineError) as error:
            raise RunError(f"The settings of run {self.id} cannot be read ({error}); start a new run.") from error
        if config is None:
            raise RunError(
                f"Run {self.id} was made by a newer version of APT Studio (it has the settings {', '.join(newer)}); "
                "update this one to use it."
            )
        return config

    def replace_config(self, config: TrainingConfig) -> None:
        """Change the run's settings, for the sessions to come.

        Raises:
            DiskError: it cannot be written; the old settings are kept.
        """
        write_atomically(self.path / "config.json", config_bytes(config))

    def refuse_links(self) -> None:
        """Refuse to work in a folder with links: none is made here, and what is written or deleted would be so elsewhere.

        Raises:
            RunError: names the first.
        """
        for folder, folders, others in os.walk(self.path):
            link = next((name for name in sorted(folders + others) if (Path(folder) / name).is_symlink()), None)
            if link is not None:
                shown = (Path(folder) / link).relative_to(self.path).as_posix()
                raise RunError(
                    f"In run {self.id}, {shown} is a link to somewhere else; put a copy of what it leads to in its place."
                )

    @property
    def photo_paths(self) -> list[Path]:
        """The prepared photos, in the order they were given."""
        return sorted(filter(is_named, (self.path / "photos").glob("*.png")))

    @property
    def originals(self) -> list[tuple[Path, list[float]]]:
        """The whole photos behind the prepared ones, each with the square that was cut out of it, as shares.

        None where one is missing, as with runs of earlier versions.
        """
        folder = self.path / "photos" / "originals"
        try:
            squares: dict[str, Any] = dict(read_json(folder / "squares.json"))
        except (OSError, ValueError, TypeError):
            return []
        found = [(folder / f"{path.stem}.jpg", squares.get(f"{path.stem}.jpg")) for path in self.photo_paths]
        whole = [(path, box) for path, box in found if is_regular(path) and isinstance(box, list)]
        return whole if len(whole) == len(found) else []

    @property
    def origins(self) -> list[tuple[int, int, int, int]]:
        """Of photos that kept their proportions: height and width of each before it was scaled, top and left of its cut after.

        Empty where they are squares.
        """
        try:
            told: dict[str, Any] = dict(read_json(self.path / "photos" / "origins.json"))
            found = [tuple(map(int, told[path.name])) for path in self.photo_paths]
        except (OSError, ValueError, TypeError, KeyError):
            return []
        return [(height, width, top, left) for height, width, top, left in found]

    @property
    def captions(self) -> list[str]:
        """The caption of each photo, `{subject}` standing for the thing: its own, or that of the config."""
        try:
            own: dict[str, Any] = dict(read_json(self.path / "photos" / "captions.json"))
        except (OSError, ValueError, TypeError):
            own = {}
        usual = self.config.caption
        found = [own.get(path.name) for path in self.photo_paths]
        return [caption if isinstance(caption, str) else usual for caption in found]

    def append(self, event: Event) -> None:
        """Add one event to the run's account. A line that was torn before, by a crash or a full disk, is closed first.

        Raises:
            DiskError: the disk is full; what was there before stays readable.
        """
        with writing(self.events_path), open_for_appending(self.events_path) as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            torn = b"\n" if file.read(1) not in (b"", b"\n") else b""
            file.write(torn + to_json(event).encode() + b"\n")

    def events(self, since: int = 0, *, is_whole: bool = True) -> tuple[list[Event], int]:
        """Events after cursor `since` and the cursor to ask with next; 0 is the beginning. A half-written last line waits.

        Of an account of many thousand steps it leaves most out unless `is_whole`.

        Raises:
            RunError: the file is there and cannot be read.
        """
        try:
            return read_events(self.events_path, since, is_whole=is_whole)
        except FileNotFoundError:
            return [], since
        except OSError as error:
            raise RunError(f"The events of run {self.id} cannot be read ({error.strerror or error}).") from error

    def checkpoints(self) -> list[Checkpoint]:
        """All complete checkpoints, oldest first; whether their bytes are intact is asked of each."""
        folders = (self.path / "checkpoints").glob("[0-9]*")
        found = [
            Checkpoint(folder, int(folder.name))
            for folder in folders
            if re.fullmatch("[0-9]{1,9}", folder.name) and is_regular(folder / MANIFEST)
        ]
        return sorted(found, key=lambda checkpoint: checkpoint.step)

    def checkpoint(self, which: str = "last") -> Checkpoint:
        """The intact checkpoint called `last` (the newest intact one) or of a step.

        Raises:
            RunError: there is none, or the one asked for is damaged.
        """
        known = self.checkpoints()
        if which == "last":
            intact = next((item for item in reversed(known) if item.is_intact()), None)
            if intact is None:
                raise RunError(f"Run {self.id} has no checkpoint yet; let it train a little longer, or resume it.")
            return intact
        found = next((item for item in known if str(item.step) == which), None)
        if found is None:
            steps = ", ".join(str(item.step) for item in known) or "none"
            raise RunError(f"Run {self.id} has no checkpoint of step {which}; it has: {steps}.")
        if not found.is_intact():
            raise RunError(f"The checkpoint of step {which} of run {self.id} is damaged; choose another step.")
        return found

    def save_checkpoint(self, step: int, write: Callable[[Path], None]) -> Checkpoint:
        """Keep a checkpoint whose files `write(folder)` makes; optimizer states of all but the last before it are dropped.

        Damaged checkpoints of later steps, which a resumed run has yet to train again, are no reason to drop this one's.

        Raises:
            DiskError: it could not be written; the older checkpoints are untouched.
        """
        final = self.path / "checkpoints" / f"{step:06d}"
        aside = final.with_name(f".{final.name}.part")
        with writing(final):
            for left in final.parent.glob(".*.part"):  # by a session that was killed
                shutil.rmtree(left, ignore_errors=True)
            try:
                aside.mkdir(parents=True)
                write(aside)
                saved = sorted(aside.iterdir())
                for file in saved:
                    files.sync(file)
                manifest = {"step": step, "sha256": {file.name: sha256(file) for file in saved}}
                (aside / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
                files.sync(aside / MANIFEST)
                if final.exists():
                    shutil.rmtree(final)
                aside.replace(final)
                files.sync(final.parent)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        resumable = [item for item in self.checkpoints() if item.can_resume and item.step <= step]
        for old in resumable[:-KEPT_OPTIMIZER_STATES]:
            old.optimizer_path.unlink(missing_ok=True)
        return Checkpoint(final, step)

    def drop_checkpoint(self, step: int) -> None:
        """Delete a checkpoint, whole or not at all; of files that a kill leaves behind the next save gets rid."""
        final = self.path / "checkpoints" / f"{step:06d}"
        aside = final.with_name(f".{final.name}.part")
        with contextlib.suppress(OSError):  # somebody reads it; it is tried again after the next check
            final.rename(aside)
            shutil.rmtree(aside)


def config_bytes(config: TrainingConfig) -> bytes:
    """A config as indented JSON."""
    return json.dumps(config.to_dict(), indent=2, ensure_ascii=False).encode()
