"""A long training under two pages that are opened anew again and again: whether memory and handles stay where they were.

`python -m benchmarks.reliability --long --folder F` may be stopped and given again: run and measurements lie in the folder, and
what they say so far is told every few minutes.
"""

import csv
import json
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.common.by import By
from urllib3.exceptions import HTTPError

from apt_engine.runs.history import summarize
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from benchmarks.reliability.sessions import new_run
from tools.browser import browsing, serving

STEPS = 50_000
SECONDS_BETWEEN_LOOKS = 2.0
SECONDS_BETWEEN_TABLES = 120.0
SECONDS_BETWEEN_LOADS = 20.0
WARM = 0.05  # of the steps: what is made once is there by then
BLOCKS = 24  # looks close in time are alike: the line is drawn through the means of so many blocks
T_95 = 2.074  # Student's t of BLOCKS - 2 degrees of freedom
HEADS = ("processes", "looks", "at first", "at last", "spread", "least", "most", "slope for 10,000 steps (95 %)")


@dataclass(frozen=True)
class Look:
    """One process at one time: its part, the step of the run, resident MB, and open files and sockets."""

    part: str
    pid: int
    step: int
    megabytes: float
    handles: int


def long_run(
    folder: Path, base: Path, photos: Path, steps: int, tell: Callable[[Sequence[Mapping[str, Any]]], object]
) -> str:
    """Train the toy for `steps` steps, with samples; returns how it ended.

    Args:
        folder: holds the run and what is measured.
        base: the toy.
        photos: to learn from.
        steps: of the run.
        tell: called with what is known of page and engine, memory and handles, every few minutes and at the end.
    """
    data_dir, log = folder / "data", folder / "looks.csv"
    known = RunStore(data_dir).list()
    run = known[0] if known else new_run(data_dir, base, photos, **_settings(steps))
    (data_dir / "line.json").write_text(json.dumps([run.id]), encoding="utf-8")
    told = time.monotonic()
    with serving(data_dir) as (address, app):
        is_over = threading.Event()
        pages = threading.Thread(target=_reload_two_pages, args=(address, folder, is_over), daemon=True)
        pages.start()
        while (state := summarize(run)).state not in ("finished", "failed") and app.poll() is None:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            _write(log, _looks(app.pid, state.step))
            if time.monotonic() - told > SECONDS_BETWEEN_TABLES:
                told = time.monotonic()
                tell(list(rows(_read(log), run, _loads(folder))))
        is_over.set()
        pages.join()
    tell(list(rows(_read(log), run, _loads(folder))))
    return state.state


