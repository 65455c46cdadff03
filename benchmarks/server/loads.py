"""What the app's memory does under load, and where a secret of its environment goes."""

import contextlib
import hashlib
import http.client
import json
import secrets
import shutil
import statistics
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from apt_engine.runs.history import summarize
from apt_engine.runs.run import Run
from benchmarks.reliability.sessions import new_run
from benchmarks.server.modes import Mode, Row
from benchmarks.server.visits import visiting
from tests.fake_hub import NAME, FakeHub, serve
from tools.browser import serving
from ui.serving.tenants import COOKIE

PROMPT = 200_000  # characters
MOST_GROWTH = 40.0  # MB: some 0.04 for each of SESSIONS_KEPT pages, and what the allocator does not give back
ASKED_IN_PASSING = ("", "/pulse?run=", "/gradio_api/file=/etc/passwd", "/export/r1/zip", "/log", "/theme.css")
SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SECONDS_OF_A_RUN = 1800
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
    who = " by somebody new" if mode.name == "Space" else ""
    return _asked(mode, f"page loads{who}", count, lambda _: ("GET", "/", b""))


def renewed_loads(mode: Mode, count: int) -> Row:
    """On a Space the page again and again by one visitor, who each time sends the cookie of the answer before."""
    process, seen, statuses = psutil.Process(mode.process.pid), list[float](), Counter[int]()
    cookie, before, wrong = f"{COOKIE}={secrets.token_hex(16)}", 0.0, 0
    first = cookie
    for number in range(count):
        mode.wire.request("GET", "/", headers={"Cookie": cookie})
        reply = mode.wire.getresponse()
        reply.read()
        statuses[reply.status] += 1
        given = [value for name, value in reply.getheaders() if name == "set-cookie" and value.startswith(COOKIE)]
        cookie = given[0].split(";")[0] if given else ""
        wrong += len(given) != 1 or cookie != first or "Max-Age=86400" not in given[0]
        if number == min(200, count // 10):
            before = process.memory_info().rss / 1e6
        elif number % 50 == 0 and before:
            seen.append(process.memory_info().rss / 1e6)
    return {**_memory(mode.name, "page loads whose cookie is renewed", count, before, seen, statuses), "wrong": wrong}


def visits(mode: Mode, count: int) -> Row:
    """The page opened as a browser opens it, and closed: what it leaves behind is bounded, wrong is more than MOST_GROWTH."""
    process, seen, config, before = psutil.Process(mode.process.pid), list[float](), mode.config(), 0.0
    for number in range(count):
        with visiting(mode, config):
            pass
        if number == min(20, count // 4):  # what is made once is there by then
            before = process.memory_info().rss / 1e6
        elif number % 5 == 0 and before:
            seen.append(process.memory_info().rss / 1e6)
    row = _memory(
        mode.name, "pages opened with all their events, and closed", count, before, seen, Counter({200: count})
    )
    return {**row, "wrong": int(max(seen) - before > MOST_GROWTH)}


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
    place = folder / "canary"
    data_dir = place / "data"
    run = new_run(data_dir, base, photos, steps=4)
    shutil.copytree(base, place / "served")
    run.replace_config(run.config.replace(base=NAME))
    (data_dir / "line.json").write_text(json.dumps([run.id]), encoding="utf-8")
    with serve(FakeHub(place / "served")) as hub, serving(data_dir, **_environment(hub, place)) as (address, _):
        told = _learnt(run, address, {})
    return _leaked(place, run, hub, told, "local", is_meant=True)


def canary_on_a_space(folder: Path, base: Path, photos: Path) -> Row:
    """The same on a Space, where the owner's token is for no visitor's request: a visitor goes on with a run of theirs."""
    place, token = folder / "canary-space", secrets.token_hex(16)
    data_dir = place / "data"
    own = data_dir / "visitors" / hashlib.sha256(token.encode()).hexdigest()[:32]
    run = new_run(own, base, photos, steps=4)
    shutil.copytree(base, place / "served")
    run.replace_config(run.config.replace(base=SD15))
    cookie = {"Cookie": f"{COOKIE}={token}"}
    with (
        serve(FakeHub(place / "served", name=SD15)) as hub,
        serving(data_dir, SPACE_ID="me/apt", **_environment(hub, place)) as (address, process),
        contextlib.closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)) as wire,
    ):
        mode = Mode("Space", data_dir, address, process, wire, cookie)
        with visiting(mode, mode.config()) as visit:
            visit.settle("click", "resume")
            told = _learnt(run, address, cookie)
    return _leaked(place, run, hub, told, "Space", is_meant=False)


def _environment(hub: FakeHub, place: Path) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.address, "HF_HOME": str(place / "hub"), "HF_HUB_OFFLINE": "0", "HF_TOKEN": CANARY}


def _learnt(run: Run, address: str, headers: dict[str, str]) -> bytes:
    """Wait for the end of a run; what the app answers afterwards."""
    end = time.monotonic() + SECONDS_OF_A_RUN
    while summarize(run).state not in ("finished", "failed") and time.monotonic() < end:
        time.sleep(0.5)
    routes = ("", "log", f"log?run={run.id}", f"pulse?run={run.id}", f"export/{run.id}/zip", f"export/{run.id}/csv")
    told = b""
    for route in routes:
        with contextlib.suppress(urllib.error.HTTPError):  # the owner's log is no visitor's
            told += urllib.request.urlopen(urllib.request.Request(address + route, headers=headers)).read()
    return told


def _leaked(place: Path, run: Run, hub: FakeHub, told: bytes, mode: str, *, is_meant: bool) -> Row:
    """Where the secret was found that it should not be; requests to the hub carry it all, or none."""
    state = summarize(run).state
    files = [path for path in place.rglob("*") if path.is_file() and CANARY.encode() in path.read_bytes()]
    carried = sum(CANARY in token for token in hub.tokens)
    wrong = len(files) + (CANARY.encode() in told) + (state != "finished")
    return {
        "mode": mode,
        "what": f"a secret during a whole run ({state}); {carried} of {len(hub.tokens)} requests to the hub carry it",
        "count": len(hub.tokens),
        "wrong": wrong + (0 if is_meant else carried),
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
