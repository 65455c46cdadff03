"""Job files that start the ordinary sweep command on other machines. Nothing is sent anywhere: a person submits them.

All machines ask one database. Its address may hold a password, so job files name the variable that holds it, never the address.
"""

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from apt_engine.errors import ConfigError
from apt_engine.jobs.sweep.plan import Plan
from apt_engine.runs.files import write_atomically

ROOT = Path(__file__).resolve().parents[3]
STORAGE_VARIABLE = "APT_SWEEP_STORAGE"
IMAGE = "pytorch/pytorch:2.8.0-cuda12.8-cudnn9-runtime"
LEFT_OUT = (".venv", ".git", ".bench", ".pocket", "__pycache__")  # of what is sent along


@dataclass(frozen=True)
class Job:
    """What to start.

    Attributes:
        plan: that the workers share.
        data_dir: where runs go, seen by all of a cluster's machines.
        workers: how many jobs.
    """

    plan: Plan
    data_dir: Path
    workers: int


def render(kind: str, job: Job, folder: Path) -> tuple[Path, str]:
    """Write the job file of a kind, one of KINDS; returns its path and how to submit it.

    Raises:
        ConfigError: what the plan names cannot be sent along.
        DiskError: it cannot be written.
    """
    ending, write = KINDS[kind]
    text, submit = write(job)
    path = folder / f"{job.plan.name}.{ending}"
    write_atomically(path, text.encode())
    return path, submit.format(path=shlex.quote(str(path)))


def _slurm(job: Job) -> tuple[str, str]:
    """One array; a job that is cut off by its time limit or preempted goes on when it is queued again."""
    command = _command(sys.executable, str(job.plan.path.resolve()), str(job.data_dir.resolve()))
    return (
        f"""#!/bin/bash
# All machines must see this folder and the data directory. SQLite does not work over most network file systems: set
# {STORAGE_VARIABLE} to the address of a database server, such as postgresql+psycopg://user:password@host/name.
#SBATCH --job-name=apt-{job.plan.name}
#SBATCH --array=1-{job.workers}
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=32G
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@180
cd {shlex.quote(str(ROOT))} || exit 1
exec srun {command}
""",
        "sbatch {path}",
    )


def _skypilot(job: Job) -> tuple[str, str]:
    """One managed job a worker, all on one volume; the network address of the database comes as a secret."""
    plan = _portable(job.plan)
    text = f"""# Before: sky volumes apply, for a volume called apt-sweep that several machines may mount at once.
name: {json.dumps(f"apt-{job.plan.name}")}
workdir: {json.dumps(str(ROOT))}
resources:
  accelerators: L4:1
secrets:
  {STORAGE_VARIABLE}: null
volumes:
  /data: apt-sweep
file_mounts:
  /plan: {json.dumps(str(plan.parent))}
setup: |
  pip install -r requirements.txt -r requirements-sweep.txt
run: |
  exec {_command("python", f"/plan/{plan.name}", "/data")}
"""
    again = f"for n in $(seq {job.workers}); do sky jobs launch --yes --detach-run --secret {STORAGE_VARIABLE} {{path}}; done"
    return text, again


def _hfjobs(job: Job) -> tuple[str, str]:
    """A script that submits one job a worker; program and plan are sent along, runs go to a bucket."""
    plan = _portable(job.plan)
    without = " ".join(f"--exclude={name}" for name in LEFT_OUT)
    inside = (
        "cp -r /program /studio && cd /studio && pip install -q -r requirements.txt -r requirements-sweep.txt && exec "
        + _command("python", f"/plan/{plan.name}", "/data")
    )
    text = f"""#!/bin/bash
# Needs {STORAGE_VARIABLE}, the address of a database server, and BUCKET, a bucket of yours such as me/apt-sweep.
set -eu
: "${{{STORAGE_VARIABLE}:?}}" "${{BUCKET:?}}"
program=$(mktemp -d)
trap 'rm -rf "$program"' EXIT
tar -C {shlex.quote(str(ROOT))} {without} -cf - . | tar -C "$program" -xf -
for n in $(seq {job.workers}); do
  hf jobs run --detach --flavor l4x1 --timeout 24h --attempts 3 --secrets {STORAGE_VARIABLE} \\
    -v "$program:/program" -v {shlex.quote(f"{plan.parent}:/plan")} -v "hf://buckets/$BUCKET:/data" \\
    {IMAGE} bash -c {shlex.quote(inside)}
done
"""
    return text, "bash {path}"


KINDS: dict[str, tuple[str, Callable[[Job], tuple[str, str]]]] = {
    "slurm": ("sbatch", _slurm),
    "skypilot": ("yaml", _skypilot),
    "hfjobs": ("sh", _hfjobs),
}


def _command(python: str, plan: str, data_dir: str) -> str:
    return shlex.join([python, "-m", "apt_engine", "sweep", plan, "--data-dir", data_dir, "--workers", "1"])


def _portable(plan: Plan) -> Path:
    """The plan's file, once it is sure that all it names lies in its own folder.

    Raises:
        ConfigError: a folder of photos or a base model lies elsewhere.
    """
    path = plan.path.resolve()
    bases = [Path(row.config.base) for row in plan.rows if Path(row.config.base).exists()]
    for named in dict.fromkeys([*(row.photos for row in plan.rows), *bases]):
        if not named.resolve().is_relative_to(path.parent):
            raise ConfigError(
                f"{named} does not lie in the folder of {path.name}, which alone is sent along; move it there, or give a "
                "base model by its hub id."
            )
    return path
