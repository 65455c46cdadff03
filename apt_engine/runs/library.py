"""Keeping house: runs get titles, go to the bin and come back, are packed to be given away; and pictures made so far."""

import contextlib
import io
import json
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PureWindowsPath

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from apt_engine.errors import BusyError, ConfigError, EngineError, RunError
from apt_engine.reading.regular import is_named, is_regular, open_regular, read_regular
from apt_engine.runs.events import Event, Noticed, RunFailed, RunStarted, StageChanged, to_json
from apt_engine.runs.files import write_atomically, writing
from apt_engine.runs.run import Run, config_bytes
from apt_engine.runs.store import RunStore, runs_in
from apt_engine.runs.training_lock import training_in, training_lock
from apt_engine.settings.parameters import read_parameters
from apt_engine.settings.presets import is_hub_id
from apt_engine.settings.sampling import SampleRequest

LONGEST_TITLE = 80
LARGEST_TITLE = 4 * LONGEST_TITLE  # bytes
FAILED_ELSEWHERE = "Training broke off on the computer that this run comes from."


def title_of(run: Run) -> str:
    """The name a person gave the run; empty when it has none."""
    try:
        return read_regular(run.path / "title.txt", LARGEST_TITLE).decode().strip()
    except (OSError, ValueError):
        return ""


def rename(run: Run, title: str) -> None:
    """Give a run a title; an empty one takes it away. The folder keeps its name.

    Raises:
        DiskError: it cannot be written.
    """
    write_atomically(run.path / "title.txt", " ".join(title.split())[:LONGEST_TITLE].encode(errors="replace"))


