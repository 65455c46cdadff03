"""One engine, many visitors: a line, places in it, and leaving it. With an engine that only notes what it is told."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apt_engine.errors import BusyError
from apt_engine.jobs.engine import EngineStatus, SampleProgress, describe_status
from apt_engine.jobs.queue import JobQueue, QueuedEngine
from apt_engine.jobs.worker import Worker
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.sampling import SampleRequest
from apt_engine.settings.training import TrainingConfig


class Engine(Worker):
    """Trains until it is told that it has finished."""

    def __init__(self, store: RunStore) -> None:
        super().__init__(store)
        self.begun: list[str] = []

    def start_training(self, run_id: str, *, resume: bool = False, store: RunStore | None = None) -> None:
        assert store
        store.open(run_id)
        self.begun.append(run_id)
        self._status = EngineStatus("training", run_id)

    def sample(self, request: SampleRequest, store: RunStore | None = None) -> Iterator[SampleProgress]:
        self.begun.append(request.prompt)
        yield SampleProgress("Drawing", 0.5, ())
        yield SampleProgress("Done", 1.0, (Path("a.png"),))

    def export(self, run_id: str, checkpoint: str, store: RunStore | None = None) -> Iterator[SampleProgress]:
        assert store
        self.begun.append(f"{checkpoint} of {store.open(run_id).config.subject}")
        yield SampleProgress("Done", 1.0, (Path("a.safetensors"),))

    def judge(self, run_id: str, store: RunStore | None = None) -> Iterator[SampleProgress]:
        assert store
        self.begun.append(f"verdict on {store.open(run_id).config.subject}")
        yield SampleProgress("Done", 1.0, ())

    def stop(self) -> None:
        self.finish()

    def finish(self) -> None:
        self._status = EngineStatus()


@pytest.fixture
def engine(data_dir: Path) -> Engine:
    return Engine(RunStore(data_dir))


@pytest.fixture
def queue(engine: Engine) -> Iterator[JobQueue]:
    queue = JobQueue(engine)
    yield queue
    queue.close()


@pytest.fixture
def visitors(queue: JobQueue, data_dir: Path) -> list[QueuedEngine]:
    return [QueuedEngine(queue, RunStore(data_dir / name)) for name in ("ada", "bob", "eve")]


def new_run(visitor: QueuedEngine) -> Run:
    return visitor.store.create(TrainingConfig(subject="car", resolution=64), lambda folder: None)


def soon(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not is_true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def test_jobs_are_done_in_turn_and_each_visitor_sees_the_own_place(
    engine: Engine, visitors: list[QueuedEngine]
) -> None:
    runs = [new_run(visitor) for visitor in visitors]
    for visitor, run in zip(visitors, runs, strict=True):
        visitor.start_training(run.id)
        time.sleep(0.01)
    soon(lambda: visitors[0].status.job == "training")
    assert [(visitor.status.job, visitor.status.ahead) for visitor in visitors] == [
        ("training", 0),
        ("waiting", 1),
        ("waiting", 2),
    ]
    assert describe_status(visitors[2].status) == "in line, 2 before you"
    engine.finish()
    soon(lambda: visitors[1].status.job == "training")
    assert [visitor.status.job for visitor in visitors] == ["idle", "training", "waiting"]
    engine.finish()
    soon(lambda: engine.begun == [run.id for run in runs])


def test_a_visitor_has_one_job_at_a_time(visitors: list[QueuedEngine]) -> None:
    visitors[0].start_training(new_run(visitors[0]).id)
    with pytest.raises(BusyError, match="Your last job is still"):
        visitors[0].start_training(new_run(visitors[0]).id)
    with pytest.raises(BusyError, match="Your last job is still"):
        visitors[0].sample(SampleRequest(prompt="a cat", run=""))


def test_one_who_waits_can_leave_and_those_behind_move_up(engine: Engine, visitors: list[QueuedEngine]) -> None:
    for visitor in visitors:
        visitor.start_training(new_run(visitor).id)
        time.sleep(0.01)
    soon(lambda: visitors[0].status.job == "training")
    visitors[1].stop()
    assert (visitors[1].status.job, visitors[2].status.ahead) == ("idle", 1)
    engine.finish()
    soon(lambda: visitors[2].status.job == "training")
    assert len(engine.begun) == 2


def test_stop_reaches_only_the_own_job(engine: Engine, visitors: list[QueuedEngine]) -> None:
    visitors[0].start_training(new_run(visitors[0]).id)
    soon(lambda: visitors[0].status.job == "training")
    visitors[1].stop()
    assert visitors[0].status.job == "training"
    visitors[0].stop()
    soon(lambda: visitors[0].status.job == "idle")


def test_pictures_wait_their_turn_and_say_so(engine: Engine, visitors: list[QueuedEngine]) -> None:
    visitors[0].start_training(new_run(visitors[0]).id)
    soon(lambda: visitors[0].status.job == "training")
    told_so_far: list[str] = []

    def draw() -> None:
        told_so_far.extend(progress.message for progress in visitors[1].sample(SampleRequest(prompt="a cat", run="")))

    thread = threading.Thread(target=draw)
    thread.start()
    soon(lambda: "In line, 1 before you" in told_so_far)
    assert "a cat" not in engine.begun
    engine.finish()
    thread.join(10)
    assert told_so_far[-2:] == ["Drawing", "Done"]
    assert visitors[1].status.job == "idle"


def test_files_wait_their_turn_too(engine: Engine, visitors: list[QueuedEngine]) -> None:
    progress = visitors[0].export(new_run(visitors[0]).id, "50")
    assert visitors[0].status.job == "waiting"
    soon(lambda: visitors[0].status.job == "exporting")
    with pytest.raises(BusyError, match="still writing files"):
        visitors[0].refuse_if_busy()
    assert list(progress)[-1].images == (Path("a.safetensors"),)
    assert engine.begun == ["50 of car"]
    assert visitors[0].status.job == "idle"


def test_a_verdict_waits_its_turn_too(engine: Engine, visitors: list[QueuedEngine]) -> None:
    progress = visitors[0].judge(new_run(visitors[0]).id)
    soon(lambda: visitors[0].status.job == "judging")
    with pytest.raises(BusyError, match="still judging"):
        visitors[0].refuse_if_busy()
    assert [one.message for one in progress][-1] == "Done"
    assert engine.begun == ["verdict on car"]
    assert visitors[0].status.job == "idle"


def test_a_run_that_is_gone_when_its_turn_comes_holds_nobody_up(engine: Engine, visitors: list[QueuedEngine]) -> None:
    first, second, third = (new_run(visitor) for visitor in visitors)
    visitors[0].start_training(first.id)
    soon(lambda: visitors[0].status.job == "training")
    visitors[1].start_training(second.id)
    time.sleep(0.01)
    visitors[2].start_training(third.id)
    (second.path / "config.json").unlink()
    engine.finish()
    soon(lambda: visitors[2].status.job == "training")
    assert "There is no run" in visitors[1].message
