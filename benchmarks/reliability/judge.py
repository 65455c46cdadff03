"""What a run is worth after an end: whether all that it announced is there, and whether it became what an undisturbed one is."""

import time
from pathlib import Path

from apt_engine.runs.events import CheckpointDropped, CheckpointSaved, ExportReady, RunFinished, SampleReady
from apt_engine.runs.history import History
from apt_engine.runs.run import Run

FOLDERS = ("checkpoints", "exports", "samples")
SESSIONS_TO_END = 2  # more than that and it is called stuck


def lost(run: Run) -> list[str]:
    """What the events announce and the disk does not hold whole; also a newest checkpoint that is damaged."""
    missing, saved = [], dict[int, str]()
    for event in run.events()[0]:
        match event:
            case CheckpointSaved():
                saved[event.step] = event.path
            case CheckpointDropped():
                saved.pop(event.step, None)
            case SampleReady() | ExportReady():
                if not (run.path / event.path).is_file():
                    missing.append(event.path)
            case _:
                pass
    intact = {item.step for item in run.checkpoints() if item.is_intact()}
    missing += [path for step, path in saved.items() if step not in intact]
    known = run.checkpoints()
    if known and not known[-1].is_intact():
        missing.append(f"newest checkpoint {known[-1].step}")
    return missing


def differences(run: Run, whole: Run) -> list[str]:
    """In which files and measurements a finished run differs from an undisturbed one, and what is left over in it.

    It may have more checkpoints: a step that was saved since the program was about to end is no fault.
    """
    ours, theirs = _files(run.path), _files(whole.path)
    found = [name for name in sorted(theirs) if ours.get(name) != theirs[name]]
    found += [name for name in sorted(ours.keys() - theirs.keys()) if not name.startswith("checkpoints/")]
    found += [str(path.relative_to(run.path)) for path in run.path.rglob(".*")]
    one, other = _told(run), _told(whole)
    return found + [name for name in one if one[name] != other[name]]


def _files(folder: Path) -> dict[str, bytes]:
    paths = (path for name in FOLDERS for path in (folder / name).rglob("[!.]*"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths if path.is_file()}


def _told(run: Run) -> dict[str, object]:
    history = History.of(run)
    return {
        "state": history.state,
        "step": (history.step, history.saved_step, history.last_step),
        "samples": history.samples,
        "drifts": history.drifts,
        "splits": [(split.step, split.kept_step) for split in history.splits],
        "exports": sorted((layout, export.path) for layout, export in history.exports.items()),
        "losses": history.losses,
        "gammas": history.gammas,
    }


def was_over(run: Run, at: float) -> bool:
    """Whether the run had come to its own end before a time, in seconds since 1970."""
    return any(isinstance(event, RunFinished) and event.time <= at for event in run.events()[0])


def seconds_since(clock: Path) -> float:
    """Since a trap wrote down the time."""
    return time.monotonic() - float(clock.read_text(encoding="ascii"))
