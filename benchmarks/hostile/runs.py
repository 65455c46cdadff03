"""Run folders and event lines, looked at as the page and the command line do."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from apt_engine.errors import EngineError
from apt_engine.runs import library
from apt_engine.runs.events import StepFinished, to_json
from apt_engine.runs.history import History, summarize
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig
from benchmarks.hostile.folders import damages
from benchmarks.hostile.lines import WHOLE, lines
from benchmarks.hostile.outcome import Outcome, judge

LONG_FILE = 200_000_000  # bytes


def event_lines(folder: Path) -> Iterator[Outcome]:
    """Each line at the end of a run's events, and among them; both runs must be told of as if it were not there."""
    run = _whole_run(RunStore(folder))
    whole = b"".join(to_json(event).encode() + b"\n" for event in WHOLE)
    for name, line in lines().items():
        run.events_path.write_bytes(whole + line + b"\n" + whole)
        yield judge(name, lambda: _told(run), lambda told: "" if told.startswith("finished, step 1 of 10") else told)


def run_folders(folder: Path) -> Iterator[Outcome]:
    """Each damaged folder beside a whole one, which must stay in the list with all that is known of it."""
    for number, (name, damage) in enumerate(damages().items()):
        store = RunStore(folder / str(number))
        whole, other = _whole_run(store), _whole_run(store)
        damage(other.path)
        yield judge(
            name, lambda store=store: _listed(store), lambda told, run=whole: "" if run.id in told else "is gone"
        )
        shutil.rmtree(store.data_dir, ignore_errors=True)


def long_events(folder: Path) -> Iterator[Outcome]:
    """200 MB of steps, samples and stages; of one line; of empty lines; of lines that are none."""
    run = _whole_run(RunStore(folder))
    step = StepFinished(
        step=1, loss=0.5, gradient_norm=1.0, learning_rate=1e-4, seconds=0.1, gamma=(0.125,) * 10, visits=(100,) * 10
    )
    block = to_json(step).encode() + b"\n"
    others = b"".join(to_json(event).encode() + b"\n" for event in WHOLE)
    for name, unit in {
        "steps": block * 25 + others,
        "one line": b"x" * 1000,
        "empty lines": b"\n",
        "objects": b"{}\n",
        "samples": to_json(WHOLE[6]).encode() + b"\n",
    }.items():
        piece = unit * (1_000_000 // len(unit))
        with run.events_path.open("wb") as file:
            for _ in range(LONG_FILE // len(piece)):
                file.write(piece)
        yield judge(f"200 MB of {name}, in the list", lambda: summarize(run))
        yield judge(f"200 MB of {name}, with curves", lambda: History.new(run, run.config, 3).read_on())
    run.events_path.unlink()


def _whole_run(store: RunStore) -> Run:
    run = store.create(
        TrainingConfig(subject="cat", steps=10), lambda at: Image.new("RGB", (64, 64)).save(at / "01.png")
    )
    run.save_checkpoint(1, lambda at: (at / "lora.safetensors").touch())
    for name in ("samples", "exports"):
        (run.path / name).mkdir()
    library.rename(run, "whole")
    for event in WHOLE:
        run.append(event)
    return run


def _told(run: Run) -> str:
    """What the list says of a run, and all that its own page shows, as it would be sent."""
    summary = summarize(run)
    history = History.new(run, run.config, len(run.photo_paths))
    history.read_on()
    shown = [summary.samples, summary.message, summary.notices, history.losses, history.gammas, run.captions]
    paths = [*summary.samples.values(), *summary.views, *(export.path for export in summary.exports.values())]
    outside = [path for path in paths if not (run.path / path).is_relative_to(run.path) or ".." in path]
    if outside:
        return f"leads to {outside}"
    json.dumps([str(one) for one in shown], ensure_ascii=False).encode()
    return f"{summary.state_while(False)}, step {summary.step} of {summary.last_step}, {summary.seconds_per_step or 0:.2f} s"


def _listed(store: RunStore) -> list[str]:
    told = []
    for run in store.list():
        try:
            words = (
                f"{_told(run)} {library.title_of(run)} {[item.step for item in run.checkpoints() if item.is_intact()]}"
            )
            library.pack(run, store.data_dir / "run.zip")
        except EngineError as error:
            words = str(error)
        words.encode()
        told.append(run.id)
    return told
