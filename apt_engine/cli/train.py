"""The commands that train: `train` and `resume`."""

import argparse
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

from apt_engine.bases.profiles import build_config, warning_of
from apt_engine.cli.console import assignment, say, show, tell_stage
from apt_engine.errors import PhotoError
from apt_engine.jobs.estimate import sentence
from apt_engine.jobs.leaving import Leaving, heard
from apt_engine.jobs.plan import lines
from apt_engine.jobs.session import create
from apt_engine.jobs.session import train as session
from apt_engine.photos.photo_set import photos_in, read_photos
from apt_engine.runs.events import StageChanged
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.presets import load_presets
from apt_engine.settings.training import SUBJECT_SLOT, TrainingConfig

INTERRUPTED = 130
# Written past Python's buffers, which the signal may have interrupted.
ENDING = b"Ending after this step, which is saved; Ctrl-C once more ends at once.\n"


def train(options: argparse.Namespace, store: RunStore) -> int:
    """Make a run and train it; returns the exit code."""
    values: dict[str, Any] = dict(assignment(text) for text in options.set)
    values |= {"subject": options.subject, "base": options.base}
    if options.steps is not None:
        values["steps"] = options.steps
    if options.start_from:
        values["start_from"] = options.start_from
    config = build_config(load_presets(), options.preset, values)
    return _run_to_the_end(store, new_run(store, config, options.photos))


def resume(options: argparse.Namespace, store: RunStore) -> int:
    """Go on with a run; returns the exit code."""
    run = store.open(options.run)
    return _run_to_the_end(store, run, options.steps)


def new_run(store: RunStore, config: TrainingConfig, folder: Path) -> Run:
    """A run on the photos of a folder.

    Raises:
        EngineError: they are no good, or the run cannot be made.
    """
    photos = read_photos(photos_in(folder))
    if photos.problems:
        raise PhotoError(" ".join(photos.problems))
    if not photos.photos and not photos.unopened:
        raise PhotoError(f"There are no photos in {folder}; add 3 to 10 photos of the thing.")
    photos.check(SUBJECT_SLOT)
    for warning in (*photos.warnings, *photos.smaller_than(config.resolution, config.crop)):
        say(f"note: {warning}")
    say(sentence(config, len(photos.photos), store))
    for line in (*lines(config), *filter(None, [warning_of(config.base)])):
        say(line)
    return create(store, config, lambda folder: photos.save(folder, config.resolution, config.crop))


def _run_to_the_end(store: RunStore, run: Run, steps: int | None = None) -> int:
    """Train in this process; a signal to end saves after the step, a second Ctrl-C ends at once."""
    say(f"run {run.id}")
    leaving, code = Leaving(INTERRUPTED), 0

    def leave(number: signal.Signals) -> None:
        nonlocal code
        code = 128 + number
        leaving.begin()
        with contextlib.suppress(OSError):
            os.write(2, ENDING)

    tell = tell_stage()
    with heard(leave):
        for event in session(store, run, lambda: False, steps=steps, is_leaving=leaving.is_wished):
            leaving.note(event)
            if isinstance(event, StageChanged) and event.stage == "downloading":
                tell(event.message, event.fraction)
            else:
                show(event)
    say(f"kept in {run.path}")
    return code


def add_train(command: argparse.ArgumentParser) -> None:
    """What `train` takes."""
    command.add_argument(
        "--photos", type=Path, required=True, metavar="DIR", help="folder with 3 to 10 photos of one thing"
    )
    command.add_argument("--subject", required=True, metavar="WORD", help="what it is: backpack, teddy bear")
    command.add_argument("--base", default="pocket", help="pocket, a model folder, or a hub id (%(default)s)")
    command.add_argument("--steps", type=int, help="steps to train; about 100 a photo unless given")
    command.add_argument("--start-from", metavar="FILE", help="begin with this LoRA file, ours or another program's")
    command.add_argument("--preset", action="append", default=[], metavar="NAME", help="see presets/; may be repeated")
    command.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="any other setting; may be repeated"
    )


def add_resume(command: argparse.ArgumentParser) -> None:
    """What `resume` takes."""
    command.add_argument("--run", default="latest", help="id of a run, or latest")
    command.add_argument("--steps", type=int, help="train to this step, to go on past the end")
