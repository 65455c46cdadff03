"""Runs packed for a visitor: to each who asks their own, while the page answers, and nothing is left behind."""

import asyncio
import errno
import io
import json
import os
import threading
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.testclient import TestClient

from apt_engine.jobs import limits
from apt_engine.runs import library
from apt_engine.runs.run import Run
from apt_engine.settings.sampling import SampleRequest
from apt_engine.settings.training import TrainingConfig
from tests.visitors import bring, visitor, workspace_of
from ui.serving.tenants import COOKIE, VisitorTenants, Workspace


@pytest.fixture
def own(page: Starlette, photo: Path, tenants: VisitorTenants) -> tuple[TestClient, Workspace, Run]:
    """A visitor, their workspace, and a run of theirs with a photo of some size and a title."""
    client = visitor(page)
    bring(client, photo)
    workspace = workspace_of(client, tenants)
    run = workspace.store.create(
        TrainingConfig(subject="cat"), lambda folder: Image.new("RGB", (900, 900)).save(folder / "01.png")
    )
    library.rename(run, "my cat")
    return client, workspace, run


def at_once(page: Starlette, client: TestClient) -> httpx.AsyncClient:
    """The same visitor, who can ask for several things at once."""
    cookies = {COOKIE: client.cookies[COOKIE]}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=page), base_url=str(client.base_url), cookies=cookies)


def packed_in(workspace: Workspace) -> list[Path]:
    return [path for path in workspace.uploads_dir.rglob("*") if "packed" in str(path)]


def test_who_asks_at_once_gets_what_they_asked_for(page: Starlette, own: tuple[TestClient, Workspace, Run]) -> None:
    client, workspace, run = own
    kinds = ["zip", "zip-with-photos"] * 2

    async def ask() -> list[httpx.Response]:
        async with at_once(page, client) as visitor:
            return await asyncio.gather(*(visitor.get(f"/export/{run.id}/{kind}") for kind in kinds))

    for _ in range(10):
        for kind, answer in zip(kinds, asyncio.run(ask()), strict=True):
            with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
                assert archive.testzip() is None
                assert (f"{run.id}/photos/01.png" in archive.namelist()) == (kind == "zip-with-photos")
                assert f"{run.id}/config.json" in archive.namelist()
    assert packed_in(workspace) == []


