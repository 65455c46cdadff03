"""Requests that must not be answered: every route, addresses elsewhere, hidden files, the things of another visitor."""

import http.client
import itertools
import re
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from apt_engine.runs.events import ExportReady
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig
from benchmarks.server.modes import Mode, Row
from tests.spellings import HIDDEN, METHODS, NEEDED, NOT_NEEDED, REMOTE_SPELLINGS, SAMPLES, SECRET, spelled
from tests.visitors import ODD_COOKIES
from ui.serving.allowed import is_route
from ui.serving.tenants import COOKIE

BEGINS = (
    "/gradio_api/file=",
    "/gradio_api/file/",
    "/file=",
    "/assets/",
    "/static/",
    "/svelte/",
    "/log/",
    "/assets/" + "../" * 12,
    "/static/img/" + "%2e%2e/" * 12,
    "/export/r1/" + "%2e%2e%2f" * 3,
)


def ask(mode: Mode, method: str, path: str, **headers: str) -> tuple[int, bytes]:
    """One request over a connection that is kept, byte by byte as it is given; 0 where it was cut off without an answer."""
    try:
        mode.wire.putrequest(method, path, skip_accept_encoding=True)
        for name, value in {**mode.headers, **headers}.items():
            mode.wire.putheader(name, value.encode("latin-1", "replace"))
        mode.wire.endheaders()
        reply = mode.wire.getresponse()
        return reply.status, reply.read()
    except (http.client.HTTPException, OSError):
        mode.wire.close()
        return 0, b""


def routes(mode: Mode) -> Row:
    """Each method with each route that Gradio has: those of the list may answer, all else is not there."""
    paths = {re.sub(r"{(\w+)(:path)?}", lambda found: SAMPLES.get(found[1], "a1"), path) for _, path in NEEDED}
    paths |= {re.sub(r"{[^}]+}", "a1", path) for path in NOT_NEEDED} | {"/docs", "/redoc", "/gradio_api/mcp/"}
    asked = [
        (method, written)
        for method, path in itertools.product(METHODS, sorted(paths))
        for written in (path, path + "/", path.upper(), "/" + path)
        if not is_route(method, written)
    ]
    return _row(mode, "a route that is not needed", asked, lambda status, _: status not in (401, 403, 404))


def remote(mode: Mode) -> Row:
    """An address elsewhere in each spelling: nobody may ask there."""
    asked: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        is_over = threading.Event()
        watcher = threading.Thread(target=_count, args=(listener, is_over, asked))
        watcher.start()
        ours = [("GET", _sent_to(path, listener.getsockname()[1])) for path in REMOTE_SPELLINGS]
        row = _row(mode, "an address elsewhere", ours, lambda status, _: status == 200)
        is_over.set()
        watcher.join()
    return {**row, "wrong": row["wrong"] + len(asked)}


def traversals(mode: Mode) -> Row:
    """Hidden files in each spelling behind each beginning."""
    hidden = [str(mode.data_dir / name) for name in HIDDEN if "\0" not in name]
    asked = sorted({begin + way for begin, path in itertools.product(BEGINS, hidden) for way in spelled(path)})
    return _row(
        mode, "a hidden file", [("GET", path) for path in asked], lambda status, body: SECRET in body or status == 200
    )


def strangers(mode: Mode) -> Row:
    """On a Space: what is another visitor's, by each route, with each odd cookie header."""
    ada, bob = "0123456789abcdef" * 2, "f" * 31 + "0"
    upload = mode.post_photo(ada)
    folder = Path(upload).parents[2] if "/visitors/" in upload else Path()
    run = RunStore(folder).create(
        TrainingConfig(subject="cat"), lambda at: Image.new("RGB", (8, 8)).save(at / "01.png")
    )
    for name in ("samples/000000-0.png", "exports/cat.safetensors", "views/000010-0.png"):
        (run.path / name).parent.mkdir(exist_ok=True)
        (run.path / name).write_bytes(SECRET)
    run.append(ExportReady(step=1, layout="kohya", path="exports/cat.safetensors", keys=1, difference=0))
    files = [path for path in folder.rglob("*") if path.is_file()]
    urls = [f"/gradio_api/file={quote(str(path))}" for path in files]
    urls += [f"/export/{run.id}/{kind}" for kind in ("kohya", "diffusers", "zip", "zip-with-photos")]
    own = ask(mode, "GET", f"/export/{run.id}/kohya", Cookie=f"{COOKIE}={ada}")
    assert SECRET in own[1], "the owner reaches it, so that others could"
    count, wrong, statuses = 0, 0, Counter[int]()
    for url, (name, (odd, _)) in itertools.product(urls, ODD_COOKIES.items()):
        del name
        for status, body in _with_cookies(mode, url, [cookie.format(bob, bob) for cookie in odd]):
            count += 1
            statuses[status] += 1
            wrong += status not in (401, 403, 404) or SECRET in body
    return _told(mode, "another visitor's things", count, wrong, statuses)


def _sent_to(path: str, port: int) -> str:
    """A spelling with the port at which we listen."""
    return path.replace("127.0.0.1:1/", f"127.0.0.1:{port}/").replace("127.0.0.1%3A1%2F", f"127.0.0.1%3A{port}%2F")


def _with_cookies(mode: Mode, url: str, cookies: list[str]) -> Iterator[tuple[int, bytes]]:
    try:
        mode.wire.putrequest("GET", url, skip_accept_encoding=True)
        for cookie in cookies:
            mode.wire.putheader("Cookie", cookie.encode("latin-1", "replace"))
        mode.wire.endheaders()
        reply = mode.wire.getresponse()
        yield reply.status, reply.read()
    except (http.client.HTTPException, OSError):
        mode.wire.close()


def _count(listener: socket.socket, is_over: threading.Event, asked: list[str]) -> None:
    while not is_over.is_set():
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            continue
        asked.append(connection.recv(200).decode("latin-1"))
        connection.close()


def _row(mode: Mode, what: str, asked: Iterable[tuple[str, str]], is_wrong: Callable[[int, bytes], bool]) -> Row:
    count, wrong, statuses = 0, 0, Counter[int]()
    for method, path in asked:
        status, body = ask(mode, method, path)
        count += 1
        statuses[status] += 1
        wrong += bool(is_wrong(status, body))
    return _told(mode, what, count, wrong, statuses)


def _told(mode: Mode, what: str, count: int, wrong: int, statuses: Counter[int]) -> Row:
    broken = sum(number for status, number in statuses.items() if status >= 500)
    return {
        "mode": mode.name,
        "what": what,
        "count": count,
        "wrong": wrong,
        "broken": broken,
        "statuses": dict(statuses),
    }
