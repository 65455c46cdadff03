"""The command that trains many runs: `sweep`."""

import argparse
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from apt_engine.cli.console import say
from apt_engine.cli.train import INTERRUPTED, new_run
from apt_engine.jobs.leaving import heard
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
from apt_engine.runs.files import writing
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.presets import load_presets

if TYPE_CHECKING:
    from optuna import Study

MOST_JOBS = 8  # that a job file starts unless told otherwise


def sweep(options: argparse.Namespace, store: RunStore) -> int:
    """Train the rows of a plan, be one worker, or write a job file; returns the exit code."""
    plan = read_plan(options.plan, load_presets())
    folder = folder_of(store, plan)
    if options.render:
        job = Job(plan, store.data_dir, options.workers or min(len(plan.rows), MOST_JOBS))
        path, submit = render(options.render, job, options.out or Path())
        say(f"{path} written; submit it with: {submit}")
        return 0
    url = options.storage or SQLITE + (folder / "sweep.db").resolve().as_posix()
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    study = open_study(plan, url, options.heartbeat)
    if options.worker:
        return _work(plan, study, store)
    say(f"{enqueue_missing(study, plan)} of {len(plan.rows)} runs to train")
    devices = devices_of(plan)
    arguments = ["sweep", str(options.plan), "--worker", "--data-dir", str(store.data_dir)]
    command = own_command([*arguments, "--heartbeat", str(options.heartbeat)])
    # Not on their command line: it may hold a password.
    run_workers(command, {STORAGE_VARIABLE: url}, devices, options.workers or len(devices), say)
    return _tell_sweep(standings(study, plan), plan, folder)


def _work(plan: Plan, study: "Study", store: RunStore) -> int:
    """Be one worker; the first Ctrl-C, or the wish of a cluster to end it, lets it save and give its row back."""
    is_over = False

    def end(_: signal.Signals) -> None:
        nonlocal is_over
        is_over = True

    def make_run(place: RunStore, row: Row) -> Run:
        return new_run(place, row.config, row.photos)

    with heard(end):
        SweepWorker(plan, study, store, make_run, lambda: is_over, say).work()
    return INTERRUPTED if is_over else 0


def _tell_sweep(found: Sequence[Standing], plan: Plan, folder: Path) -> int:
    say(f"\n{as_text(rows_of(found, plan))}\n\n{as_text(means_of(found))}\n")
    for path in write_report(found, plan, folder):
        say(f"written {path}")
    left = sum(standing.state != "done" for standing in found)
    if left:
        say(f"{left} of {len(found)} runs are not done; the same command goes on with them")
    return 1 if left else 0


def add_sweep(command: argparse.ArgumentParser) -> None:
    """What `sweep` takes."""
    command.add_argument("plan", type=Path, metavar="PLAN.toml", help="what to train")
    command.add_argument("--workers", type=int, default=0, help="processes; one a GPU unless given")
    command.add_argument(
        "--storage",
        default=os.environ.get(STORAGE_VARIABLE, ""),
        metavar="URL",
        help=f"database that workers share; ${STORAGE_VARIABLE}, else an SQLite file in the data directory",
    )
    command.add_argument(
        "--heartbeat", type=int, default=HEARTBEAT_SECONDS, metavar="SECONDS", help="sign of life (%(default)s)"
    )
    command.add_argument("--worker", action="store_true", help="be one worker and start no others")
    command.add_argument("--render", choices=tuple(KINDS), help="write a job file for other machines and train nothing")
    command.add_argument("--out", type=Path, metavar="DIR", help="where to write the job file (here)")
