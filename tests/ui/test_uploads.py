"""What visitors bring: counted while it comes, refused where there is no room, ended where it hardly moves."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from starlette.exceptions import HTTPException
from starlette.testclient import TestClient

from apt_engine.jobs import limits
from tests.visitors import page_of
from ui.serving import guard
from ui.serving.guard import LARGEST_ORDER
from ui.serving.tenants import SingleTenant, VisitorTenants


def test_a_body_is_counted_while_it_comes(tenants: VisitorTenants, data_dir: Path) -> None:
    client = TestClient(page_of(tenants, data_dir), base_url="https://me-apt.hf.space")
    chunks = [b"x" * 100_000] * 10
    assert client.post("/gradio_api/queue/join", content=iter(chunks)).json() == {"size": 1_000_000}
    answer = client.post("/gradio_api/queue/join", content=iter(chunks * (1 + LARGEST_ORDER // 1_000_000)))
    assert answer.status_code == 413


def test_a_photo_for_a_full_folder_is_refused(
    tenants: VisitorTenants, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = TestClient(page_of(tenants, data_dir), base_url="https://me-apt.hf.space")
    assert client.post("/photos", files={"file": ("a.png", b"x" * 1000)}).status_code == 200
    monkeypatch.setattr(limits, "MOST_BYTES", 1500)
    answer = client.post("/photos", files={"file": ("a.png", b"x" * 1000)})
    assert answer.status_code == 413
    assert "delete some of the runs" in answer.json()["error"]
    monkeypatch.setattr(limits, "MOST_BYTES", 10**9)
    monkeypatch.setattr(limits, "KEPT_FREE", 10**18)
    assert "no room left" in client.post("/photos", files={"file": ("a.png", b"x")}).json()["error"]
    monkeypatch.setattr(limits, "KEPT_FREE", 0)
    assert client.post("/photos", headers={"content-length": "many"}, content=b"").status_code == 400


def test_uploads_at_once_are_counted_together_while_they_come(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_BYTES", 1500)
    uploads, ada, bob = limits.Uploads(), data_dir / "ada", data_dir / "bob"
    with uploads.into(ada, 1000) as first, uploads.into(ada, 1000) as second, uploads.into(bob, 1000) as other:
        first(1000)
        second(500)
        other(1000)
        with pytest.raises(limits.LimitError, match="delete some of the runs"):
            second(1)
    with uploads.into(ada, 1500) as again:  # what did not arrive counts no longer
        again(1500)
    with pytest.raises(limits.LimitError), uploads.into(ada, 1501):
        pass
    free = shutil.disk_usage(data_dir.parent).free
    monkeypatch.setattr(limits, "MOST_BYTES", 10 * free)
    monkeypatch.setattr(limits, "KEPT_FREE", free // 2)
    with uploads.into(ada, 0) as first, uploads.into(bob, 0) as other:
        first(free // 3)
        with pytest.raises(limits.LimitError, match="no room left"):
            other(free // 3)


def test_an_address_may_bring_so_much_a_day_whatever_cookies_it_has(
    tenants: VisitorTenants, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ADDRESS_BYTES_A_DAY", 3000)
    page = page_of(tenants, data_dir)

    def bring(address: str, size: int = 1200) -> Any:
        """A photo, each time as another visitor, and a cookie of the proxy's own network in between."""
        client = TestClient(page, base_url="https://me-apt.hf.space")
        photo = {"file": ("a.png", b"x" * size)}
        return client.post("/photos", files=photo, headers={"x-forwarded-for": f"8.8.8.8, {address}"})

    assert [bring("2001:db8::1").status_code, bring("2001:db8::2").status_code] == [200, 200]
    refused = bring("2001:db8::3")
    assert refused.status_code == 413
    assert refused.json()["error"] == "0 MB a day are all that is taken from one address; try again tomorrow."
    assert bring("2001:db8:0:1::1").status_code == 200


