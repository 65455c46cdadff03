"""The command line: `python -m apt_engine train | resume | generate | export | verdict | runs | sweep`.

An error is one sentence and exit code 1; argparse's own complaints have exit code 2.
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apt_engine.bases.profiles import build_config
from apt_engine.errors import ConfigError, EngineError, PhotoError, is_device_lost, is_out_of_memory
from apt_engine.jobs.estimate import sentence
from apt_engine.jobs.failures import explain
from apt_engine.jobs.leaving import Leaving, heard
from apt_engine.jobs.results import draw, export, send
from apt_engine.jobs.session import create, judge, train
from apt_engine.jobs.sweep.plan import Plan, Row, read_plan
from apt_engine.jobs.sweep.render import KINDS, STORAGE_VARIABLE, Job, render
from apt_engine.jobs.sweep.report import as_text, means_of, rows_of, write_report
from apt_engine.jobs.sweep.study import (
    HEARTBEAT_SECONDS,
    SQLITE,
    Standing,
    enqueue_missing,
    open_study,
    standings,
)
from apt_engine.jobs.sweep.worker import SweepWorker, folder_of
from apt_engine.jobs.sweep.workers import devices_of, own_command, run_workers
from apt_engine.jobs.worker import CHILD_ENVIRONMENT
from apt_engine.photos.photo_set import photos_in, read_photos
from apt_engine.runs.events import (
    CheckpointSaved,
    Event,
    ExportReady,
    Noticed,
    RunFinished,
    RunStarted,
    SplitMeasured,
    StageChanged,
    StepFinished,
)
from apt_engine.runs.files import writing
from apt_engine.runs.history import NEWER, summarize
from apt_engine.runs.process_rank import process_rank
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore, default_data_dir
from apt_engine.runs.training_lock import training_in
from apt_engine.runs.verdict import PICTURES, chosen_steps
from apt_engine.settings.presets import load_presets
from apt_engine.settings.sampling import SampleRequest
from apt_engine.settings.training import SUBJECT_SLOT, TrainingConfig

if TYPE_CHECKING:
    from optuna import Study

INTERRUPTED = 130
MOST_JOBS = 8  # that a job file starts unless told otherwise
# Written past Python's buffers, which the signal may have interrupted.
ENDING = b"Ending after this step, which is saved; Ctrl-C once more ends at once.\n"


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = _parser().parse_args(arguments)
    for name, value in CHILD_ENVIRONMENT.items():  # before torch is imported
        os.environ.setdefault(name, value)
    try:
        return options.command(options, RunStore(options.data_dir))
    except EngineError as error:
        print(f"apt_engine: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    except (
        MemoryError,
        OSError,
        RuntimeError,
    ) as error:  # of an export or pictures; a session makes its own a sentence
        if not (is_out_of_memory(error) or is_device_lost(error)):
            raise
        print(f"apt_engine: {explain(error, '')}", file=sys.stderr)
        return 1


def _train(options: argparse.Namespace, store: RunStore) -> int:
    values: dict[str, Any] = dict(_assignment(text) for text in options.set)
    values |= {"subject": options.subject, "base": options.base}
    if options.steps is not None:
        values["steps"] = options.steps
    if options.start_from:
        values["start_from"] = options.start_from
    config = build_config(load_presets(), options.preset, values)
    return _run_to_the_end(store, _new_run(store, config, options.photos))


def _new_run(store: RunStore, config: TrainingConfig, folder: Path) -> Run:
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
    for warning in (*photos.warnings, *photos.smaller_than(config.resolution)):
        _say(f"note: {warning}")
    _say(sentence(config, len(photos.photos), store))
    return create(store, config, lambda folder: photos.save(folder, config.resolution))


def _resume(options: argparse.Namespace, store: RunStore) -> int:
    run = store.open(options.run)
    return _run_to_the_end(store, run, options.steps)


def _run_to_the_end(store: RunStore, run: Run, steps: int | None = None) -> int:
    """Train in this process; a signal to end saves after the step, a second Ctrl-C ends at once."""
    _say(f"run {run.id}")
    leaving, code = Leaving(INTERRUPTED), 0

    def leave(number: signal.Signals) -> None:
        nonlocal code
        code = 128 + number
        leaving.begin()
        with contextlib.suppress(OSError):
            os.write(2, ENDING)

    with heard(leave):
        for event in train(store, run, lambda: False, steps=steps, is_leaving=leaving.is_wished):
            leaving.note(event)
            _show(event)
    _say(f"kept in {run.path}")
    return code


def _show(event: Event) -> None:
    """One line for what a person at a terminal wants to know."""
    match event:
        case RunStarted():
            is_trained = event.first_step == event.last_step
            steps = "all steps done" if is_trained else f"steps {event.first_step + 1} to {event.last_step}"
            line = f"{event.photo_count} photos of {event.subject}, base {event.base}, {steps}"
        case StageChanged(stage="training"):
            return
        case StageChanged() | Noticed():
            line = event.message
        case StepFinished():
            if event.step % 10:
                return
            line = f"step {event.step}: loss {event.loss:.4f}, {event.seconds:.2f} s"
        case SplitMeasured():
            line = f"check at step {event.step}: {event.message}"
        case CheckpointSaved():
            line = f"checkpoint {event.path}"
        case ExportReady():
            line = f"{event.layout} file {event.path}: {event.keys} keys, pictures differ by at most {event.difference:.3f}"
        case RunFinished():
            line = f"{event.reason} {event.seconds:.0f} s, peak memory {event.peak_memory_bytes / 2**30:.2f} GiB"
        case _:
            return
    _say(line)


def _say(line: str) -> None:
    """Print, once for all processes of a run. A terminal that was closed ends no training."""
    if process_rank():
        return
    try:
        print(line, flush=True)
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what Python still holds for it goes there


def _generate(options: argparse.Namespace, store: RunStore) -> int:
    request = SampleRequest.from_dict(
        {
            "prompt": options.prompt,
            "run": "" if options.base else options.run,
            "base": options.base or "pocket",
            "count": options.count,
            "seed": options.seed,
            **dict(_assignment(text) for text in options.set),
        }
    )
    started = time.monotonic()
    for path in draw(store, request, options.out):
        print(path, flush=True)
    print(f"{request.count} pictures in {time.monotonic() - started:.1f} s")
    return 0


def _export(options: argparse.Namespace, store: RunStore) -> int:
    folder = options.out or store.open(options.run).path / "exports"
    written: list[ExportReady] = []
    for event in export(store, options.run, options.step, folder, merged=options.merged):
        _show(event)
        written.append(event)
    if options.push:
        _say(f"sent to {send(folder, written, options.push, is_public=options.public)}")
    return 0


def _verdict(options: argparse.Namespace, store: RunStore) -> int:
    run = store.open(options.run)
    config, steps = run.config, chosen_steps([item.step for item in run.checkpoints()], summarize(run).kept_step)
    _say(f"{(1 + len(steps)) * PICTURES} pictures by {config.base} itself and {len(steps)} checkpoints of {run.id}")
    judge(store, run, _tell_stage())
    verdict = summarize(run).verdict
    assert verdict
    for line in (*verdict.lines(), verdict.message):
        _say(line)
    return 0


def _tell_stage() -> Callable[[str, float | None], None]:
    """Says each stage of a work once."""
    told: list[str] = []

    def tell(message: str, _fraction: float | None) -> None:
        if message not in told:
            told.append(message)
            _say(message)

    return tell


def _runs(_options: argparse.Namespace, store: RunStore) -> int:
    training = training_in(store)
    for run in store.list():
        try:
            summary = summarize(run)
        except EngineError as error:
            print(f"{run.id}  {error}")
            continue
        state = summary.state_while(training is not None and training.run == run.id)
        words = [f"{state:9}  step {summary.step}/{summary.last_step}", summary.base, summary.subject, summary.message]
        print("  ".join([run.id, *words, *([NEWER] if summary.is_newer else [])]))
    return 0


def _sweep(options: argparse.Namespace, store: RunStore) -> int:
    plan = read_plan(options.plan, load_presets())
    folder = folder_of(store, plan)
    if options.render:
        job = Job(plan, store.data_dir, options.workers or min(len(plan.rows), MOST_JOBS))
        path, submit = render(options.render, job, options.out or Path())
        _say(f"{path} written; submit it with: {submit}")
        return 0
    url = options.storage or SQLITE + (folder / "sweep.db").resolve().as_posix()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    study = open_study(plan, url, options.heartbeat)
    if options.worker:
        return _work(plan, study, store)
    _say(f"{enqueue_missing(study, plan)} of {len(plan.rows)} runs to train")
    devices = devices_of(plan)
    arguments = ["sweep", str(options.plan), "--worker", "--data-dir", str(store.data_dir)]
    command = own_command([*arguments, "--heartbeat", str(options.heartbeat)])
    # Not on their command line: it may hold a password.
    run_workers(command, {STORAGE_VARIABLE: url}, devices, options.workers or len(devices), _say)
    return _tell_sweep(standings(study, plan), plan, folder)


def _work(plan: Plan, study: "Study", store: RunStore) -> int:
    """Be one worker; the first Ctrl-C, or the wish of a cluster to end it, lets it save and give its row back."""
    is_over = False

    def end(_: signal.Signals) -> None:
        nonlocal is_over
        is_over = True

    def make_run(place: RunStore, row: Row) -> Run:
        return _new_run(place, row.config, row.photos)

    with heard(end):
        SweepWorker(plan, study, store, make_run, lambda: is_over, _say).work()
    return INTERRUPTED if is_over else 0


def _tell_sweep(found: Sequence[Standing], plan: Plan, folder: Path) -> int:
    _say(f"\n{as_text(rows_of(found, plan))}\n\n{as_text(means_of(found))}\n")
    for path in write_report(found, plan, folder):
        _say(f"written {path}")
    left = sum(standing.state != "done" for standing in found)
    if left:
        _say(f"{left} of {len(found)} runs are not done; the same command goes on with them")
    return 1 if left else 0


def _assignment(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"--set {text} has no value; write it as --set field=value.")
    return name.strip(), value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m apt_engine", description="APT Studio without a page.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(
        name: str, function: Callable[[argparse.Namespace, RunStore], int], help: str
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help)
        made.set_defaults(command=function)
        made.add_argument("--data-dir", type=Path, default=default_data_dir(), help="where runs live (%(default)s)")
        return made

    train = command("train", _train, "Train on a folder of photos.")
    train.add_argument(
        "--photos", type=Path, required=True, metavar="DIR", help="folder with 3 to 10 photos of one thing"
    )
    train.add_argument("--subject", required=True, metavar="WORD", help="what it is: backpack, teddy bear")
    train.add_argument("--base", default="pocket", help="pocket, a model folder, or a hub id (%(default)s)")
    train.add_argument("--steps", type=int, help="steps to train; about 100 a photo unless given")
    train.add_argument("--start-from", metavar="FILE", help="begin with this LoRA file, ours or another program's")
    train.add_argument("--preset", action="append", default=[], metavar="NAME", help="see presets/; may be repeated")
    train.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="any other setting; may be repeated"
    )

    resume = command("resume", _resume, "Go on with a run from its newest checkpoint.")
    resume.add_argument("--run", default="latest", help="id of a run, or latest")
    resume.add_argument("--steps", type=int, help="train to this step, to go on past the end")

    generate = command("generate", _generate, "Make pictures.")
    generate.add_argument("--run", default="latest", help="id of a run, or latest")
    generate.add_argument("--base", default="", help="use this bare base model instead of a run")
    generate.add_argument("--prompt", required=True, help="what to show; {subject} is identifier + class word")
    generate.add_argument("--count", type=int, default=4)
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--out", type=Path, default=Path("pictures"), metavar="DIR")
    generate.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="steps, guidance_scale, strength ..."
    )

    _add_export(command("export", _export, "Write the LoRA files of a run for other programs."))

    verdict = command(
        "verdict", _verdict, "Judge a run's checkpoints by pictures, and the untrained model beside them."
    )
    verdict.add_argument("run", nargs="?", default="latest", help="id of a run, or latest")

    command("runs", _runs, "List all runs, newest first.")

    sweep = command("sweep", _sweep, "Train many runs: subjects x settings x seeds; see docs/sweep.md.")
    sweep.add_argument("plan", type=Path, metavar="PLAN.toml", help="what to train")
    sweep.add_argument("--workers", type=int, default=0, help="processes; one a GPU unless given")
    sweep.add_argument(
        "--storage",
        default=os.environ.get(STORAGE_VARIABLE, ""),
        metavar="URL",
        help=f"database that workers share; ${STORAGE_VARIABLE}, else an SQLite file in the data directory",
    )
    sweep.add_argument(
        "--heartbeat", type=int, default=HEARTBEAT_SECONDS, metavar="SECONDS", help="sign of life (%(default)s)"
    )
    sweep.add_argument("--worker", action="store_true", help="be one worker and start no others")
    sweep.add_argument("--render", choices=tuple(KINDS), help="write a job file for other machines and train nothing")
    sweep.add_argument("--out", type=Path, metavar="DIR", help="where to write the job file (here)")
    return parser


def _add_export(export: argparse.ArgumentParser) -> None:
    export.add_argument("--run", default="latest", help="id of a run, or latest")
    export.add_argument(
        "--step", default="kept", metavar="N", help="which checkpoint: a step, kept (the best one), or last"
    )
    export.add_argument("--out", type=Path, metavar="DIR", help="where to write; the run's own folder unless given")
    export.add_argument("--merged", action="store_true", help="also a whole checkpoint with the LoRA inside")
    export.add_argument(
        "--push", metavar="OWNER/NAME", help="send the files to this repository of the Hugging Face hub"
    )
    export.add_argument("--public", action="store_true", help="make that repository public, if it is made now")
