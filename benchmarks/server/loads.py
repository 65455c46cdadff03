"""What the app's memory does under load, what a long run does to it, and where a secret of its environment goes."""

import json
import shutil
import statistics
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil

from apt_engine.runs.history import summarize
from apt_engine.runs.run import Run
from benchmarks.reliability.sessions import new_run
from benchmarks.server.modes import Mode, Row
from tests.fake_hub import NAME, FakeHub, serve
from tools.browser import serving

PROMPT = 200_000  # characters
SECONDS_BETWEEN_LOOKS = 1.0
CANARY = "hf_canary0123456789abcdefghijklmnop"


def joins(mode: Mode, count: int) -> Row:
    """Orders with a prompt of 200 kB, for each event of the page in turn; the answers are not waited for."""
    events = [event for event in mode.config()["dependencies"] if event.get("queue", True) and event.get("inputs")]
    process, seen, statuses = psutil.Process(mode.process.pid), list[float](), Counter[int]()
    before = process.memory_info().rss / 1e6
    for number in range(count):
        event = events[number % len(events)]
        values = ["x" * (PROMPT // len(event["inputs"]))] * len(event["inputs"])
        order = {"data": values, "fn_index": event["id"], "session_hash": f"s{number}", "event_data": None}
        headers = {**mode.headers, "Content-Type": "application/json"}
        mode.wire.request("POST", "/gradio_api/queue/join", json.dumps(order), headers)
        reply = mode.wire.getresponse()
        reply.read()
        statuses[reply.status] += 1
        seen.append(process.memory_info().rss / 1e6)
    time.sleep(10)
    seen.append(process.memory_info().rss / 1e6)
    return _memory(mode.name, f"orders of {PROMPT // 1000} kB", count, before, seen, statuses)


def page_loads(mode: Mode, count: int) -> Row:
    """The page itself, again and again; on a Space each time by somebody who keeps no cookie."""
    process, seen, statuses = psutil.Process(mode.process.pid), list[float](), Counter[int]()
    before = 0.0
    for number in range(count):
        mode.wire.request("GET", "/", headers={} if mode.name == "Space" else mode.headers)
        reply = mode.wire.getresponse()
        reply.read()
        statuses[reply.status] += 1
        if number == min(200, count // 10):  # what is made once is there by then
            before = process.memory_info().rss / 1e6
        elif number % 50 == 0 and before:
            seen.append(process.memory_info().rss / 1e6)
    return _memory(mode.name, "page loads", count, before, seen, statuses)


def long_run(folder: Path, base: Path, photos: Path, steps: int) -> Iterator[Row]:
    """A run of the toy with samples, while two pages are opened anew again and again: memory and handles of page and engine."""
    data_dir = folder / "long" / "data"
    often = {"save_every_steps": max(10, steps // 100), "sample_every_steps": max(10, steps // 200)}
    run = new_run(data_dir, base, photos, steps=steps, drift_every_steps=0, stop="never", **often)
    (data_dir / "line.json").write_text(json.dumps([run.id]), encoding="utf-8")
    with serving(data_dir) as (address, app):
        is_over = threading.Event()
        pages = [threading.Thread(target=_reload, args=(address, run, is_over)) for _ in range(2)]
        for page in pages:
            page.start()
        looks: dict[str, list[tuple[float, int]]] = {"page": [], "engine": []}
        while summarize(run).state not in ("finished", "failed"):
            time.sleep(SECONDS_BETWEEN_LOOKS)
            if summarize(run).step > steps * 0.05:
                _look(psutil.Process(app.pid), looks)
        is_over.set()
        for page in pages:
            page.join()
    state = summarize(run)
    for name, found in looks.items():
        what = f"{state.step:,} steps, two pages reloading: {name}"
        row = _memory("local", what, len(found), found[0][0], [memory for memory, _ in found], Counter())
        yield {**row, "handles": [handles for _, handles in found][:: max(1, len(found) // 10)], "state": state.state}


def canary(folder: Path, base: Path, photos: Path) -> Row:
    """A secret in the environment during a whole run, with a download: which requests carry it, and which files hold it."""
    data_dir, cache = folder / "canary" / "data", folder / "canary" / "hub"
    run = new_run(data_dir, base, photos, steps=4)
    shutil.copytree(base, folder / "canary" / "served")
    run.replace_config(run.config.replace(base=NAME))
    (data_dir / "line.json").write_text(json.dumps([run.id]), encoding="utf-8")
    with serve(FakeHub(folder / "canary" / "served")) as hub:
        environment = {"HF_ENDPOINT": hub.address, "HF_HOME": str(cache), "HF_HUB_OFFLINE": "0", "HF_TOKEN": CANARY}
        with serving(data_dir, **environment) as (address, _):
            end = time.monotonic() + 600
            while summarize(run).state not in ("finished", "failed") and time.monotonic() < end:
                time.sleep(0.5)
            told = b"".join(
                urllib.request.urlopen(address + path).read() for path in ("", "log", f"pulse?run={run.id}")
            )
            told += urllib.request.urlopen(f"{address}export/{run.id}/zip").read()
    state = summarize(run).state
    files = [path for path in (folder / "canary").rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    carried = sum(CANARY in token for token in hub.tokens)
    return {
        "mode": "local",
        "what": f"a secret during a whole run ({state}); {carried} of {len(hub.tokens)} requests to the hub carry it",
        "count": len(hub.tokens),
        "wrong": len(files) + (CANARY.encode() in told) + (state != "finished"),
        "broken": 0,
        "files": [str(path) for path in files],
    }


def _reload(address: str, run: Run, is_over: threading.Event) -> None:
    while not is_over.wait(0.5):
        for path in ("", f"pulse?run={run.id}"):
            try:
                urllib.request.urlopen(address + path, timeout=60).read()
            except OSError:
                time.sleep(1)


def _look(app: psutil.Process, looks: dict[str, list[tuple[float, int]]]) -> None:
    try:
        children = [child for child in app.children() if "worker_process" in " ".join(child.cmdline())]
        for name, process in (("page", app), ("engine", children[0])):
            looks[name].append((process.memory_info().rss / 1e6, process.num_fds()))
    except (psutil.Error, IndexError):
        pass


def _memory(mode: str, what: str, count: int, before: float, seen: list[float], statuses: Counter[int]) -> Row:
    third = max(1, len(seen) // 3)
    numbers = {
        "before": round(before),
        "first third": round(statistics.median(seen[:third])),
        "last third": round(statistics.median(seen[-third:])),
        "spread": round(statistics.pstdev(seen[-third:]), 1),
        "most": round(max(seen)),
    }
    broken = sum(number for status, number in statuses.items() if status >= 500)
    return {
        "mode": mode,
        "what": what,
        "count": count,
        "wrong": 0,
        "broken": broken,
        "MB": numbers,
        "statuses": dict(statuses),
    }
