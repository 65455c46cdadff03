"""Only what the page needs exists: a table over Gradio's own routes, and thousands of spellings against the running app."""

import http.client
import itertools
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
from gradio.routes import App
from starlette.applications import Starlette
from starlette.testclient import TestClient

from apt_engine.runs.events import DriftMeasured, Noticed
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig
from tests.spellings import (
    HIDDEN,
    METHODS,
    NEEDED,
    NOT_NEEDED,
    REMOTE_SPELLINGS,
    SAMPLES,
    SECRET,
    ask,
    spelled,
    stored,
)
from tools.browser import PATIENCE_SECONDS, serving
from ui.context import AppContext
from ui.launch import launch_options
from ui.layout import build_app
from ui.serving.allowed import OWN_FILES, find_file, is_route, route_path
from ui.serving.routes import routes
from ui.serving.tenants import SingleTenant


def every_route(routes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    for route in routes:
        if hasattr(route, "original_router"):  # FastAPI keeps an included router whole
            yield from every_route(route.original_router.routes)
        else:
            yield from ((method, route.path) for method in getattr(route, "methods", ["mounted"]))


def test_of_the_routes_gradio_has_the_page_gets_those_it_needs(context: AppContext, data_dir: Path) -> None:
    options = launch_options(context, data_dir, None)
    app = App.create_app(build_app(context), app_kwargs=options["app_kwargs"])
    found = set(every_route(app.routes))
    allowed = {
        (method, path)
        for method, path in found
        if is_route(method, re.sub(r"{(\w+)(:path)?}", lambda name: SAMPLES.get(name[1], "a1"), path))
    }
    assert allowed == NEEDED
    assert {path.rstrip("/") for _, path in found - allowed} == set(NOT_NEEDED)


@pytest.mark.parametrize(
    ("scope", "path"),
    [
        ({"path": "/pulse"}, "/pulse"),
        ({"path": "/pulse", "root_path": ""}, "/pulse"),
        ({"path": "/studio/pulse", "root_path": "/studio"}, "/pulse"),
        ({"path": "/studiopulse", "root_path": "/studio"}, "/studiopulse"),
        ({"path": "/pulse", "root_path": "/studio"}, "/pulse"),
    ],
)
def test_the_prefix_of_a_proxy_is_taken_off_as_the_router_does(scope: dict[str, str], path: str) -> None:
    from starlette._utils import get_route_path

    assert route_path(scope) == path == get_route_path(scope)


@pytest.fixture
def files(tmp_path: Path) -> TestClient:
    """Our own routes alone."""
    stored(tmp_path)
    app = Starlette(routes=routes(SingleTenant(tmp_path), tmp_path / "cache"))
    vars(app)["auth"] = None  # as Gradio's own app has it where there is no password
    return TestClient(app, base_url="http://127.0.0.1:7860")


def test_pictures_and_lora_files_are_served_with_types_of_ours(files: TestClient, tmp_path: Path) -> None:
    for name, begin in stored(tmp_path / "again").items():
        reply = files.get(f"/gradio_api/file={tmp_path}/{name}")
        assert reply.content.startswith(begin), name
        is_picture = not name.endswith(".safetensors")
        kind = ("image/png" if name.endswith("png") else "image/jpeg") if is_picture else "application/octet-stream"
        assert reply.headers["content-type"] == kind
        assert reply.headers["content-disposition"].startswith("inline" if is_picture else "attachment")
    part = files.get(f"/gradio_api/file={tmp_path}/runs/r1/exports/lora.safetensors", headers={"range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, b"eig")


def test_the_numbers_of_a_run_are_served_as_a_table(files: TestClient, tmp_path: Path) -> None:
    run = RunStore(tmp_path).create(TrainingConfig(subject="Bär"), lambda folder: None)
    run.append(DriftMeasured(step=3, drift=0.5))
    answer = files.get(f"/export/{run.id}/csv")
    assert answer.headers["content-type"].startswith("text/csv")
    assert answer.headers["content-disposition"].startswith("attachment; filename=")
    assert answer.text.splitlines()[1].startswith("3,")


def test_the_end_of_the_log_is_served_as_text(files: TestClient, tmp_path: Path) -> None:
    (tmp_path / "engine.log").unlink(missing_ok=True)
    assert "has written nothing yet" in files.get("/log").text
    (tmp_path / "engine.log").write_bytes(b"x" * 300_000 + b"<b>out of memory</b>")
    answer = files.get("/log")
    assert (len(answer.content), answer.text[-20:]) == (200_000, "<b>out of memory</b>")
    assert answer.headers["content-type"].startswith("text/plain")


def test_the_log_of_a_run_is_its_events_and_what_the_engine_wrote(files: TestClient, tmp_path: Path) -> None:
    run = RunStore(tmp_path).create(TrainingConfig(subject="cat"), lambda folder: None)
    run.append(Noticed(message="A step was skipped."))
    (tmp_path / "engine.log").write_text("401 for hf_abcdefGHIJ12\n")
    told = files.get(f"/log?run={run.id}&tail=1").text
    assert "  A step was skipped.\n\nWhat the engine wrote besides:\n401 for (token)" in told
    assert files.get("/log?run=r2").status_code == 404


@pytest.mark.parametrize("name", HIDDEN)
def test_nothing_else_of_the_data_directory_is_served(files: TestClient, tmp_path: Path, name: str) -> None:
    # the client would tidy up dots in a path, so they travel encoded
    reply = files.get(f"/gradio_api/file={quote(f'{tmp_path}/{name}').replace('..', '%2e%2e')}")
    assert reply.status_code == 403
    assert "serves pictures and LoRA files only" in reply.text


def test_a_path_elsewhere_is_not_even_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows to look at `//server/share` tells that server who is signed in here."""
    looked_at: list[Path] = []
    monkeypatch.setattr(Path, "resolve", lambda path, strict=False: looked_at.append(path))
    folders = {tmp_path: OWN_FILES}
    for asked in (
        "//server/share/a.png",
        "\\\\server\\share\\a.png",
        "http://server/a.png",
        "/etc/a.png",
        "a.png",
        f"{tmp_path}/../uploads/a.png",
    ):
        assert find_file(asked, folders) is None
    assert looked_at == []


@pytest.fixture(scope="module")
def data_dir_of_app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("allowed") / "data"


@pytest.fixture(scope="module")
def wire(data_dir_of_app: Path) -> Iterator[http.client.HTTPConnection]:
    """A connection to the running app that sends a path byte by byte as it is given."""
    with serving(data_dir_of_app) as (address, _):
        stored(data_dir_of_app)
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=PATIENCE_SECONDS)
        yield connection
        connection.close()


def test_no_spelling_makes_the_app_fetch_an_address(wire: http.client.HTTPConnection) -> None:
    assert len(REMOTE_SPELLINGS) > 500
    for path in REMOTE_SPELLINGS:
        status, body, headers = ask(wire, "GET", path)
        assert status in (403, 404), path
        assert b"There is nothing here" in body or b"serves pictures and LoRA files only" in body, path
        assert headers["x-content-type-options"] == "nosniff"


def test_no_spelling_of_a_path_leads_to_a_hidden_file(wire: http.client.HTTPConnection, data_dir_of_app: Path) -> None:
    begins = [
        "/gradio_api/file=",
        "/gradio_api/file/",
        "/file=",
        "/assets/",
        "/static/",
        "/svelte/",
        "/gradio_api/file=" + quote(f"{data_dir_of_app}/uploads/abc/"),
        "/assets/" + "../" * 12,
        "/static/img/" + "%2e%2e/" * 12,
        "/export/r1/" + "%2e%2e%2f" * 3,
    ]
    hidden = [str(data_dir_of_app / name) for name in HIDDEN[:14]]
    asked = {begin + way for begin, path in itertools.product(begins, hidden) for way in spelled(path)}
    assert len(asked) > 2000
    statuses = set()
    for path in sorted(asked):
        status, body, _ = ask(wire, "GET", path)
        statuses.add(status)
        assert SECRET not in body, path
        assert status in (403, 404), path
    assert statuses == {403, 404}


def test_a_shown_file_has_one_spelling(wire: http.client.HTTPConnection, data_dir_of_app: Path) -> None:
    shown = f"{data_dir_of_app}/uploads/abc/my photo.JPG"
    served = [way for way in spelled(shown) if ask(wire, "GET", f"/gradio_api/file={way}")[0] == 200]
    # decoded once these are one path; a query is no part of it
    assert served == [*spelled(shown)[:3], f"{quote(shown)}?x.png"]
    status, body, headers = ask(wire, "HEAD", f"/gradio_api/file={quote(shown)}")
    assert (status, body, headers["content-type"]) == (200, b"", "image/jpeg")
    assert headers["x-content-type-options"] == "nosniff"
    for bad in ("bytes=5-2-3", "bytes=9-1", "bytes=--", "x", "bytes=99999999-"):
        assert ask(wire, "GET", f"/gradio_api/file={quote(shown)}", Range=bad)[0] in (200, 206, 400, 416)


def test_every_other_method_and_route_does_not_exist(wire: http.client.HTTPConnection) -> None:
    paths = {re.sub(r"{[^}]+}", "a1", path) for path in NOT_NEEDED} | {"/docs", "/redoc", "/gradio_api/mcp/", "/"}
    for method, path in itertools.product(METHODS, sorted(paths)):
        for written in (path, path + "/", path.upper(), "/" + path):
            if not is_route(method, written):
                assert ask(wire, method, written)[0] == 404, (method, written)


def test_an_uploaded_page_is_never_one(wire: http.client.HTTPConnection) -> None:
    """Gradio takes any file where its LoRA field takes it, and gives back where it lies."""
    form = '--b\r\nContent-Disposition: form-data; name="files"; filename="{}"\r\nContent-Type: text/html\r\n\r\n{}\r\n--b--\r\n'
    script = "<script>alert(1)</script>"
    for name, status in (("x.html", 403), ("x.HTM", 403), ("x.svg", 403), ("x.html.png", 200)):
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        wire.request("POST", "/gradio_api/upload", form.format(name, script), headers)
        reply = wire.getresponse()
        path = reply.read().decode()[2:-2]
        assert (reply.status, Path(path).name) == (200, name)
        found, body, answered = ask(wire, "GET", f"/gradio_api/file={path}")
        assert found == status
        assert (script.encode() in body) is (status == 200)
        # what calls itself a picture is sent as one, and a browser that may not guess shows it as a broken one
        assert answered["content-type"] == ("image/png" if status == 200 else "application/json")
        assert answered["x-content-type-options"] == "nosniff"


def test_a_preflight_of_another_site_gets_no_leave(wire: http.client.HTTPConnection) -> None:
    for origin in ("http://evil.example", "http://localhost:3000"):
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        status, _, answered = ask(wire, "OPTIONS", "/gradio_api/queue/join", **headers)
        assert status == 403
        assert not [name for name in answered if name.startswith("access-control")]
