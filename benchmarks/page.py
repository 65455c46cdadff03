"""What the page costs: `python -m benchmarks.page`. A run of 10,000 made-up steps, read whole and then event by event.

Prints medians with their n: reading the run for the first time, a refresh with one new event, the size of what a refresh
sends, and the share of a core that an open, idle page takes (with `--idle`, half a minute in Chromium).
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from apt_engine.config import TrainingConfig
from apt_engine.events import RunStarted, StepFinished
from apt_engine.runs import Run
from ui.context import open_context
from ui.places import OnePlace
from ui.tabs import watch

STEPS = 10_000
IDLE_SECONDS = 30


def make_run(folder: Path, steps: int) -> tuple[Any, Run]:
    """A context and a run of so many steps."""
    context = open_context(OnePlace(folder))
    run = context.store.create(TrainingConfig(subject="bear", steps=steps), lambda photos: None)
    run.append(
        RunStarted(run=run.id, base="pocket", subject="bear", photo_count=5, first_step=0, last_step=steps + 100)
    )
    with run.events_path.open("ab") as file:
        for step in range(1, steps + 1):
            file.write(_line(step))
    return context, run


def _line(step: int) -> bytes:
    from apt_engine.events import to_json

    event = StepFinished(
        step=step,
        loss=0.1 + 0.01 * (step % 7),
        reference_loss=0.2,
        stabilization=0.1,
        alignment=0.2,
        gradient_norm=1.0,
        learning_rate=1e-4,
        seconds=0.2,
        timesteps=(1, 2, 3, 4),
        chances=(0.1, 0.2, 0.3, 0.4),
        warped=(False, True, False, True),
        weights=(0.9, 0.8, 0.7, 0.6),
        gamma=tuple(0.1 * row for row in range(10)),
        raw_gamma=tuple(0.1 * row for row in range(10)),
        visits=(step,) * 10,
    )
    return to_json(event).encode() + b"\n"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.page", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--idle", action="store_true", help="also an idle page in Chromium")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        context, run = make_run(Path(folder), STEPS)
        opened, refreshed = [], []
        shown: list[Any] = []
        for _ in range(options.rounds):
            started = time.perf_counter()
            shown = watch.open_run(context, run.id)
            opened.append(time.perf_counter() - started)
        watched = shown[0]
        for number in range(options.rounds):
            run.append(
                StepFinished(step=STEPS + number + 1, loss=0.1, gradient_norm=1, learning_rate=1e-4, seconds=0.2)
            )
            started = time.perf_counter()
            shown = list(watch.refresh(context, watched))
            refreshed.append(time.perf_counter() - started)
            watched = shown[0]
        sent = sum(len(json.dumps(value)) for value in shown[1:] if isinstance(value, str | dict))
    for what, seconds in (("first reading of 10,000 steps", opened), ("refresh with one new event", refreshed)):
        print(f"{what}: median {1000 * statistics.median(seconds):.0f} ms, {_spread(seconds)}, n = {len(seconds)}")
    print(f"a refresh sends {sent / 1000:.0f} kB before compression")
    if options.idle:
        measure_idle()


def measure_idle() -> None:
    """The share of a core that the page's process takes while a page is open and nothing happens."""
    from tests.browser import opened

    with tempfile.TemporaryDirectory() as folder, opened(Path(folder)) as page:
        process = psutil.Process(page.process.pid)
        time.sleep(5)
        before = process.cpu_times()
        time.sleep(IDLE_SECONDS)
        after = process.cpu_times()
        spent = after.user + after.system - before.user - before.system
        print(f"idle page: {100 * spent / IDLE_SECONDS:.1f} % of a core over {IDLE_SECONDS} s, n = 1")


def _spread(seconds: list[float]) -> str:
    return f"{1000 * min(seconds):.0f} to {1000 * max(seconds):.0f}"


if __name__ == "__main__":
    main()
