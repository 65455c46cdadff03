"""On a Space strangers share the machine: nobody reaches what is another's, by any route, and what is left behind goes."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request, cookie_parser
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from apt_engine.runs.events import DriftMeasured, ExportReady, Noticed, RunFailed
from apt_engine.settings.training import TrainingConfig
from tests.visitors import ODD_COOKIES, OTHER, TOKEN, bring, visitor, workspace_of
from ui.serving.guard import Guard
from ui.serving.tenants import (
    COOKIE,
    HOURS_KEPT,
    UPLOADS_KEPT_DAYS,
    NoVisitorError,
    SingleTenant,
    VisitorTenants,
    is_space,
    open_tenants,
    split_cookies,
)


def test_a_visitor_gets_a_cookie_once_and_a_folder_of_the_own(
    page: Starlette, tenants: VisitorTenants, photo: Path
) -> None:
    ada, bob = visitor(page), visitor(page)
    first, second, other = bring(ada, photo), bring(ada, photo), bring(bob, photo)
    assert Path(first["path"]).read_bytes() == photo.read_bytes()
    assert len({first["path"], second["path"], other["path"]}) == 3
    folders = [workspace_of(client, tenants).store.data_dir for client in (ada, bob)]
    assert Path(first["path"]).is_relative_to(folders[0])
    assert Path(second["path"]).is_relative_to(folders[0])
    assert Path(other["path"]).is_relative_to(folders[1])
    assert ada.cookies[COOKIE] not in str(folders[0])  # the folder's name gives no cookie away


def test_no_route_leads_to_the_files_of_another(
    page: Starlette, tenants: VisitorTenants, photo: Path, data_dir: Path
) -> None:
    ada, bob = visitor(page), visitor(page)
    brought = bring(ada, photo)["path"]
    bring(bob, photo)
    store = workspace_of(ada, tenants).store
    run = store.create(TrainingConfig(subject="cat"), lambda folder: Image.new("RGB", (8, 8)).save(folder / "01.png"))
    for name in ("samples/000000-0.png", "exports/cat.safetensors", "views/000010-0.png"):
        (run.path / name).parent.mkdir(exist_ok=True)
        (run.path / name).write_bytes(b"secret")
    (store.data_dir / "generated" / "1").mkdir(parents=True)
    (store.data_dir / "generated" / "1" / "01.png").write_bytes(b"secret")
    run.append(ExportReady(step=1, layout="kohya", path="exports/cat.safetensors", keys=1, difference=0))
    files = [Path(brought), *(path for path in store.data_dir.rglob("*") if path.is_file())]
    urls = [f"/gradio_api/file={path}" for path in files]
    urls += [f"/export/{run.id}/{kind}" for kind in ("kohya", "zip", "zip-with-photos")]
    dotted = f"/gradio_api/file={workspace_of(bob, tenants).store.data_dir}/uploads/../../{store.data_dir.name}/uploads/x.png"
    for url in [*urls, dotted.replace("..", "%2e%2e")]:
        assert bob.get(url).status_code in (403, 404), url
        assert visitor(page).get(url).status_code in (403, 404), url
    assert ada.get(f"/gradio_api/file={brought}").status_code == 200
    assert ada.get(f"/export/{run.id}/kohya").content == b"secret"
    assert ada.get(f"/gradio_api/file={run.path}/config.json").status_code == 403


def test_the_pulse_beats_when_an_own_run_grows(page: Starlette, tenants: VisitorTenants, photo: Path) -> None:
    ada, bob = visitor(page), visitor(page)
    bring(ada, photo)
    bring(bob, photo)
    run = workspace_of(ada, tenants).store.create(TrainingConfig(subject="cat"), lambda folder: None)
    before = {client: client.get(f"/pulse?run={run.id}").text for client in (ada, bob)}
    run.append(DriftMeasured(step=1, drift=0.1))
    after = {client: client.get(f"/pulse?run={run.id}").text for client in (ada, bob)}
    assert before[ada] != after[ada]
    assert before[bob] == after[bob]
    assert ada.get("/log").status_code == 404  # it tells of all visitors
    run.append(Noticed(message="A step was skipped."))
    run.append(RunFailed(message="It broke.", detail="Traceback"))
    assert [line[10:] for line in ada.get(f"/log?run={run.id}").text.splitlines()] == [
        "A step was skipped.",
        "It broke.",
    ]
    assert bob.get(f"/log?run={run.id}").status_code == 404
    assert ada.get("/pulse?run=../../x").text == ada.get("/pulse?run=").text


def test_gradios_own_way_in_is_closed(page: Starlette) -> None:
    answer = visitor(page).post("/gradio_api/upload", files={"files": ("a.txt", b"x")})
    assert (answer.status_code, "own route" in answer.text) == (403, True)


@pytest.mark.parametrize("cookie", ["", "x", "../ada", "0" * 31, "0" * 33, "Z" * 32])
def test_a_made_up_cookie_is_nobodys(tenants: VisitorTenants, cookie: str) -> None:
    assert split_cookies(f"{COOKIE}={cookie}") == ("", [])
    with pytest.raises(NoVisitorError, match="names no visitor"):
        tenants.find({"cookie": f"{COOKIE}={cookie}"})


def test_while_the_page_is_built_nobody_is_here_and_nothing_can_be_left(
    tenants: VisitorTenants, data_dir: Path
) -> None:
    workspace = tenants.find_current()
    (data_dir / "nobody" / "runs" / "r1").mkdir(parents=True)  # as an earlier version may have left it
    assert workspace.store.list() == []
    assert workspace.engine.status.job == "idle"
    for leave in (
        lambda: workspace.store.create(TrainingConfig(subject="cat"), Path.touch),
        workspace.store.next_pictures_dir,
    ):
        with pytest.raises(NoVisitorError):
            leave()


def ask_with(page: Starlette, cookies: list[str], path: str, **options: Any) -> Any:
    client = TestClient(page, base_url="https://me-apt.hf.space")
    headers = [(b"cookie", cookie.encode("latin-1")) for cookie in cookies]
    return client.request(options.pop("method", "GET"), path, headers=headers, **options)


@pytest.mark.parametrize("name", ODD_COOKIES)
def test_whatever_cookies_come_a_visitor_is_one_and_never_another(
    page: Starlette, tenants: VisitorTenants, photo: Path, data_dir: Path, name: str
) -> None:
    odd, is_known = ODD_COOKIES[name]
    ada, bob = ([cookie.format(*[token] * 2) for cookie in odd] for token in (TOKEN, OTHER[:31] + "0"))
    owner = visitor(page)
    owner.cookies.set(COOKIE, TOKEN)
    known = bring(owner, photo)["path"]

    def brought(cookies: list[str]) -> str:
        with photo.open("rb") as file:
            return ask_with(page, cookies, "/photos", method="POST", files={"file": ("x.png", file)}).json()["path"]

    first, second, others = brought(ada), brought(ada), brought(bob)
    folders = [Path(path).relative_to(data_dir / "visitors").parts[0] for path in (known, first, second, others)]
    assert (folders[0] == folders[1] == folders[2]) is is_known
    assert folders[3] not in folders[:3]
    assert "nobody" not in {path.name for path in (*data_dir.iterdir(), *(data_dir / "visitors").iterdir())}
    for path in (known, first):
        assert ask_with(page, bob, f"/gradio_api/file={path}").status_code == 403
    assert ask_with(page, ada, f"/gradio_api/file={first}").status_code == (200 if is_known else 403)
    # who is not known gets a cookie with any answer, who is keeps the own one from the last page on
    given = ask_with(page, ada, "/pulse?run=").headers["set-cookie"]
    assert given.startswith(f"{COOKIE}={TOKEN};") is is_known
    assert ("set-cookie" in ask_with(page, ada, f"/gradio_api/file={first}").headers) is not is_known


@pytest.mark.parametrize("name", ODD_COOKIES)
def test_what_comes_behind_sees_one_visitor_and_all_other_cookies(tenants: VisitorTenants, name: str) -> None:
    """Each reader behind the guard, Gradio's and ours, finds the same; a password's token is still there."""
    odd, is_known = ODD_COOKIES[name]
    seen: list[Request] = []

    def look(request: Request) -> PlainTextResponse:
        seen.append(request)
        return PlainTextResponse(request.cookies[COOKIE])

    guard = Middleware(Guard, tenants=tenants, is_public=True)
    app = Starlette(routes=[Route("/", look)], middleware=[guard])
    sent = [cookie.format(TOKEN, TOKEN) for cookie in odd]
    received = [cookie.encode().decode("latin-1") for cookie in sent]  # the client sends UTF-8, a server reads bytes
    reply = ask_with(app, sent, "/")
    headers = seen[0].headers.getlist("cookie")
    assert len(headers) == 1
    assert [COOKIE in cookie_parser(chunk) for chunk in headers[0].split(";")].count(True) == 1
    assert (reply.text == TOKEN) is is_known
    assert split_cookies(headers[0])[0] == reply.text
    assert reply.headers["set-cookie"].startswith(f"{COOKIE}={reply.text};")
    given = {key: value for cookie in received for key, value in cookie_parser(cookie).items() if key != COOKIE}
    assert {key: value for key, value in seen[0].cookies.items() if key != COOKIE} == given


def test_a_cookie_lasts_from_the_last_sign_of_life_on(page: Starlette) -> None:
    client = visitor(page)
    first = client.get("/pulse?run=").headers["set-cookie"]
    assert f"Max-Age={HOURS_KEPT * 3600}" in first
    assert client.get("/pulse?run=").headers["set-cookie"] == first
    assert client.get("/").headers["set-cookie"] == first


def test_what_nobody_came_back_to_is_deleted_but_not_under_a_job(
    page: Starlette, tenants: VisitorTenants, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, bob, eve = (visitor(page) for _ in range(3))
    folders = []
    for client in (ada, bob, eve):
        bring(client, photo)
        folders.append(workspace_of(client, tenants).store.data_dir)
    old = folders[0].stat().st_mtime - HOURS_KEPT * 3600 - 60
    for folder in folders[:2]:
        os.utime(folder, (old, old))
    busy = tenants._workspaces[folders[1].name].engine
    monkeypatch.setattr(type(busy), "status", property(lambda engine: _status(engine is busy)))
    assert tenants.delete_abandoned() == [folders[0].name]
    assert [folder.exists() for folder in folders] == [False, True, True]


def test_who_keeps_no_cookie_and_leaves_nothing_takes_no_memory(
    page: Starlette, tenants: VisitorTenants, photo: Path
) -> None:
    ada = visitor(page)
    bring(ada, photo)
    for _ in range(3):
        visitor(page).get("/pulse?run=")
    assert len(tenants._workspaces) == 4
    assert tenants.delete_abandoned() == []
    assert list(tenants._workspaces) == [workspace_of(ada, tenants).store.data_dir.name]


def _status(is_busy: bool) -> Any:
    from apt_engine.jobs.engine import EngineStatus

    return EngineStatus("training" if is_busy else "idle")


@pytest.mark.parametrize(
    ("files", "sentence"), [({}, "No file arrived"), ({"file": ("../../x/ö b?.png", b"data")}, "")]
)
def test_a_bad_upload_is_a_sentence_and_a_name_cannot_lead_away(
    page: Starlette, tenants: VisitorTenants, files: Mapping[str, Any], sentence: str
) -> None:
    client = visitor(page)
    answer = client.post("/photos", files=files) if files else client.post("/photos", data={"a": "b"})
    assert sentence in answer.json().get("error", "")
    if files:
        path = Path(answer.json()["path"])
        assert path.is_relative_to(workspace_of(client, tenants).uploads_dir)
        assert path.name == "ö b_.png"


def test_an_export_that_does_not_exist_is_a_sentence(page: Starlette, photo: Path, tenants: VisitorTenants) -> None:
    client = visitor(page)
    bring(client, photo)
    assert "cannot be exported as png" in client.get("/export/r1/png").json()["error"]
    assert "There is no run r1" in client.get("/export/r1/zip").json()["error"]
    run = workspace_of(client, tenants).store.create(TrainingConfig(subject="cat"), lambda folder: None)
    assert "has no kohya file yet" in client.get(f"/export/{run.id}/kohya").json()["error"]
    packed = client.get(f"/export/{run.id}/zip")
    assert packed.headers["content-disposition"].endswith(f'"{run.id}.zip"')


def test_on_an_own_computer_uploads_are_kept_for_a_month(data_dir: Path) -> None:
    tenants = SingleTenant(data_dir)
    for name in ("0123/cat.jpg", "tiles/1.jpg"):
        path = tenants.find_current().uploads_dir / name
        path.parent.mkdir(parents=True)
        path.touch()
    tenants.delete_old_uploads(time.time() + (UPLOADS_KEPT_DAYS - 1) * 86_400)
    assert len(list(tenants.find_current().uploads_dir.glob("*/*"))) == 2
    tenants.delete_old_uploads(time.time() + (UPLOADS_KEPT_DAYS + 1) * 86_400)
    assert list(tenants.find_current().uploads_dir.iterdir()) == []
    SingleTenant(data_dir / "new").delete_old_uploads()


def test_links_among_uploads_and_visitors_that_lead_nowhere_end_no_cleaning(
    tenants: VisitorTenants, data_dir: Path
) -> None:
    own = SingleTenant(data_dir)
    for folder in (own.find_current().uploads_dir, data_dir / "visitors"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "loop").symlink_to(folder / "loop")
        (folder / "gone").symlink_to(folder / "nothing")
        (folder / "old").mkdir()
    own.delete_old_uploads(time.time() + (UPLOADS_KEPT_DAYS + 1) * 86_400)
    assert not (own.find_current().uploads_dir / "old").exists()
    assert "old" in tenants.delete_abandoned(time.time() + 365 * 86_400)


def test_the_kind_of_tenants_depends_on_the_environment(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPACE_ID", raising=False)
    assert not is_space()
    assert isinstance(open_tenants(data_dir), SingleTenant)
    monkeypatch.setenv("SPACE_ID", "me/apt")
    tenants = open_tenants(data_dir)
    assert isinstance(tenants, VisitorTenants)
    tenants.close()
