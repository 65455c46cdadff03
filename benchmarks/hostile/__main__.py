"""`python -m benchmarks.hostile [group ...]`: hostile files of every kind, each group in a process of its own; prints a table."""

import argparse
import faulthandler
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from benchmarks.hostile.outcome import SENTINEL, Outcome

ROOT = Path(__file__).resolve().parents[2]
MUTANTS = 4000
SECONDS_OF_HANG = 60  # without a word, on a busy machine
GROUPS = {
    "pictures": ("pictures", "pictures"),
    "mutated pictures": ("pictures", "mutants"),
    "LoRA files": ("loras", "loras"),
    "base models": ("bases", "bases"),
    "event lines": ("runs", "event_lines"),
    "run folders": ("runs", "run_folders"),
    "long event files": ("runs", "long_events"),
}


def main(arguments: list[str] | None = None) -> int:
    """Judge the groups; 0 if there was no defect."""
    parser = argparse.ArgumentParser(description="Hostile files of every kind, and what becomes of them.")
    parser.add_argument("groups", nargs="*", metavar="group", help=f"of {', '.join(GROUPS)}; all unless given")
    parser.add_argument("--inside", help=argparse.SUPPRESS)  # this is the process of a group
    options = parser.parse_args(arguments)
    if options.inside:
        return _judge(options.inside, Path.cwd())
    heads = ("files", "accepted", "refused", "defects", "slowest, s", "most memory, MB", "code run")
    print(f"| | {' | '.join(heads)} |\n| --- {'| ---: ' * len(heads)}|")
    return int(sum(_row(group) for group in options.groups or GROUPS) > 0)


def _row(group: str) -> int:
    """Judge a group and print its line; returns the number of its defects."""
    with tempfile.TemporaryDirectory() as folder:
        sentinel = Path(folder) / "sentinel"
        inside = Path(folder) / "files"
        inside.mkdir()
        environment = {**os.environ, SENTINEL: str(sentinel), "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-m", "benchmarks.hostile", "--inside", group]
        done = subprocess.run(command, cwd=inside, env=environment, stdout=subprocess.PIPE, text=True, check=False)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        memory = lines.pop()["memory"] if done.returncode == 0 else 0
        found = [Outcome(**line) for line in lines]
        defects = [outcome for outcome in found if outcome.is_defect]
        counts = Counter(outcome.verdict for outcome in found)
        slowest = max((outcome.seconds for outcome in found), default=0.0)
        ran = sentinel.exists()
    numbers = (
        len(found),
        counts["accepted"],
        counts["refused"],
        len(defects),
        f"{slowest:.1f}",
        memory,
        "yes" if ran else "no",
    )
    print(f"| {group} | {' | '.join(map(str, numbers))} |", flush=True)
    for outcome in defects:
        print(f"  {outcome.name}: {outcome.verdict}, {outcome.seconds:.1f} s, {outcome.words}", file=sys.stderr)
    if done.returncode:
        print(f"  {group} ended with {done.returncode} after {found[-1].name if found else 'nothing'}", file=sys.stderr)
    return len(defects) + ran + (done.returncode != 0)


def _judge(group: str, folder: Path) -> int:
    """The process of a group: a line of JSON for each file; at a hang it ends itself."""
    module, function = GROUPS[group]
    judged = getattr(importlib.import_module(f"benchmarks.hostile.{module}"), function)
    found: Iterator[Outcome] = judged(folder, *((MUTANTS,) if function == "mutants" else ()))
    started = time.monotonic()
    faulthandler.dump_traceback_later(SECONDS_OF_HANG, exit=True)
    for outcome in found:
        faulthandler.dump_traceback_later(SECONDS_OF_HANG, exit=True)
        print(json.dumps(vars(outcome)), flush=True)
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps({"memory": _most_memory(), "seconds": time.monotonic() - started}), flush=True)
    return 0


def _most_memory() -> int:
    """MB that this process or one that it has ended took at most."""
    from apt_engine.photos import pool

    for child in list(pool._idle):  # noqa: SLF001 - ended so that the system counts it
        pool._expire(child)  # noqa: SLF001
    used = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return max(used) // 1024


if __name__ == "__main__":
    raise SystemExit(main())
