"""What the app's memory does under load, and where a secret of its environment goes."""

import json
import shutil
import statistics
import time
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import psutil

from apt_engine.runs.history import summarize
from benchmarks.reliability.sessions import new_run
from benchmarks.server.modes import Mode, Row
from tests.fake_hub import NAME, FakeHub, serve
from tools.browser import serving

PROMPT = 200_000  # characters
ASKED_IN_PASSING = ("", "/pulse?run=", "/gradio_api/file=/etc/passwd", "/export/r1/zip", "/log", "/theme.css")
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
    return _asked(mode, "page loads", count, lambda _: ("GET", "/", b""))


def passers_by(mode: Mode, count: int) -> Row:
    """On a Space: what a page asks for, and orders, each by somebody who keeps no cookie."""
    order = {"data": [], "fn_index": 0, "event_data": None}

    def wanted(number: int) -> tuple[str, str, bytes]:
        if number % len(ASKED_IN_PASSING):
            return "GET", ASKED_IN_PASSING[number % len(ASKED_IN_PASSING)], b""
        return "POST", "/gradio_api/queue/join", json.dumps({**order, "session_hash": f"s{number}"}).encode()

    return _asked(mode, "requests without a cookie: orders, pulse, files, exports", count, wanted)


def _asked(mode: Mode, what: str, count: int, wanted: Callable[[int], tuple[str, str, bytes]]) -> Row:
    process, seen, statuses = psutil.Process(mode.process.pid), list[float](), Counter[int]()
    before = 0.0
    headers = {} if mode.name == "Space" else mode.headers
    for number in range(count):
        method, path, body = wanted(number)
        mode.wire.request(method, path, body, {**headers, "Content-Type": "application/json"})
        reply = mode.wire.getresponse()
        reply.read()
        statuses[reply.status] += 1
        if number == min(200, count // 10):  # what is made once is there by then
            before = process.memory_info().rss / 1e6
        elif number % 50 == 0 and before:
            seen.append(process.memory_info().rss / 1e6)
    return _memory(mode.name, what, count, before, seen, statuses)


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
