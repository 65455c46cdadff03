"""What guests of a Space may ask for, and how long whoever guesses a password waits."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import gradio as gr
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from apt_engine.errors import ConfigError
from apt_engine.jobs import limits
from apt_engine.jobs.queue import Job, JobQueue, QueuedEngine
from apt_engine.jobs.worker import Worker
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.sampling.generation import Generator
from apt_engine.settings.presets import load_presets
from apt_engine.settings.sampling import SampleRequest
from apt_engine.settings.training import TrainingConfig
from ui import plain_card
from ui.context import AppContext
from ui.launch import LaunchError, choose_credentials
from ui.layout import build
from ui.serving import guard
from ui.serving import tenants as serving
from ui.serving.guard import LARGEST_ORDER, Guard
from ui.serving.logins import LONGEST_WAIT, Logins
from ui.serving.routes import routes
from ui.serving.tenants import COOKIE, SingleTenant, VisitorTenants, Workspace, open_tenants


@pytest.fixture
def tenants(data_dir: Path) -> Iterator[VisitorTenants]:
    queue = JobQueue(Worker(RunStore(data_dir)))
    queue._closed.set()  # nothing is begun
    tenants = VisitorTenants(data_dir, queue)
    yield tenants
    tenants.close()


def engine_of(tenants: VisitorTenants, number: int, address: str = "1.2.3.4") -> QueuedEngine:
    headers = {"cookie": f"{COOKIE}={number:032x}", "x-forwarded-for": f"9.9.9.9, {address}"}
    engine = tenants.find(headers).engine
    assert isinstance(engine, QueuedEngine)
    return engine


def new_run(engine: QueuedEngine, **settings: Any) -> Run:
    config = TrainingConfig(**{"subject": "cat", "resolution": 64, "steps": 10, **settings})
    return engine.store.create(config, lambda folder: Image.new("RGB", (8, 8)).save(folder / "01.png"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"base": "/etc"}, "only the base models of the list"),
        ({"base": "someone/private-model"}, "only the base models of the list"),
        ({"steps": 100_000}, "steps can be at most 1,500 here, not 100,000"),
        ({"batch_size": 64}, "batch_size can be at most 8"),
        ({"resolution": 2048}, "resolution can be at most 128"),
        ({"rank": 256}, "rank can be at most 64"),
        ({"warped_views": 1000}, "warped_views can be at most 64"),
        ({"report_to": "trackio"}, "set report_to to none"),
    ],
)
def test_a_guests_training_has_limits(tenants: VisitorTenants, settings: dict[str, Any], words: str) -> None:
    engine = engine_of(tenants, 1)
    with pytest.raises(limits.LimitError, match=words):
        engine.start_training(new_run(engine, **settings).id)
    assert engine.status.job == "idle"
    engine.start_training(new_run(engine).id)
    assert engine.status.job == "waiting"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"base": "/etc"}, "only the base models of the list"),
        ({"lora": "/etc/passwd"}, "LoRA files of your own"),
        ({"loras": ["/etc/x.safetensors:0.5"]}, "LoRA files of your own"),
        ({"count": 64}, "count can be at most 8"),
        ({"steps": 200}, "steps can be at most 50"),
        ({"width": 2048, "height": 2048}, "width can be at most 128"),
    ],
)
def test_a_guests_pictures_have_limits(tenants: VisitorTenants, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(limits.LimitError, match=words):
        engine_of(tenants, 1).sample(SampleRequest(**{"prompt": "a cat", "run": "", **settings}))


def test_a_guests_page_takes_no_base_but_those_of_the_list(tenants: VisitorTenants) -> None:
    """Of any other name it would be told what lies there."""
    with gr.Blocks(analytics_enabled=False):
        view = build(AppContext(tenants, load_presets(), {}))
    for base in (view.train.settings["base"], view.generate.settings["base"]):
        assert base.preprocess("pocket") == "pocket"
        with pytest.raises(gr.Error, match="not in the list of choices"):
            base.preprocess("/etc")


def test_a_guests_plain_run_that_cannot_begin_is_not_kept(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OneVisitor(VisitorTenants):
        def find_current(self) -> Workspace:
            return self.find({"cookie": f"{COOKIE}={1:032x}"})

    tenants = OneVisitor(data_dir, JobQueue(Worker(RunStore(data_dir))))
    run = new_run(engine_of(tenants, 1))
    monkeypatch.setattr(limits, "MOST_WAITING", 0)
    with pytest.raises(limits.LimitError, match="jobs wait already"):
        plain_card.beside(AppContext(tenants, load_presets(), {}), run.id)
    assert [left.id for left in tenants.find_current().store.list()] == [run.id]
    tenants.close()


def test_jobs_are_counted_by_visitor_and_by_address(tenants: VisitorTenants, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "JOBS_AN_HOUR", 2)
    monkeypatch.setattr(limits, "ADDRESS_JOBS_AN_HOUR", 3)

    def begin(number: int, address: str) -> None:
        engine = engine_of(tenants, number, address)
        tenants._queue.add(job := Job(engine))
        tenants._queue.remove(job)

    begin(1, "1.1.1.1")
    begin(1, "1.1.1.1")
    with pytest.raises(limits.LimitError, match=r"2 jobs an hour are all that is given here; try again in 60 minutes"):
        begin(1, "2.2.2.2")
    begin(2, "1.1.1.1")
    with pytest.raises(limits.LimitError, match="3 jobs an hour"):
        begin(3, "1.1.1.1")
    begin(3, "3.3.3.3")


def test_the_queue_and_a_visitors_folder_can_be_full(tenants: VisitorTenants, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_WAITING", 1)
    tenants._queue.add(Job(engine_of(tenants, 1)))
    with pytest.raises(limits.LimitError, match="1 jobs wait already"):
        tenants._queue.add(Job(engine_of(tenants, 2)))
    monkeypatch.setattr(limits, "MOST_BYTES", 10)
    engine = engine_of(tenants, 3)
    with pytest.raises(limits.LimitError, match="delete some of the runs"):
        engine.start_training(new_run(engine).id)


def test_a_job_that_had_its_time_is_stopped(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(RunStore(data_dir))
    stopped: list[bool] = []
    monkeypatch.setattr(worker, "stop", lambda: stopped.append(True))
    queue = JobQueue(worker)
    queue._current = Job(QueuedEngine(queue, RunStore(data_dir)), kind="sampling", stopped_at=0.0)
    for _ in range(100):
        if stopped:
            break
        queue._closed.wait(0.05)
    queue.close()
    assert stopped == [True]


def test_requests_without_a_cookie_leave_nothing_behind(
    tenants: VisitorTenants, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "PASSERS_BY", 10)
    tenants._most = 10
    stays = engine_of(tenants, 999_999)
    tenants._queue.add(Job(stays))
    for number in range(1000):
        engine_of(tenants, number)
    assert len(tenants._workspaces) < 50
    assert engine_of(tenants, 999_999) is stays


def page_of(tenants: Any, data_dir: Path) -> Starlette:
    async def take(request: Request) -> Response:
        return JSONResponse({"size": len(await request.body())})

    async def sign_in(request: Request) -> Response:
        return JSONResponse({}, 200 if (await request.body()) == b"right" else 400)

    own = routes(tenants, data_dir / "cache")
    page = Starlette(
        routes=[
            *own,
            Route("/gradio_api/queue/join", take, methods=["POST"]),
            Route("/login", sign_in, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, tenants=tenants, is_public=True)],
    )
    vars(page)["auth"] = None
    return page


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


def test_a_clock_that_is_set_anew_deletes_nobodys_things(data_dir: Path, tenants: VisitorTenants) -> None:
    folders = [engine_of(tenants, number).store.data_dir for number in range(2)]
    now = time.time()
    for folder, hours in zip(folders, (1, 25), strict=True):
        folder.mkdir(parents=True)
        os.utime(folder, (now - hours * 3600, now - hours * 3600))
    jump = 30 * 86_400.0
    tenants.follow_clock(jump)
    assert tenants.delete_abandoned(now + jump) == [folders[1].name]
    tenants.follow_clock(-2 * jump)
    assert folders[0].stat().st_mtime == pytest.approx(now - 3600 - jump, abs=2)
    assert tenants.delete_abandoned(now - jump) == []
    assert tenants.delete_abandoned(now - jump + 24 * 3600) == [folders[0].name]


def test_whether_the_clock_was_set_anew_is_looked_at_before_anybody_is_forgotten(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jumped = threading.Event()
    monkeypatch.setattr(serving, "SECONDS_BETWEEN_CLEAN_UPS", 0.01)
    real, ahead = time.time, 30 * 86_400.0
    monkeypatch.setattr(time, "time", lambda: real() + (ahead if jumped.is_set() else 0.0))
    tenants = VisitorTenants(data_dir, JobQueue(Worker(RunStore(data_dir))))
    folder = engine_of(tenants, 1).store.data_dir
    folder.mkdir(parents=True)
    jumped.set()
    end = time.monotonic() + 60
    while folder.exists() and folder.stat().st_mtime < real() + ahead / 2 and time.monotonic() < end:
        time.sleep(0.01)
    tenants.close()
    assert folder.stat().st_mtime == pytest.approx(real() + ahead, abs=60)


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


@pytest.mark.parametrize("run", ["a" * 5000, "\0", "..", "a/b", "\ud800"])
def test_no_name_of_a_run_breaks_the_pulse(data_dir: Path, run: str) -> None:
    assert RunStore(data_dir).size_of(run) == 0


def test_whoever_guesses_waits_longer_and_longer() -> None:
    now = 0.0
    logins = Logins(lambda: now)
    waits = []
    for _ in range(20):
        assert logins.wait("1.2.3.4") == 0
        waits.append(logins.wait("1.2.3.4") if logins._tries["1.2.3.4"][1] > now else 0.0)
        now = max(now, logins._tries["1.2.3.4"][1])
    assert waits[:5] == [0, 0, 0, 1, 2]
    assert waits[-1] == LONGEST_WAIT
    assert logins.wait("5.6.7.8") == 0
    logins.succeed("1.2.3.4")
    assert logins.wait("1.2.3.4") == 0
    for number in range(5):
        logins.wait(f"2001:db8::{number}")
    assert logins.wait("2001:db8::ffff") > 0


def test_wrong_passwords_are_soon_not_looked_at(data_dir: Path) -> None:
    client = TestClient(page_of(SingleTenant(data_dir), data_dir), base_url="http://box.lan:7860")
    answers = [client.post("/login", content=b"wrong").status_code for _ in range(50)]
    assert answers[:4] == [400] * 4
    assert answers.count(429) >= 44
    assert client.post("/login", content=b"right").status_code == 429
    fresh = TestClient(page_of(SingleTenant(data_dir), data_dir), base_url="http://box.lan:7860")
    assert [fresh.post("/login", content=b"right").status_code for _ in range(9)] == [200] * 9


def test_a_short_password_is_refused_and_none_is_made_up() -> None:
    with pytest.raises(LaunchError, match="a password of 11 characters is soon guessed; take 12 or more"):
        choose_credentials("a" * 11, is_open=True)
    first, second = choose_credentials("", is_open=True), choose_credentials("", is_open=True)
    assert first and second and first[1] != second[1] and len(first[1]) >= 20
    assert choose_credentials("a" * 12, is_open=True) == ("apt", "a" * 12)
    assert choose_credentials("", is_open=False) is None


def test_a_space_forgets_its_owners_token(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPACE_ID", "me/apt")
    monkeypatch.setenv("HF_TOKEN", "canary")
    monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "0")
    tenants = open_tenants(data_dir)
    assert "canary" not in os.environ.values()
    assert os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] == "1"
    tenants.close()


def test_a_picture_is_at_most_sixteen_times_what_the_base_was_made_for(data_dir: Path) -> None:
    request = SampleRequest(prompt="a cat", run="", width=2048, height=2048)
    with pytest.raises(ConfigError, match=r"2048 x 2048 px are too many for pocket; choose at most 256 x 256"):
        next(Generator().generate(RunStore(data_dir), request, data_dir / "out", lambda *_: None))
