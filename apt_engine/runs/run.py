"""Runs on disk. One run is one folder; its events, appended to one JSONL, are the only account of what happened.

    <data dir>/runs/<id>/
        config.json   events.jsonl   photos/01.png ... captions.json   prior/   samples/000050-1.png
        checkpoints/000050/   lora.safetensors  optimizer.safetensors  manifest.json
        exports/   <name>.safetensors (kohya)   diffusers/...

Whole files and folders appear under their final name only when complete: written aside, fsynced, then renamed.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from apt_engine.errors import BusyError, DiskError, EngineError, RunError
from apt_engine.runs.events import (
    CheckpointSaved,
    Event,
    RunFailed,
    RunFinished,
    RunStarted,
    StepFinished,
    from_json,
    to_json,
)
from apt_engine.settings.training import TrainingConfig

KEPT_OPTIMIZER_STATES = 2
MANIFEST = "manifest.json"


def default_data_dir() -> Path:
    """Where runs live unless `--data-dir` says otherwise."""
    return Path(platformdirs.user_data_dir("APT Studio", appauthor=False))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write into a sentence.

    Raises:
        DiskError: the disk is full, or `path` may not be written.
    """
    try:
        yield
    except OSError as error:
        free = shutil.disk_usage(_nearest_existing(path)).free / 1e6
        raise DiskError(
            f"Cannot write {path} ({error.strerror or error}; {free:,.0f} MB free); "
            "free some disk space or choose another --data-dir."
        ) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is either the old one or the whole new one, whatever happens meanwhile.

    Raises:
        DiskError: it cannot be written; the old file is untouched.
    """
    aside = path.with_name(f".{path.name}.part")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(content)
            _sync(aside)
            aside.replace(path)
            _sync(path.parent)
        finally:
            aside.unlink(missing_ok=True)


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
            hashes: dict[str, str] = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))["sha256"]
            present = {name: self.path / name for name in hashes if (self.path / name).exists()}
            return "lora.safetensors" in present and all(
                _sha256(path) == hashes[name] for name, path in present.items()
            )
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
            RunError: the file is missing or damaged.
        """
        try:
            return TrainingConfig.from_dict(json.loads((self.path / "config.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, EngineError) as error:
            raise RunError(f"The settings of run {self.id} cannot be read ({error}); start a new run.") from error

    def replace_config(self, config: TrainingConfig) -> None:
        """Change the run's settings, for the sessions to come.

        Raises:
            DiskError: it cannot be written; the old settings are kept.
        """
        write_atomically(self.path / "config.json", config_bytes(config))

    @property
    def photo_paths(self) -> list[Path]:
        """The prepared photos, in the order they were given."""
        return sorted((self.path / "photos").glob("*.png"))

    @property
    def captions(self) -> list[str]:
        """The caption of each photo, `{subject}` standing for the thing: its own, or that of the config."""
        try:
            own: dict[str, str] = json.loads((self.path / "photos" / "captions.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            own = {}
        return [own.get(path.name, self.config.caption) for path in self.photo_paths]

    def append(self, event: Event) -> None:
        """Add one event to the run's account. A line that was torn before, by a crash or a full disk, is closed first.

        Raises:
            DiskError: the disk is full; what was there before stays readable.
        """
        with writing(self.events_path), self.events_path.open("ab+") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - 1))
            torn = b"\n" if file.read(1) not in (b"", b"\n") else b""
            file.write(torn + to_json(event).encode() + b"\n")

    def events(self, since: int = 0) -> tuple[list[Event], int]:
        """Events after cursor `since` and the cursor to ask with next; 0 is the beginning. A half-written last line waits."""
        try:
            with self.events_path.open("rb") as file:
                file.seek(since)
                block = file.read()
        except FileNotFoundError:
            return [], since
        whole = block[: block.rfind(b"\n") + 1]
        return list(_readable(whole)), since + len(whole)

    def checkpoints(self) -> list[Checkpoint]:
        """All complete checkpoints, oldest first; whether their bytes are intact is asked of each."""
        folders = (self.path / "checkpoints").glob("[0-9]*")
        found = [
            Checkpoint(folder, int(folder.name))
            for folder in folders
            if folder.name.isdigit() and (folder / MANIFEST).exists()
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
            try:
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir(parents=True)
                write(aside)
                files = sorted(aside.iterdir())
                for file in files:
                    _sync(file)
                manifest = {"step": step, "sha256": {file.name: _sha256(file) for file in files}}
                (aside / MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
                _sync(aside / MANIFEST)
                if final.exists():
                    shutil.rmtree(final)
                aside.replace(final)
                _sync(final.parent)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
        resumable = [item for item in self.checkpoints() if item.can_resume and item.step <= step]
        for old in resumable[:-KEPT_OPTIMIZER_STATES]:
            old.optimizer_path.unlink(missing_ok=True)
        return Checkpoint(final, step)


@dataclass(frozen=True)
class RunSummary:
    """What a list of runs shows. `state` is new, training, finished, stopped, failed or interrupted.

    `training` means that no end was written; whether somebody still works on it only the worker knows.
    """

    run: Run
    subject: str
    base: str
    state: str
    step: int
    last_step: int
    message: str


def refuse_restart(run: Run) -> None:
    """Raise if a run was started before, and must be resumed instead.

    Raises:
        BusyError: it was.
    """
    if summarize(run).state != "new":
        raise BusyError(f"Run {run.id} was started before; resume it instead.")


def summarize(run: Run) -> RunSummary:
    """The state of a run, read off its events."""
    config = run.config
    state, step, last_step, message = "new", 0, config.steps_for(len(run.photo_paths)), ""
    for event in run.events()[0]:
        match event:
            case RunStarted():
                state, last_step = "training", event.last_step
            case StepFinished() | CheckpointSaved():
                step = max(step, event.step)
            case RunFinished():
                state, message = ("finished" if event.is_complete else "stopped"), event.reason
            case RunFailed() if state != "finished":  # else it was a wish to go on that failed
                state, message = "failed", event.message
            case _:
                pass
    return RunSummary(run, config.subject, config.base, state, step, last_step, message)


def runs_in(folder: Path) -> list[Run]:
    """The runs in a folder, newest first."""
    found = [entry for entry in folder.glob("[!.]*") if (entry / "config.json").exists()]
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
                return Run(aside.rename(_free(self.runs_dir / name)))
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
        return path.stat().st_size if run_id and path.is_file() else 0

    def next_pictures_dir(self) -> Path:
        """Where the next pictures go; a folder that is not there yet."""
        return _free(self.data_dir / "generated" / time.strftime("%Y%m%d-%H%M%S"))


def _free(wanted: Path) -> Path:
    path, number = wanted, 2
    while path.exists():
        path, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
    return path


def config_bytes(config: TrainingConfig) -> bytes:
    """A config as indented JSON."""
    return json.dumps(config.to_dict(), indent=2, ensure_ascii=False).encode()


def _readable(block: bytes) -> Iterator[Event]:
    """Events of whole lines. Lines torn by a crash, or of a newer version, are passed over."""
    for line in block.splitlines():
        with contextlib.suppress(ValueError):
            yield from_json(line.decode())


def _slug(text: str) -> str:
    return re.sub(r"[^\w]+", "-", text.lower()).strip("-_")[:40] or "run"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """Flush a file, or on POSIX a folder's entries, to the disk."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _nearest_existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())
