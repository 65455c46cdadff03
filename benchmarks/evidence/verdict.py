"""Does the verdict order checkpoints from under- to overfitted as the judge does, with the untouched model's own measures alone?

    python -m benchmarks.evidence.verdict measure                   judge POINTS of runs that were measured; row by row
    python -m benchmarks.evidence.verdict                           the rank correlations, from the rows alone

A checkpoint is a point: of a run of the evidence, in whose rows stands what the judge (and EfficientNet-Lite0) saw. From
under- to overfitted likeness and copies rise, the model moves, and prompts are followed less. Each side ranks the points by
each of its four measures, as differences to the untrained model's on the same subject, and orders them by the mean of the four
ranks:

    the verdict   likeness, follows, copies by the untouched model's features and losses; drift of its predictions
    the judge     likeness to held-out photos, places and treatments as asked, copies, pictures of other things moved

The points were chosen before any was measured, and the measures' details on tuning subjects alone. The judge looked at more
pictures after the first five evidence subjects had been measured; the other five were chosen then.
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy
import torch

from apt_engine.bases.registry import load_base
from apt_engine.lora import files
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.training.verdict import Judging
from benchmarks.evidence.curves import Trajectory, trajectories
from benchmarks.evidence.rows import Judged, Rows, read
from benchmarks.likeness import ROOT

MEASURED = ROOT / "benchmarks" / "evidence" / "measured"
SEED = 1
STEPS = (  # plain, then apt
    ((50, 300), (100, 500)),
    ((100, 400), (50, 300)),
    ((150, 500), (200, 400)),
    ((200, 400), (150, 500)),
    ((50, 500), (100, 300)),
)
SUBJECTS = {
    "evidence": (
        *("siamese_cat", "leather_armchair", "mountain_bike", "purple_guitar", "wooden_train"),
        *("wooden_car", "blue_truck", "bulldog", "gold_lamp", "blue_vase"),
    ),
    "tuning": ("orchid", "rocking_horse"),
}
TUNED = (50, 100, 200, 350, 500)  # of plain runs
POINTS = {
    "evidence": [
        (subject, method, step)
        for subject, both in zip(SUBJECTS["evidence"], 2 * STEPS, strict=True)
        for method, steps in zip(("plain", "apt"), both, strict=True)
        for step in steps
    ],
    "tuning": [(subject, "plain", step) for subject in SUBJECTS["tuning"] for step in TUNED],
}
SIDES = {  # of the verdict and of the judge; -1 where less is more overfitted
    "likeness": ("likeness", "likeness", 1),
    "follows the prompt": ("follows", "follows", -1),
    "repeats the photos": ("copies", "copies", 1),
    "the rest has moved": ("drift", "moved", 1),
}


def measure(rows: Rows, store: RunStore, points: Sequence[tuple[str, str, int]]) -> Iterator[Judged]:
    """Judge what is not there yet; runs are found by their markers, as `benchmarks.runs` leaves them, and only read.

    Args:
        rows: where it is kept.
        store: of the runs.
        points: subject, method and step.
    """
    for subject in dict.fromkeys(subject for subject, _, _ in points):
        missing = [
            point for point in points if point[0] == subject and not rows.has(Judged, *point[:2], SEED, point[2])
        ]
        if not missing:
            continue
        run = _run_of(store, missing[0])
        base = load_base("pocket", device="cpu", dtype="fp32", attention="plain")
        judging = Judging(run, base, keep=False)
        before = judging.look(0)
        photos = {name: float(numpy.mean(getattr(judging.photos, name))) for name in ("likeness", "follows", "copies")}
        photos["nearest"] = max(judging.photos.copies)
        found = [(("base", 0, 0), before)]
        for point in missing:
            files.load(base, _run_of(store, point).checkpoint(str(point[2])).lora_path)
            found.append(((point[1], SEED, point[2]), judging.look(point[2])))
        for (method, seed, step), one in found:
            if not rows.has(Judged, subject, method, seed, step):
                row = Judged(
                    subject=subject,
                    method=method,
                    seed=seed,
                    step=step,
                    likeness=list(one.likeness),
                    follows=list(one.follows),
                    copies=list(one.copies),
                    drift=one.drift,
                    photos=photos,
                )
                rows.add(row)
                yield row


def report(rows: Sequence[Judged], runs: Sequence[Trajectory]) -> str:
    """The rank correlations of all points that were measured on both sides, and a line a point.

    Args:
        rows: what the untouched model saw.
        runs: what others saw; a run that is not among them has no point.
    """
    seen = {(run.finished.subject, run.finished.method): run for run in runs if run.finished.seed == SEED}
    points = [row for row in rows if (row.subject, row.method) in seen]
    before = {row.subject: row for row in rows if row.step == 0 and row.subject in {point.subject for point in points}}
    own_runs = [seen[row.subject, row.method] for row in points]
    ours = {
        name: numpy.array(
            [numpy.mean(getattr(row, own)) - numpy.mean(getattr(before[row.subject], own)) for row in points]
        )
        for name, (own, _, _) in SIDES.items()
    }
    theirs = {
        name: numpy.array(
            [run.at(row.step, other) - run.at(0, other) for row, run in zip(points, own_runs, strict=True)]
        )
        for name, (_, other, _) in SIDES.items()
    }
    signs = [sign for _, _, sign in SIDES.values()]
    both = [
        numpy.mean([ranks(sign * side[name]) for name, sign in zip(SIDES, signs, strict=True)], axis=0)
        for side in (ours, theirs)
    ]
    subjects = numpy.array([row.subject for row in points])
    lines = [f"n = {len(points)} checkpoints of {len(before)} subjects", f"{'':<20} all points | within subjects, mean"]
    lines.append(_line("all four", both[0], both[1], subjects))
    lines += [_line(name, ours[name], theirs[name], subjects) for name in SIDES]
    lines += ["", "from under- to overfitted by the verdict (mean rank; by the judge)"]
    for index in numpy.argsort(both[0], kind="stable"):
        row = points[index]
        lines.append(f"{both[0][index]:5.1f} {both[1][index]:5.1f}  {row.subject}, {row.method}, {row.step}")
    return "\n".join(lines)


def ranks(values: numpy.ndarray) -> numpy.ndarray:
    """From 1, equal values sharing the mean of theirs."""
    return numpy.array([(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values])


def spearman(one: numpy.ndarray, other: numpy.ndarray) -> float:
    """Rank correlation; 0 where one side tells no two apart."""
    first, second = ranks(one), ranks(other)
    return float(numpy.corrcoef(first, second)[0, 1]) if first.std() and second.std() else 0.0


def _line(name: str, ours: numpy.ndarray, theirs: numpy.ndarray, subjects: numpy.ndarray) -> str:
    within = [spearman(ours[subjects == one], theirs[subjects == one]) for one in dict.fromkeys(subjects)]
    return f"{name:<20} {spearman(ours, theirs):10.2f} | {numpy.mean(within):.2f}"


def _run_of(store: RunStore, point: tuple[str, str, int]) -> Run:
    """Of a finished run the folder, read and never written."""
    subject, method, _ = point
    return store.open((store.data_dir / f"{subject}-{method}-{SEED}.txt").read_text(encoding="utf-8"))


def main() -> None:
    """Measure, or report what was measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence.verdict", description=__doc__)
    parser.add_argument("do", nargs="?", choices=("report", "measure"), default="report")
    parser.add_argument("--role", choices=tuple(POINTS), default="evidence")
    parser.add_argument("--work", type=Path, default=ROOT / ".bench" / "evidence", help="where runs lie (%(default)s)")
    parser.add_argument("--rows", type=Path, default=MEASURED, help="folder of the rows (%(default)s)")
    parser.add_argument("--judged", type=Path, default=MEASURED, help="folder of the judge's rows (%(default)s)")
    options = parser.parse_args()
    path = options.rows / f"verdict-{options.role}.jsonl"
    if options.do == "measure":
        torch.set_num_threads(1)
        for row in measure(Rows(path), RunStore(options.work), POINTS[options.role]):
            print(*row.key, flush=True)
    runs = trajectories(read(options.judged / f"{options.role}.jsonl"))
    print(report([row for row in read(path) if isinstance(row, Judged)], runs))


if __name__ == "__main__":
    main()
