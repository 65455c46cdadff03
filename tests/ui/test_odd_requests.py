"""Requests that no browser sends, to the guard and our routes behind the real server; `benchmarks.server` asks the whole app."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from starlette.applications import Starlette

from tests.odd_requests import odd_requests, send
from tests.spellings import SECRET, stored
from tests.visitors import TOKEN
from ui.serving import guard
from ui.serving.tenants import COOKIE, VisitorTenants


@contextlib.contextmanager
def running(page: Starlette) -> Iterator[str]:
    """The page behind the server that Gradio starts; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(page, log_level="critical", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join(30)


def test_no_odd_request_breaks_anything_or_is_told_a_secret(
    page: Starlette, tenants: VisitorTenants, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "SECONDS_TO_BEGIN", 2.0)
    cookie = f"{COOKIE}={TOKEN}"
    folder = tenants.find({"cookie": cookie}).store.data_dir
    stored(folder)
    shown = f"/gradio_api/file={(folder / 'runs/r1/samples/000000-0.png').as_posix()}"
    with running(page) as address:
        asked = odd_requests("me-apt.hf.space", cookie, shown)
        assert len(asked) > 130
        answers = {name: send(address, request, 5.0) for name, request in asked.items()}
        wrong = {name: status for name, (status, _) in answers.items() if status < 0 or status >= 500}
        assert wrong == {}
        assert [name for name, (_, answer) in answers.items() if SECRET in answer] == []
        ranged = {name: status for name, (status, _) in answers.items() if name.startswith("range")}
        assert 206 in ranged.values()
        assert 416 in ranged.values()
        assert max(len(answer) for _, answer in answers.values()) < 2_000_000


def test_a_body_that_never_ends_is_given_up(page: Starlette, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "SECONDS_TO_BEGIN", 0.5)
    head = f"POST /photos HTTP/1.1\r\nHost: me-apt.hf.space\r\nCookie: {COOKIE}={TOKEN}\r\n"
    head += "Content-Type: multipart/form-data; boundary=b\r\nContent-Length: 1000000\r\n\r\n--b\r\n"
    with running(page) as address, socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), 60) as wire:
        wire.sendall(head.encode())
        began = time.monotonic()
        assert wire.recv(1000).startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - began < 30
