"""The link that `--listen` prints: it signs in once, leaves an address without its token, and cannot be guessed."""

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from tests.ui.test_app import app
from tools.browser import PATIENCE_SECONDS
from ui.serving.guard import Guard
from ui.serving.link import link_to, own_address
from ui.serving.logins import FREE_TRIES
from ui.serving.tenants import SingleTenant

TOKEN = "a-token_of-22-letters0"


def guarded(data_dir: Path, link: tuple[str, str] | None = ("apt", TOKEN)) -> tuple[TestClient, dict[str, str]]:
    """A browser before a page behind the guard, and the sessions of the page."""
    routes = [
        Route("/login", lambda request: PlainTextResponse("wrong", 400), methods=["POST"]),
        Route("/{path:path}", lambda request: PlainTextResponse("in"), methods=["GET", "HEAD", "POST"]),
    ]
    page = Starlette(
        routes=routes, middleware=[Middleware(Guard, tenants=SingleTenant(data_dir), is_public=True, link=link)]
    )
    sessions: dict[str, str] = {}
    vars(page).update(cookie_id="c1", tokens=sessions)
    return TestClient(page, base_url="http://box.lan:7860", follow_redirects=False), sessions


def test_the_right_link_signs_in_and_leads_to_an_address_without_it(data_dir: Path) -> None:
    browser, sessions = guarded(data_dir)
    reply = browser.get("/", params={"token": TOKEN})
    assert (reply.status_code, reply.headers["location"]) == (303, "/")
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert reply.headers["cache-control"] == "no-store"
    assert reply.headers["content-security-policy"]
    (session,) = sessions
    assert sessions[session] == "apt"
    assert f"access-token-unsecure-c1={session}; HttpOnly; Path=/; SameSite=lax" in reply.headers["set-cookie"]
    assert TOKEN not in str(reply.headers) + reply.text
    assert browser.get("/", params={"token": TOKEN}).status_code == 303
    assert len(sessions) == 2


@pytest.mark.parametrize(
    "query", ["token=", "token=wrong", f"token={TOKEN}&token={TOKEN}", f"token={TOKEN}0", "token=%00", "token=%C3%9C"]
)
def test_a_wrong_token_is_a_sentence_and_no_session(data_dir: Path, query: str) -> None:
    browser, sessions = guarded(data_dir)
    reply = browser.get(f"/?{query}")
    assert reply.status_code == 403
    assert "not the one that APT Studio printed" in reply.text
    assert reply.headers["referrer-policy"] == "no-referrer"
    assert (sessions, reply.headers.get("set-cookie")) == ({}, None)


@pytest.mark.parametrize(
    ("method", "path"), [("HEAD", f"/?token={TOKEN}"), ("GET", f"/pulse?token={TOKEN}"), ("POST", f"/?token={TOKEN}")]
)
def test_only_opening_the_page_signs_in(data_dir: Path, method: str, path: str) -> None:
    browser, sessions = guarded(data_dir)
    assert browser.request(method, path).status_code in (200, 404)
    assert sessions == {}


@pytest.mark.parametrize("link", [None, ("apt", "")])
def test_where_there_is_no_link_no_token_signs_in(data_dir: Path, link: tuple[str, str] | None) -> None:
    browser, sessions = guarded(data_dir, link)
    for token in ("", TOKEN, "None"):
        assert browser.get("/", params={"token": token}).status_code in (200, 403)
    assert sessions == {}


def test_wrong_tokens_and_wrong_passwords_are_counted_together(data_dir: Path) -> None:
    browser, sessions = guarded(data_dir)
    for number in range(FREE_TRIES):
        reply = browser.post("/login", content=b"wrong") if number % 2 else browser.get("/?token=wrong")
        assert reply.status_code == (400 if number % 2 else 403)
        assert browser.get("/").status_code == 200  # which is no try
    late = browser.get("/", params={"token": TOKEN})
    assert (late.status_code, sessions) == (429, {})
    assert "try again in 1 seconds" in late.text
    assert browser.post("/login", content=b"right").status_code == 429


def test_another_sites_picture_counts_as_no_try(data_dir: Path) -> None:
    browser, _ = guarded(data_dir)
    for _ in range(20):
        assert browser.get("/?token=x", headers={"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"})
    assert browser.get("/", params={"token": TOKEN}).status_code == 303


def test_the_link_names_this_computer_as_others_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch(r"[\d.]+|localhost", own_address())

    def refuse(*_: Any) -> None:
        raise OSError

    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert link_to(7860, TOKEN) == f"http://localhost:7860/?token={TOKEN}"


@contextlib.contextmanager
def listening(data_dir: Path) -> Iterator[tuple[str, str, list[str]]]:
    """A started app: its address, its token, and, once it has ended, all that it wrote."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = app("--port", str(port), "--data-dir", str(data_dir), "--listen", APT_STUDIO_PASSWORD="")
    assert process.stdout
    said = [process.stdout.readline() for _ in range(3)]
    found = re.search(rf"http://[\w.]+:{port}/\?token=([\w-]{{22,}})\n", said[1])
    assert found, said
    later: list[str] = []
    try:
        yield f"http://127.0.0.1:{port}", found[1], later
    finally:
        process.terminate()
        later.append(process.communicate(timeout=PATIENCE_SECONDS)[0])
        assert process.returncode == 0


def test_the_app_prints_one_link_and_tells_its_token_nowhere_else(data_dir: Path) -> None:
    with listening(data_dir) as (address, token, later):
        with httpx.Client(base_url=address, timeout=PATIENCE_SECONDS) as stranger:
            assert stranger.get("/pulse?run=").status_code == 401
            assert stranger.get("/?token=wrong").status_code == 403
            assert stranger.get("/pulse?run=").status_code == 401
        with httpx.Client(base_url=address, timeout=PATIENCE_SECONDS, follow_redirects=True) as friend:
            page = friend.get("/", params={"token": token})
            assert (page.status_code, str(page.url)) == (200, f"{address}/")
            assert "auth_required" not in page.text
            assert token not in page.text
            assert friend.get("/pulse?run=").status_code == 200
            assert token not in friend.get("/log").text
        with httpx.Client(base_url=address, timeout=PATIENCE_SECONDS) as other:
            assert other.post("/login", data={"username": "apt", "password": token}).status_code == 200
            wrong = {"username": "apt", "password": "wrong"}
            made_up = [{"x-forwarded-for": f"10.0.{number}.1"} for number in range(2 * FREE_TRIES)]
            answers = [other.post("/login", data=wrong, headers=headers).status_code for headers in made_up]
            assert answers == [400] * FREE_TRIES + [429] * FREE_TRIES, "whatever address a tunnel here passes on"
        time.sleep(0.5)
    assert later and token not in later[0]
    assert [path for path in data_dir.rglob("*") if path.is_file() and token.encode() in path.read_bytes()] == []
