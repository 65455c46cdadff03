"""What guests of a Space may ask for, and how long their things are kept."""

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

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
from ui.layout import build
from ui.serving import tenants as serving
from ui.serving.tenants import COOKIE, VisitorTenants, Workspace, open_tenants


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


@pytest.mark.parametrize("run", ["a" * 5000, "\0", "..", "a/b", "\ud800"])
def test_no_name_of_a_run_breaks_the_pulse(data_dir: Path, run: str) -> None:
    assert RunStore(data_dir).size_of(run) == 0


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
