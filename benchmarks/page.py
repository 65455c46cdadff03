"""What the page costs: `python -m benchmarks.page`. A run of 10,000 made-up steps, read whole and then event by event.

Prints medians with their n: reading the run for the first time, a refresh with one new event, the size of what a refresh
sends. With `--browser`, in Chromium: first paint and a page that can be used, after the server's answer; a new event's way
to the plot; the longest task of the page's thread while events come; the share of a core that an idle page takes.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import gradio as gr
import psutil

from apt_engine.runs.events import RunStarted, StepFinished
from apt_engine.runs.run import Run
from apt_engine.settings.training import TrainingConfig
from ui.context import Values, open_context
from ui.serving.tenants import SingleTenant
from ui.tabs import watch

STEPS = 10_000
IDLE_SECONDS = 30
PLOTTED_STEPS = 300

PAINTS = """
const answered = performance.getEntriesByType("navigation")[0].responseStart;
const paint = performance.getEntriesByName("first-contentful-paint")[0].startTime;
return {paint: paint - answered, usable: performance.now() - answered};
"""
PLOT_WATCH = """
window.plottedAt = null;
const drawn = () => document.querySelector("#loss .line")?.getAttribute("d");
const before = drawn(); // what is drawn once more for the event before does not count
const watcher = new MutationObserver(() => {
    if (drawn() === before) return;
    window.plottedAt = Date.now();
    watcher.disconnect();
});
watcher.observe(document.querySelector("#loss"), {childList: true, subtree: true, attributes: true});
"""
LONG_TASKS = """
window.longTasks = [];
new PerformanceObserver(list => list.getEntries().forEach(task => window.longTasks.push(task.duration)))
    .observe({type: "longtask"});
"""


def make_run(folder: Path, steps: int) -> tuple[Any, Run]:
    """A context and a run of so many steps."""
    context = open_context(SingleTenant(folder))
    run = context.store.create(TrainingConfig(subject="bear", steps=steps), lambda photos: None)
    run.append(
        RunStarted(run=run.id, base="pocket", subject="bear", photo_count=5, first_step=0, last_step=steps + 100)
    )
    with run.events_path.open("ab") as file:
        for step in range(1, steps + 1):
            file.write(_line(step))
    return context, run


def _line(step: int) -> bytes:
    from apt_engine.runs.events import to_json

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
    parser.add_argument("--browser", action="store_true", help="also what a person sees, in Chromium")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        context, run = make_run(Path(folder), STEPS)
        opened, refreshed = [], []
        with gr.Blocks(analytics_enabled=False):
            view = watch.build()
        shown: Values = {}
        for _ in range(options.rounds):
            started = time.perf_counter()
            shown = watch.open_run(view, context, run.id)
            opened.append(time.perf_counter() - started)
        watched = shown[view.watched]
        for number in range(options.rounds):
            run.append(
                StepFinished(step=STEPS + number + 1, loss=0.1, gradient_norm=1, learning_rate=1e-4, seconds=0.2)
            )
            started = time.perf_counter()
            shown = watch.refresh(view, context, {view.watched: watched})
            refreshed.append(time.perf_counter() - started)
            watched = shown[view.watched]
        sent = sum(len(json.dumps(value)) for value in shown.values() if isinstance(value, str | dict))
    _tell("first reading of 10,000 steps", opened)
    _tell("refresh with one new event", refreshed)
    print(f"a refresh sends {sent / 1000:.0f} kB before compression")
    if options.browser:
        with tempfile.TemporaryDirectory() as folder:
            measure_in_browser(Path(folder), options.rounds)


def measure_in_browser(folder: Path, rounds: int) -> None:
    """Paint, plot, long tasks and idling, one after the other, over one data directory."""
    from tools.browser import opened

    _, run = make_run(folder / "data", PLOTTED_STEPS)
    with opened(folder) as page:
        paints, usable = [], []
        for _ in range(rounds):
            page.open()
            page.until(lambda: page.browser.execute_script("return document.readyState") == "complete")
            facts = page.browser.execute_script(PAINTS)
            paints.append(facts["paint"] / 1000)
            usable.append(facts["usable"] / 1000)
        _tell("first paint after the server's answer", paints)
        _tell("the page is there to use, after the same", usable)
        page.tab("Watch")
        page.until(lambda: bool(page.find("#loss .line")))
        _tell("an event's way to the plot", [_time_on_plot(page, run, PLOTTED_STEPS + 1 + n) for n in range(rounds)])
        _idle(page)
    _, run = make_run(folder / "long" / "data", STEPS)
    with opened(folder / "long") as page:
        page.tab("Watch")
        page.until(lambda: bool(page.find("#loss .line")))
        page.browser.execute_script(LONG_TASKS)
        switches = []
        for number in range(rounds):
            _append(run, STEPS + 1 + number)
            time.sleep(1)
            started = time.perf_counter()
            name, place = (("Train", "#subject"), ("Watch", "#loss"))[number % 2]
            page.tab(name)
            page.until(lambda place=place: page.find(place)[0].is_displayed())
            switches.append(time.perf_counter() - started)
        tasks: list[float] = page.browser.execute_script("return window.longTasks")
    _tell("10,000 steps, an event a second: going to another tab", switches)
    print(f"tasks of over 50 ms meanwhile: {len(tasks)}, the longest {max(tasks, default=0):.0f} ms")


def _append(run: Run, step: int) -> None:
    run.append(StepFinished(step=step, loss=0.1, gradient_norm=1, learning_rate=1e-4, seconds=0.2))


def _time_on_plot(page: Any, run: Run, step: int) -> float:
    page.browser.execute_script(PLOT_WATCH)
    time.sleep(0.13 * (step % 8))  # not in time with the page's looking
    written = time.time()
    _append(run, step)
    page.until(lambda: page.browser.execute_script("return window.plottedAt") is not None)
    return page.browser.execute_script("return window.plottedAt") / 1000 - written


def _idle(page: Any) -> None:
    """The share of a core that the app's process and the browser each take while nothing happens."""
    time.sleep(5)
    groups = {"the app": [psutil.Process(page.process.pid)], "the browser": _browser_processes(page)}
    before = {name: _seconds(processes) for name, processes in groups.items()}
    time.sleep(IDLE_SECONDS)
    for name, processes in groups.items():
        share = (_seconds(processes) - before[name]) / IDLE_SECONDS
        print(f"idle page: {name} takes {100 * share:.1f} % of a core over {IDLE_SECONDS} s, n = 1")


def _browser_processes(page: Any) -> list[psutil.Process]:
    driver = psutil.Process(page.browser.service.process.pid)
    return driver.children(recursive=True)


def _seconds(processes: list[psutil.Process]) -> float:
    times = [process.cpu_times() for process in processes if process.is_running()]
    return sum(spent.user + spent.system for spent in times)


def _tell(what: str, seconds: list[float]) -> None:
    spread = f"{1000 * min(seconds):.0f} to {1000 * max(seconds):.0f}"
    print(f"{what}: median {1000 * statistics.median(seconds):.0f} ms, {spread}, n = {len(seconds)}")


if __name__ == "__main__":
    main()
