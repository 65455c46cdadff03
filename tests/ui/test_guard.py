"""The page answers only to itself and serves only pictures and LoRA files."""

from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from ui.serving.guard import Guard
from ui.serving.tenants import OnePlace


def client(data_dir: Path, *, is_public: bool = False) -> TestClient:
    routes = [Route("/{path:path}", lambda request: PlainTextResponse("in"), methods=["GET", "POST"])]
    guard = Middleware(Guard, data_dir=data_dir, places=OnePlace(data_dir), is_public=is_public)
    return TestClient(Starlette(routes=routes, middleware=[guard]), base_url="http://127.0.0.1:7860")


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "localhost", "[::1]:7860", "LOCALHOST:9000"])
def test_this_machine_may_enter_by_its_own_names(tmp_path: Path, host: str) -> None:
    assert client(tmp_path).get("/", headers={"host": host}).text == "in"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:7860", "localhost@evil.example", "[", ""])
def test_another_name_for_this_machine_is_refused(tmp_path: Path, host: str) -> None:
    reply = client(tmp_path).get("/", headers={"host": host})
    assert reply.status_code == 403
    assert "answers only as localhost" in reply.text


def test_with_listen_any_name_may_enter(tmp_path: Path) -> None:
    assert client(tmp_path, is_public=True).get("/", headers={"host": "studio.local"}).text == "in"


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:3000", "null"])
@pytest.mark.parametrize("is_public", [False, True])
def test_another_page_may_not_give_orders(tmp_path: Path, origin: str, is_public: bool) -> None:
    reply = client(tmp_path, is_public=is_public).post("/gradio_api/upload", headers={"origin": origin})
    assert reply.status_code == 403


@pytest.mark.parametrize("headers", [{"origin": "http://127.0.0.1:7860"}, {}])
def test_the_page_itself_and_programs_may(tmp_path: Path, headers: dict[str, str]) -> None:
    assert client(tmp_path).post("/gradio_api/upload", headers=headers).text == "in"


@pytest.mark.parametrize("route", ["/gradio_api/file=", "/gradio_api/file/"])
@pytest.mark.parametrize(
    ("path", "is_served"),
    [
        ("runs/r1/samples/000000-0.png", True),
        ("runs/r1/exports/lora.safetensors", True),
        ("runs/r1/photos/01.png", True),
        ("generated/20260101-000000/01.png", True),
        ("uploads/abc/photo.jpg", True),
        ("cache/abc/icon.jpg", True),
        ("bin/r1/photos/01.png", False),
        ("runs/r1/config.json", False),
        ("runs/r1/checkpoints/000050/optimizer.safetensors", False),
        ("engine.log", False),
        ("runs/r1/samples/../config.json", False),
        ("runs/r1/samples/%2e%2e/config.json", False),
    ],
)
def test_only_pictures_and_lora_files_are_served(tmp_path: Path, route: str, path: str, is_served: bool) -> None:
    # the client would tidy up dots in a path, so they travel encoded
    url = f"{route}{tmp_path}/{path}".replace("..", "%2e%2e")
    assert client(tmp_path).get(url).status_code == (200 if is_served else 403)


def test_what_lies_elsewhere_is_left_to_gradio(tmp_path: Path) -> None:
    assert client(tmp_path / "data").get(f"/gradio_api/file={tmp_path}/example.jpg").text == "in"
