"""`python -m benchmarks.reliability [--only part ... | --long]`: ends of every kind, and what is left of a run.

It writes docs/reliability.md. Each end is a line of `measured.jsonl`, so that parts can be run apart: those of a
part that is run anew are replaced.
"""

import argparse
import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from filelock import FileLock

from benchmarks.reliability import report
from benchmarks.reliability.long_run import STEPS, long_run
from benchmarks.reliability.pages import killed_pages
from benchmarks.reliability.sessions import PRELOADED, new_run
from benchmarks.reliability.trials import Bench, Trial, full_disk, killed_at, killed_in_training, signalled
from tests.photos import draw_photos
from tests.toy import save_toy_base

MEASURED = Path(__file__).with_name("measured.jsonl")
MEASURED_LONG = Path(__file__).with_name("long.jsonl")
SHORT = {"steps": 4, "sample_every_steps": 2, "drift_every_steps": 2}
# What is made of a part: from a folder, the toy and photos.
PARTS: dict[str, Callable[[Path, Path, Path, int], Iterator[Trial]]] = {
    "training": lambda folder, base, photos, count: killed_in_training(
        Bench(folder, lambda at: new_run(at, base, photos, steps=40, save_every_steps=4)), count or 100
    ),
    "saving": lambda folder, base, photos, count: killed_at(
        Bench(folder, lambda at: new_run(at, base, photos, **SHORT)),
        "kill -9 in saving",
        r'checkpoints/|"CheckpointSaved"',
        count or 200,
    ),
    "export": lambda folder, base, photos, count: killed_at(
        Bench(folder, lambda at: new_run(at, base, photos, **SHORT)),
        "kill -9 in export",
        r'exports|"ExportReady"|"exporting"|"RunFinished"',
        count or 40,
    ),
    "page": lambda folder, base, photos, count: killed_pages(
        Bench(folder, lambda at: new_run(at, base, photos)), count or 20
    ),
    "signals": lambda folder, base, photos, _: signalled(Bench(folder, lambda at: new_run(at, base, photos))),
    "disk": lambda folder, base, photos, _: full_disk(Bench(folder, lambda at: new_run(at, base, photos, **SHORT))),
}


def main(arguments: list[str] | None = None) -> int:
    """Try the parts, keep what came of them, and write the page; 0 if nothing was lost, wrong or stuck."""
    parser = argparse.ArgumentParser(description="Ends of every kind, and what is left of a run.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts; all unless given")
    parser.add_argument("--count", type=int, default=0, help="so many kills in each part, in place of the usual number")
    parser.add_argument("--long", type=int, nargs="?", const=STEPS, help=f"a run of so many steps instead ({STEPS:,})")
    parser.add_argument("--folder", type=Path, help="for --long: where it lies, so that it can be gone on with")
    parser.add_argument("--dry", action="store_true", help="print what came of it, and keep nothing")
    options = parser.parse_args(arguments)
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if options.long:
        return _long(options.folder, options.long)
    if "page" in options.only:
        PRELOADED.append("ui.layout")
    defects = 0
    with tempfile.TemporaryDirectory() as place:
        base = save_toy_base(Path(place) / "toy")
        photos = draw_photos(Path(place) / "photos")
        for part in options.only:
            folder = Path(place) / part
            rows = []
            for trial in PARTS[part](folder, base, photos, options.count):
                rows.append({"part": part, **dataclasses.asdict(trial)})
                defects += report.is_defect(rows[-1])
                print(json.dumps(rows[-1]), flush=True)
                if not options.dry:
                    _keep(part, rows)
    if not options.dry:
        report.write(_kept())
    return int(defects > 0)


def _long(folder: Path | None, steps: int) -> int:
    """The long run, and its table as it grows; 0 if it was finished."""
    with tempfile.TemporaryDirectory() as other:
        place = folder or Path(other)
        place.mkdir(parents=True, exist_ok=True)
        return int(
            long_run(place, save_toy_base(place / "toy"), draw_photos(place / "photos"), steps, _keep_long)
            != "finished"
        )


def _keep_long(rows: Sequence[Mapping[str, object]]) -> None:
    MEASURED_LONG.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report.write_long(rows)


def _kept() -> list[dict[str, object]]:
    lines = MEASURED.read_text(encoding="utf-8").splitlines() if MEASURED.exists() else []
    return [json.loads(line) for line in lines]


def _keep(part: str, rows: list[dict[str, object]]) -> None:
    with FileLock(Path(tempfile.gettempdir()) / "apt-reliability.lock"):  # parts may be run side by side
        others = [row for row in _kept() if row["part"] != part]
        MEASURED.write_text("".join(json.dumps(row) + "\n" for row in others + rows), encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