def _settings(steps: int) -> dict[str, Any]:
    """All parts of the method, at the least cost: one photo a step, a hundred checks and checkpoints, samples twice as often."""
    seldom = max(10, steps // 100)
    return {
        "steps": steps,
        "stop": "never",
        "batch_size": 1,
        "save_every_steps": seldom,
        "check_every_steps": seldom,
        "sample_every_steps": max(10, steps // 200),
        "sample_prompts": ("a {subject}",),
        "drift_every_steps": 0,
    }


def _loads(folder: Path) -> int:
    log = folder / "loads.txt"
    return len(log.read_text(encoding="ascii").split()) if log.exists() else 0


def rows(looks: Sequence[Look], run: Run, loads: int) -> Iterator[dict[str, Any]]:
    """What the looks after the first steps say of each part: its level, its spread and its slope; nothing while they are few."""
    state = summarize(run)
    samples = len(list((run.path / "samples").glob("*.png")))
    for part in ("page", "engine"):
        found = [look for look in looks if look.part == part and look.step > WARM * state.step]
        for what in ("megabytes", "handles") if len(found) >= 2 * BLOCKS else ():
            yield {
                "kind": "long run",
                "name": f"{part}, {what}",
                "steps": state.step,
                "wanted": run.config.steps,
                "state": state.state,
                "samples": samples,
                "loads": loads,
                "processes": len({look.pid for look in found}),
                **described([(look.step, getattr(look, what)) for look in found]),
            }


def described(points: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """Level, spread and slope of a quantity over the steps, the slope with its 95 % interval.

    Args:
        points: pairs of step and value, at least 2 x BLOCKS.
    """
    size = len(points) // BLOCKS
    blocks = [points[number * size : (number + 1) * size] for number in range(BLOCKS)]
    xs = [statistics.fmean(step for step, _ in block) for block in blocks]
    ys = [statistics.fmean(value for _, value in block) for block in blocks]
    slope, intercept = statistics.linear_regression(xs, ys)
    residuals = sum((y - intercept - slope * x) ** 2 for x, y in zip(xs, ys, strict=True))
    middle = statistics.fmean(xs)
    error = math.sqrt(residuals / (BLOCKS - 2) / sum((x - middle) ** 2 for x in xs))
    values = [value for _, value in points]
    return {
        "looks": len(points),
        "first": round(ys[0], 2),
        "last": round(ys[-1], 2),
        "spread": round(statistics.pstdev(values), 2),
        "least": round(min(values), 1),
        "most": round(max(values), 1),
        "slope": [round(1e4 * (slope + way * T_95 * error), 3) for way in (0, -1, 1)],
    }


def table(measured: Sequence[Mapping[str, Any]]) -> str:
    """What the run was, and a line for each quantity."""
    if not measured:
        return "Not measured yet."
    run = measured[0]
    said = (
        f"{run['steps']:,} of {run['wanted']:,} steps of the toy with {run['samples']:,} samples ({run['state']}), "
        f"{run['loads']:,} loads of the page in two windows of Chromium."
    )
    lines = [said, "", f"| | {' | '.join(HEADS)} |", f"| --- {'| ---: ' * len(HEADS)}|"]
    for row in measured:
        slope, low, high = row["slope"]
        cells = [row["processes"], f"{row['looks']:,}", *(row[name] for name in ("first", "last", "spread"))]
        cells += [row["least"], row["most"], f"{slope} ({low} to {high})"]
        lines.append(f"| {row['name'].replace('megabytes', 'MB')} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _looks(app: int, step: int) -> list[Look]:
    try:
        process = psutil.Process(app)
        children = [child for child in process.children() if "worker_process" in " ".join(child.cmdline())]
        parts = (("page", process), *(("engine", child) for child in children[:1]))
        return [
            Look(part, found.pid, step, round(found.memory_info().rss / 1e6, 2), found.num_fds())
            for part, found in parts
        ]
    except psutil.Error:  # it has ended meanwhile
        return []


def _reload_two_pages(address: str, folder: Path, is_over: threading.Event) -> None:
    """Open the page anew in two windows in turn; a browser that breaks is replaced."""
    while not is_over.is_set():
        try:
            with browsing(folder / "profile") as browser:
                browser.get(address)
                browser.switch_to.new_window("window")
                windows = browser.window_handles
                for number in range(500):
                    browser.switch_to.window(windows[number % 2])
                    browser.get(address)
                    if is_over.wait(SECONDS_BETWEEN_LOADS):
                        return
                    is_there = bool(browser.find_elements(By.ID, "train"))
                    with (folder / "loads.txt").open("a", encoding="ascii") as file:
                        file.write(f"{int(is_there)}\n")
        except (WebDriverException, HTTPError) as error:  # it broke, or its driver does not answer
            print(f"another browser: {error}"[:300], flush=True)


def _write(log: Path, looks: Sequence[Look]) -> None:
    is_new = not log.exists()
    with log.open("a", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(Look.__dataclass_fields__))
        if is_new:
            writer.writeheader()
        writer.writerows(asdict(look) for look in looks)


def _read(log: Path) -> list[Look]:
    with log.open(encoding="utf-8", newline="") as file:
        return [
            Look(row["part"], int(row["pid"]), int(row["step"]), float(row["megabytes"]), int(row["handles"]))
            for row in csv.DictReader(file)
        ]