def discard(store: RunStore, run: Run) -> None:
    """Move a run to the bin, while nobody can begin to train it.

    Raises:
        BusyError: it is being trained.
        DiskError: it cannot be moved.
    """
    target = store.data_dir / "bin" / run.id
    with _untrained(store, run), writing(target):
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

    It names no folder of this computer: settings and events are rewritten, all else holds none.

    Raises:
        DiskError: it cannot be written; nothing of it is left.
        RunError: the run's settings are damaged, or it goes away meanwhile.
    """
    kept = ["title.txt", "exports", "samples", *(["photos"] if with_photos else [])]
    rewritten = {"config.json": _shared_config(run), "events.jsonl": _shared_events(run)}
    aside = target.with_name(f".{target.name}.part")
    with writing(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            # A clock may have been wrong when a file was written, and a zip knows no year before 1980.
            with zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
                for name, content in rewritten.items():
                    archive.writestr(f"{run.id}/{name}", content)
                for path in _files(run.path, kept):
                    archive.write(path, f"{run.id}/{path.relative_to(run.path).as_posix()}")
            aside.replace(target)
        except FileNotFoundError as error:
            if run.path.exists():
                raise
            raise RunError(
                f"Run {run.id} was deleted while it was packed; take it out of the bin, and try again."
            ) from error
        finally:
            aside.unlink(missing_ok=True)
    return target


def recent_pictures(store: RunStore, most: int) -> list[Path]:
    """The newest generated pictures, newest first; each folder is one request."""
    folders = sorted(filter(is_named, (store.data_dir / "generated").glob("[0-9]*")), reverse=True)
    found: list[Path] = []
    for folder in folders:
        found += filter(is_regular, sorted(filter(is_named, folder.glob("*.png"))))
        if len(found) >= most:
            break
    return found[:most]


def pack_pictures(store: RunStore, folders: Sequence[str], target: Path) -> Path:
    """Write a zip of generated pictures, each folder of them under its own name; without `folders` of all there are.

    What their settings say of folders of this computer, as those of an older version do, stays out.

    Raises:
        RunError: there are none.
        DiskError: it cannot be written; nothing of it is left.
    """
    place = store.data_dir / "generated"
    found = [path for path in sorted(filter(is_named, place.glob("[0-9]*"))) if not folders or path.name in folders]
    pictures = [path for folder in found for path in _files(folder, [one.name for one in sorted(folder.glob("*.png"))])]
    if not pictures:
        raise RunError("There are no pictures to download; make some first.")
    aside = target.with_name(f".{target.name}.part")
    with writing(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with zipfile.ZipFile(aside, "w", zipfile.ZIP_STORED) as archive:  # a PNG gets no smaller
                for path in pictures:
                    archive.writestr(path.relative_to(place).as_posix(), _without_folders(path))
            aside.replace(target)
        finally:
            aside.unlink(missing_ok=True)
    return target


def _without_folders(path: Path) -> bytes:
    """A picture whose settings name no folder of this computer."""
    content = path.read_bytes()
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            request = SampleRequest.from_dict(dict(json.loads(image.info["apt_studio"])))
            if request.without_folders() == request:
                return content
            info = PngInfo()
            for key in ("parameters", "apt_studio_grid"):
                if key in image.info:
                    info.add_itxt(key, str(image.info[key]))
            info.add_itxt("apt_studio", json.dumps(request.without_folders().to_dict()))
            rewritten = io.BytesIO()
            image.save(rewritten, "PNG", pnginfo=info)
            return rewritten.getvalue()
    except (EngineError, OSError, KeyError, ValueError, TypeError, SyntaxError, Image.DecompressionBombError):
        return content  # tells no settings of ours


def settings_inside(path: Path) -> SampleRequest:
    """The request that made a picture, read out of its PNG; one of A1111's or of programs like it tells most of them.

    Raises:
        ConfigError: the picture is gone, tells no settings, or some that are not allowed here.
    """
    try:
        with open_regular(path) as file, Image.open(file, formats=["PNG"]) as image:
            if "apt_studio" in image.info:
                return SampleRequest.from_dict(dict(json.loads(image.info["apt_studio"])))
            return read_parameters(str(image.info["parameters"]))
    except (
        OSError,
        KeyError,
        ValueError,
        TypeError,
        SyntaxError,
        RecursionError,
        Image.DecompressionBombError,
    ) as error:
        raise ConfigError(
            f"The picture {path.name} holds no settings; choose one made here, or by A1111 or Forge."
        ) from error


def _untrained(store: RunStore, run: Run) -> contextlib.AbstractContextManager[None]:
    """The right to train, or the knowledge that somebody has it for another run and so cannot train this one.

    Raises:
        BusyError: this run is being trained, or nobody can tell which one is.
    """
    training = training_in(store)
    if training is None:
        return training_lock(store)
    if training.run == run.id:
        raise BusyError("This run is training; stop it first.")
    return contextlib.nullcontext()


def _shared_config(run: Run) -> bytes:
    config = run.config
    begun_with = PureWindowsPath(config.start_from).name
    return config_bytes(config.replace(base=_shared_base(config.base), start_from=begun_with))


def _shared_events(run: Run) -> bytes:
    shared = (_shared(event) for event in run.events()[0])
    return b"".join(to_json(event).encode() + b"\n" for event in shared if event)


def _shared(event: Event) -> Event | None:
    """An event as others may read it, or None for one that stays here: what goes on now, and sentences that may hold a path."""
    match event:
        case RunStarted():
            return replace(event, base=_shared_base(event.base))
        case RunFailed():
            return replace(
                event, message=FAILED_ELSEWHERE if _may_hold_path(event.message) else event.message, detail=""
            )
        case StageChanged():
            return None
        case Noticed():
            return None if _may_hold_path(event.message) else event
        case _:
            return event


def _shared_base(base: str) -> str:
    """Of a folder its name alone, which must not be mistaken for the model that comes with the app."""
    if base == "pocket" or is_hub_id(base):
        return base
    name = PureWindowsPath(base).name  # takes either slash
    return f"{name} (a folder)".strip() if name in ("", "pocket") else name


def _may_hold_path(sentence: str) -> bool:
    return "/" in sentence or "\\" in sentence


def _files(folder: Path, names: list[str]) -> Iterator[Path]:
    """Whole files that lie here and are no links out; one that is being written has a name with a dot before it."""
    for name in names:
        path = folder / name
        found = sorted(path.rglob("[!.]*")) if path.is_dir() else [path]
        shown = (file for file in found if is_named(file.relative_to(folder)))
        yield from (file for file in shown if file.is_file() and file.resolve().is_relative_to(folder.resolve()))
