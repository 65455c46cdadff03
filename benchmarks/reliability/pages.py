"""Ends of the page's process while its engine trains: nothing it started may live on, and nothing that was learnt is lost."""

import json
import os
import runpy
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import psutil

from apt_engine.jobs.worker import ROOT
from apt_engine.runs.history import History
from apt_engine.runs.run import Run
from benchmarks.reliability.judge import lost, was_over
from benchmarks.reliability.sessions import Process
from benchmarks.reliability.trials import Bench, Trial, in_time
from tests.fake_hub import NAME, FakeHub, serve

PHASES = {
    "loading": '"stage": "loading"',
    "encoding": '"stage": "encoding"',
    "a step": '"step": 5,',
    "sampling": '"stage": "sampling", "message": "Drawing the samples of step 4',
    "exporting": '"stage": "exporting"',
}
SIGNALS = {
    "TERM": [signal.SIGTERM],
    "HUP": [signal.SIGHUP],
    "Ctrl-C": [signal.SIGINT],
    "Ctrl-C twice": [signal.SIGINT, signal.SIGINT],
}
SECONDS_TO_BE_GONE = 20.0  # on a machine that does other things as well


class Page(Process):
    """The app, which goes on with a run by itself, since that is in line."""

    def __init__(self, run: Run, hub: str = "") -> None:
        self.run = run
        data_dir = run.path.parent.parent
        (data_dir / "line.json").write_text(json.dumps([run.id]), encoding="utf-8")
        self.log = data_dir / "page.log"
        super().__init__(_serve, (data_dir, self.log, _free_port(), hub))

    def wait_for(self, words: str) -> None:
        """Wait until the run's events have these words."""
        self.wait_until(lambda: words in self.run.events_path.read_text(encoding="utf-8", errors="replace"), words)

    def end(self, numbers: list[signal.Signals]) -> tuple[float, list[str]]:
        """Send signals; after how many seconds it and all that it started were gone, and what was not."""
        started_by_it = psutil.Process(self.pid).children(recursive=True)
        started = time.monotonic()
        for number in numbers:
            os.kill(self.pid, number)
            time.sleep(0.3 if len(numbers) > 1 else 0)
        self.wait()
        alive, seconds = started_by_it, 0.0
        while alive and seconds < SECONDS_TO_BE_GONE:
            time.sleep(0.02)
            alive = [process for process in alive if _is_alive(process)]
            seconds = time.monotonic() - started
        for process in alive:
            process.kill()
        return seconds, [f"{process.pid} lived on" for process in alive]


def killed_pages(bench: Bench, count: int) -> Iterator[Trial]:
    """Let it be killed by -9 in each phase in turn, then the other signals, then kill -9 in a download."""
    for number in range(count):
        phase = list(PHASES)[number % len(PHASES)]
        yield from in_time(partial(_ended, bench, "kill -9 of the page", phase, [signal.SIGKILL]))
    for name, numbers in SIGNALS.items():
        yield from in_time(partial(_ended, bench, "signals to the page", "a step", numbers, name))
    yield _killed_in_a_download(bench)


def _ended(bench: Bench, kind: str, phase: str, numbers: list[signal.Signals], name: str = "") -> Trial:
    run = bench.copy()
    page = Page(run)
    page.wait_for(PHASES[phase])
    named, sent_at = f"{name}, {phase}" if name else phase, time.time()
    seconds, wrong = page.end(numbers)
    if was_over(run, sent_at):
        return Trial(kind=kind, name=named, is_late=True)
    is_failed = History.of(run).state == "failed"
    wrong += ["was called failed"] if is_failed else []
    gone = lost(run)
    more, is_stuck = bench.end(run)
    return Trial(kind=kind, name=named, lost=gone, wrong=wrong + more, is_stuck=is_stuck, seconds=seconds)


def _killed_in_a_download(bench: Bench) -> Trial:
    run = bench.copy()
    served = run.path.parent.parent / "served"
    shutil.copytree(run.config.base, served)
    run.replace_config(run.config.replace(base=NAME))
    with serve(FakeHub(served, slow=0.2)) as hub:
        page = Page(run, hub.address)
        page.wait_for('"stage": "downloading"')
        seconds, wrong = page.end([signal.SIGKILL])
    wrong += [str(path) for path in run.path.parent.parent.rglob("*.incomplete")]
    return Trial(kind="kill -9 of the page", name="a download", wrong=wrong, seconds=seconds)


def _is_alive(process: psutil.Process) -> bool:
    """One that has ended may wait long until the system's first process takes note of it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _serve(data_dir: Path, log: Path, port: int, hub: str) -> None:
    os.setsid()
    output = os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.chdir(ROOT)
    if hub:
        os.environ |= {"HF_ENDPOINT": hub, "HF_HOME": str(data_dir / "hub")}
        os.environ.pop("HF_HUB_OFFLINE", None)
    sys.argv = ["app.py", "--no-browser", "--port", str(port), "--data-dir", str(data_dir)]
    runpy.run_path(str(ROOT / "app.py"), run_name="__main__")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