@pytest.fixture
def slow_packing(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Packing that tells it has begun, and waits until it may go on."""
    begun, may_go_on = threading.Event(), threading.Event()
    real = library.pack

    def slow(*arguments: Any, **options: Any) -> Path:
        begun.set()
        assert may_go_on.wait(30)
        return real(*arguments, **options)

    monkeypatch.setattr(library, "pack", slow)
    return begun, may_go_on


def test_the_page_answers_while_a_run_is_packed(
    page: Starlette,
    own: tuple[TestClient, Workspace, Run],
    slow_packing: tuple[threading.Event, threading.Event],
) -> None:
    client, _, run = own
    begun, may_go_on = slow_packing

    async def ask() -> list[int]:
        async with at_once(page, client) as visitor:
            packing = asyncio.create_task(visitor.get(f"/export/{run.id}/zip"))
            await asyncio.to_thread(begun.wait, 30)
            pulse = await asyncio.wait_for(visitor.get("/pulse"), 10)
            assert not packing.done()
            may_go_on.set()
            return [pulse.status_code, (await packing).status_code]

    assert asyncio.run(ask()) == [200, 200]


@pytest.mark.parametrize("sent", [0, 1])
def test_a_visitor_who_leaves_leaves_no_zip_behind(
    own: tuple[TestClient, Workspace, Run], page: Starlette, sent: int
) -> None:
    client, workspace, run = own
    messages: list[str] = []

    async def send(message: Any) -> None:
        assert packed_in(workspace)
        if len(messages) == sent:
            raise ConnectionResetError
        messages.append(message["type"])

    async def receive() -> Any:
        await asyncio.sleep(60)

    scope = {
        "type": "http",
        "method": "GET",
        "path": f"/export/{run.id}/zip",
        "query_string": b"",
        "headers": [(b"host", b"me-apt.hf.space"), (b"cookie", f"{COOKIE}={client.cookies[COOKIE]}".encode())],
        "asgi": {"spec_version": "2.4"},
    }
    with pytest.raises((ConnectionResetError, ClientDisconnect)):
        asyncio.run(page(scope, receive, send))
    assert len(messages) == sent
    assert packed_in(workspace) == []


def test_a_zip_for_which_there_is_no_room_is_a_sentence(
    own: tuple[TestClient, Workspace, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: Any, **_options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    client, workspace, run = own
    monkeypatch.setattr(zipfile.ZipFile, "write", full)
    answer = client.get(f"/export/{run.id}/zip")
    assert (answer.status_code, "No space left on device" in answer.json()["error"]) == (507, True)
    assert packed_in(workspace) == []


def draw(workspace: Workspace, lora: str = "") -> Path:
    """A picture as a request leaves it."""
    folder = workspace.store.next_pictures_dir()
    folder.mkdir(parents=True)
    info = PngInfo()
    info.add_itxt("apt_studio", json.dumps(SampleRequest(prompt="an owl", run="", lora=lora).to_dict()))
    Image.new("RGB", (8, 8), "red").save(folder / "01-seed0.png", pnginfo=info)
    return folder


def test_all_pictures_come_as_a_zip_that_names_no_folder_and_holds_nobody_elses(
    page: Starlette, own: tuple[TestClient, Workspace, Run], tenants: VisitorTenants, photo: Path
) -> None:
    client, workspace, _ = own
    assert client.get("/pictures").json()["error"] == "There are no pictures to download; make some first."
    first, second = draw(workspace, lora="/home/me/wool.safetensors"), draw(workspace)
    stranger = visitor(page)
    bring(stranger, photo)
    theirs = draw(workspace_of(stranger, tenants))

    def packed(query: str) -> dict[str, bytes]:
        answer = client.get(f"/pictures{query}")
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    everything = packed("")
    assert everything.keys() == {f"{folder.name}/01-seed0.png" for folder in (first, second)}
    with Image.open(io.BytesIO(everything[f"{first.name}/01-seed0.png"])) as image:
        assert json.loads(image.info["apt_studio"])["lora"] == "wool.safetensors"
        assert image.getpixel((0, 0)) == (255, 0, 0)
    assert b"/home/me" not in everything[f"{first.name}/01-seed0.png"]
    assert everything[f"{second.name}/01-seed0.png"] == (second / "01-seed0.png").read_bytes()
    assert packed(f"?of={second.name}").keys() == {f"{second.name}/01-seed0.png"}
    for away in ("..", "../../*", f"../../{theirs.parent.parent.name}/generated/{theirs.name}", "/etc"):
        assert client.get("/pictures", params={"of": away}).status_code == 404
    assert packed_in(workspace) == []


def test_pictures_asked_for_at_once_are_packed_apart(page: Starlette, own: tuple[TestClient, Workspace, Run]) -> None:
    client, workspace, _ = own
    folders = [draw(workspace) for _ in range(4)]

    async def ask() -> list[httpx.Response]:
        async with at_once(page, client) as visitor:
            return await asyncio.gather(*(visitor.get(f"/pictures?of={folder.name}") for folder in folders))

    for folder, answer in zip(folders, asyncio.run(ask()), strict=True):
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.namelist() == [f"{folder.name}/01-seed0.png"]
    assert packed_in(workspace) == []


def test_a_zip_takes_no_more_room_than_its_visitor_has(
    page: Starlette, own: tuple[TestClient, Workspace, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, workspace, run = own
    draw(workspace)
    urls = (f"/export/{run.id}/zip", f"/export/{run.id}/zip-with-photos", "/pictures")
    assert [client.get(url).status_code for url in urls] == [200, 200, 200]
    used = limits.size_of(workspace.store.data_dir)
    monkeypatch.setattr(limits, "MOST_BYTES", used + 10)
    for url in urls:
        answer = client.get(url)
        assert answer.status_code == 413
        assert "delete some of the runs" in answer.json()["error"]
    assert packed_in(workspace) == []


def test_zips_at_once_are_counted_together(
    page: Starlette,
    own: tuple[TestClient, Workspace, Run],
    slow_packing: tuple[threading.Event, threading.Event],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client, workspace, run = own
    begun, may_go_on = slow_packing

    async def ask() -> list[int]:
        async with at_once(page, client) as visitor:
            first = asyncio.create_task(visitor.get(f"/export/{run.id}/zip"))
            await asyncio.to_thread(begun.wait, 30)
            second = await visitor.get(f"/export/{run.id}/zip")
            may_go_on.set()
            return [(await first).status_code, second.status_code]

    room = 3 * limits.size_of(run.path) // 2
    monkeypatch.setattr(limits, "MOST_BYTES", limits.size_of(workspace.store.data_dir) + room)
    assert asyncio.run(ask()) == [200, 413]
    assert packed_in(workspace) == []


def test_a_run_that_is_binned_while_it_is_packed_is_a_sentence(
    own: tuple[TestClient, Workspace, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    client, workspace, run = own
    real = zipfile.ZipFile.writestr

    def binned(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
        real(archive, name, content)
        if name.endswith("events.jsonl"):
            library.discard(workspace.store, run)

    paths = [*library._files(run.path, ["title.txt", "photos"])]
    monkeypatch.setattr(library, "_files", lambda _folder, _names: paths)
    monkeypatch.setattr(zipfile.ZipFile, "writestr", binned)
    answer = client.get(f"/export/{run.id}/zip-with-photos")
    assert answer.status_code == 404
    assert (
        answer.json()["error"]
        == f"Run {run.id} was deleted while it was packed; take it out of the bin, and try again."
    )
    assert packed_in(workspace) == []


def test_a_file_of_a_year_before_1980_is_packed(own: tuple[TestClient, Workspace, Run]) -> None:
    client, _, run = own
    os.utime(run.path / "photos" / "01.png", (0, 0))
    answer = client.get(f"/export/{run.id}/zip-with-photos")
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert f"{run.id}/photos/01.png" in archive.namelist()
