"""The command line of the evidence: run, vary, tune, report."""

import argparse
from pathlib import Path

import torch

from apt_engine.runs.store import RunStore
from benchmarks.evidence.curves import trajectories
from benchmarks.evidence.methods import METHODS, VARIATIONS
from benchmarks.evidence.replay import by_rule
from benchmarks.evidence.report import page
from benchmarks.evidence.rows import Rows, read
from benchmarks.evidence.running import measure_all
from benchmarks.evidence.scores import HEAD, line, outcomes
from benchmarks.evidence.tuning import AS_LIVE, THINNINGS, TRIED, controls, ranked
from benchmarks.evidence.variations import compared
from benchmarks.likeness import ROOT, list_subjects

ROLES = ("tuning", "evidence")
DRAWING = "drawing"  # a set that is no photograph; its rows are in no table of the report yet
SHOWN = 15
MEASURED = ROOT / "benchmarks" / "evidence" / "measured"


def main() -> None:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__)
    commands = parser.add_subparsers(required=True)
    run = commands.add_parser("run", help="train and measure what is not there yet")
    run.set_defaults(do=_run)
    run.add_argument("--roles", nargs="+", default=["tuning"], choices=(*ROLES, DRAWING))
    run.add_argument("--methods", nargs="+", default=["plain", "apt"], choices=tuple(METHODS))
    vary = commands.add_parser(
        "vary", help="run APT with other numbers of its indicator on the tuning subjects, and compare"
    )
    vary.set_defaults(do=_vary)
    for command in (run, vary):
        command.add_argument("--seeds", nargs="+", type=int, default=[1])
        command.add_argument(
            "--work", type=Path, default=ROOT / ".bench" / "evidence", help="where runs lie (%(default)s)"
        )
        command.add_argument("--threads", type=int, default=1)
    tune = commands.add_parser("tune", help="rank the rule's numbers on the tuning subjects")
    tune.set_defaults(do=_tune)
    tune.add_argument("--thinning", choices=tuple(THINNINGS), default=AS_LIVE)
    report = commands.add_parser("report", help="write docs/evidence.md from what was measured")
    report.set_defaults(do=_report)
    report.add_argument("--out", type=Path, default=ROOT / "docs" / "evidence.md", help="(%(default)s)")
    for command in (run, vary, tune, report):
        command.add_argument(
            "--rows", type=Path, default=MEASURED, help="folder of the rows, a file a role (%(default)s)"
        )
    options = parser.parse_args()
    options.do(options)


def _run(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    store = RunStore(options.work)
    for role in options.roles:
        wanted = [
            (subject, method, seed)
            for seed in options.seeds
            for subject in list_subjects(role)
            for method in options.methods
        ]
        for row in measure_all(Rows(options.rows / f"{role}.jsonl"), store, wanted):
            print(*row.key, flush=True)


def _vary(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    path = options.rows / "variations.jsonl"
    subjects = list_subjects("tuning")
    wanted = [(one, method, seed) for seed in options.seeds for one in subjects for method in ("apt", *VARIATIONS)]
    for row in measure_all(Rows(path), RunStore(options.work), wanted):
        print(*row.key, flush=True)
    print(compared(trajectories(read(path))))


def _tune(options: argparse.Namespace) -> None:
    runs = trajectories(read(options.rows / "tuning.jsonl"))
    for method in dict.fromkeys(run.finished.method for run in runs):
        own = [run for run in runs if run.finished.method == method]
        print(f"\n{method}, {len(own)} runs\n\n{HEAD}\n{line('now', outcomes(own, by_rule()))}")
        for name, choose in controls(own).items():
            print(line(name, outcomes(own, choose)))
    print("\nregret, over all methods | rule")
    for lost, rule in ranked(runs, options.thinning)[:SHOWN]:
        print(f"{lost:.4f} | {', '.join(f'{name}={getattr(rule, name)}' for name in TRIED)}")


def _report(options: argparse.Namespace) -> None:
    runs = {role: trajectories(read(options.rows / f"{role}.jsonl")) for role in ROLES}
    options.out.write_text(page(runs), encoding="utf-8")


if __name__ == "__main__":
    main()