def test_bytes_of_an_address_count_while_they_come_and_for_a_day(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ADDRESS_BYTES_A_DAY", 1000)
    monkeypatch.setattr(limits, "ADDRESSES_REMEMBERED", 3)
    now = 0.0
    uploads = limits.Uploads(lambda: now)
    with uploads.into(data_dir / "ada", 0, "1.1.1.1") as first, uploads.into(data_dir / "bob", 0, "1.1.1.1") as second:
        first(600)
        with pytest.raises(limits.LimitError, match="from one address"):
            second(600)
    now = 23.5 * 3600
    with pytest.raises(limits.LimitError, match="from one address"), uploads.into(data_dir / "eve", 1, "1.1.1.1"):
        pass
    now = 24.5 * 3600
    with uploads.into(data_dir / "eve", 900, "1.1.1.1") as again:
        again(900)
    for number in range(10):
        with uploads.into(data_dir / "eve", 0, f"2.2.2.{number}"):
            pass
    assert len(uploads._brought) == 3


def test_an_upload_that_hardly_moves_is_ended(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "SECONDS_TO_BEGIN", 0.2)
    page = page_of(SingleTenant(data_dir), data_dir)
    answers: list[Any] = []
    pieces = iter([b"--b\r\n", b"x"])

    async def receive() -> dict[str, Any]:
        """Two pieces, and then nothing any more."""
        for piece in pieces:
            return {"type": "http.request", "body": piece, "more_body": True}
        await anyio.sleep(60)
        raise AssertionError("it was waited for")

    async def send(message: Any) -> None:
        answers.append(message)

    head = [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=b")]
    scope = {"type": "http", "method": "POST", "path": "/photos", "headers": head, "query_string": b"", "app": page}
    anyio.run(page, scope, receive, send)
    assert answers[0]["status"] == 408
    assert b"comes too slowly" in answers[1]["body"]


def test_an_answer_may_take_its_time_after_a_request_that_was_whole(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "SECONDS_TO_BEGIN", 0.0)
    taken = guard._limited(whole_and_then_gone, 1000)

    async def take() -> list[str]:
        return [(await taken())["type"] for _ in range(2)]

    with pytest.raises(HTTPException):
        anyio.run(take)
    monkeypatch.setattr(guard, "SECONDS_TO_BEGIN", 5.0)
    taken = guard._limited(whole_and_then_gone, 1000)
    first = anyio.run(taken)
    monkeypatch.setattr(guard, "SECONDS_TO_BEGIN", -5.0)
    assert (first["type"], anyio.run(taken)["type"]) == ("http.request", "http.request")


async def whole_and_then_gone() -> dict[str, Any]:
    await anyio.sleep(0.01)
    return {"type": "http.request", "body": b"x", "more_body": False}


def test_a_photo_that_does_not_say_its_size_is_counted_as_it_comes(
    tenants: VisitorTenants, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_BYTES", 500_000)
    client = TestClient(page_of(tenants, data_dir), base_url="https://me-apt.hf.space")

    def pieces() -> Iterator[bytes]:
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n'
        for _ in range(100):
            yield b"x" * 100_000

    answer = client.post("/photos", content=pieces(), headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 413
    assert "delete some of the runs" in answer.json()["error"]
    assert not any(path.is_file() for path in (data_dir / "visitors").rglob("*"))


@pytest.mark.parametrize("name", [".", "..", " ", "a/..", "...", "\\..\\..", "\U00020000" * 90])
def test_a_photo_without_a_name_gets_one(data_dir: Path, name: str) -> None:
    client = TestClient(page_of(SingleTenant(data_dir), data_dir), base_url="https://me-apt.hf.space")
    head = f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    sent = {"content-type": "multipart/form-data; boundary=b"}
    answer = client.post("/photos", content=f"{head}x\r\n--b--\r\n".encode(), headers=sent)
    kept = Path(answer.json()["path"])
    assert kept.is_file()
    assert kept.parent.parent == data_dir / "uploads"
    assert len(kept.name.encode()) <= 255
