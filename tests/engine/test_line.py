"""Runs in line are trained one after the other, also after the app was killed; with an engine that does as it is told."""

import os
from pathlib import Path

import pytest

from apt_engine.jobs.engine import EngineStatus
from apt_engine.jobs.line import RunLine
from apt_engine.jobs.worker import Worker
from apt_engine.runs.events import RunFailed, RunFinished, RunStarted
from apt_engine.runs.order import Order
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig


class Engine(Worker):
    """Writes down what it is asked to train, and trains until it is told how that ends."""

    def __init__(self, store: RunStore) -> None:
        super().__init__(store)
        self.begun: list[tuple[str, bool]] = []

    def start_training(self, run_id: str, *, resume: bool = False, store: RunStore | None = None) -> None:
        self.refuse_if_busy()
        run = self._default_store.open(run_id)
        self.begun.append((run_id, resume))
        run.append(RunStarted(run=run_id, base="pocket", subject="car", photo_count=3, first_step=0, last_step=10))
        self._status = EngineStatus("training", run_id)

    def end(self, *, is_complete: bool = True) -> None:
        run = self._default_store.open(self._status.run_id)
        run.append(RunFinished(step=10, reason="Over.", is_complete=is_complete, seconds=1, peak_memory_bytes=1))
        self._status = EngineStatus()


@pytest.fixture
def store(data_dir: Path) -> RunStore:
    return RunStore(data_dir)


def new_runs(store: RunStore, count: int) -> list[Run]:
    return [store.create(TrainingConfig(subject="car"), lambda folder: None) for _ in range(count)]


@pytest.mark.parametrize("is_told", [True, False])  # an engine whose app is gone may still say that it stopped
def test_five_runs_are_finished_though_the_app_was_killed_in_the_second(store: RunStore, is_told: bool) -> None:
    engine = Engine(store)
    line, ids = RunLine(store, engine), [run.id for run in new_runs(store, 5)]
    for run_id in ids:
        line.add(run_id)
    line.go_on()
    line.go_on()  # nothing happens while the engine is at work
    engine.end()
    line.go_on()
    assert engine.begun == [(ids[0], False), (ids[1], False)]
    assert line.waiting() == ids[2:]
    if is_told:
        engine.end(is_complete=False)

    engine = Engine(store)
    line = RunLine(store, engine)
    for _ in ids[1:]:
        line.go_on()
        engine.end()
    line.go_on()
    assert engine.begun == [(ids[1], True), *((run_id, False) for run_id in ids[2:])]
    assert line.waiting() == []


def test_one_that_was_stopped_or_failed_or_is_gone_holds_nobody_up(store: RunStore) -> None:
    engine = Engine(store)
    line, runs = RunLine(store, engine), new_runs(store, 4)
    for run in runs:
        line.add(run.id)
    line.go_on()
    engine.end(is_complete=False)  # by its Stop button
    runs[1].append(RunFailed(message="Its photos are gone."))
    line.add("20200101-000000-gone")
    line.hasten("20200101-000000-gone")
    line.go_on()
    assert [run_id for run_id, _ in engine.begun] == [runs[0].id, runs[2].id]


def test_the_order_changes_and_the_one_that_trains_keeps_its_place(store: RunStore) -> None:
    engine = Engine(store)
    line, ids = RunLine(store, engine), [run.id for run in new_runs(store, 4)]
    for run_id in (*ids, ids[3]):
        line.add(run_id)
    line.go_on()
    line.hasten(ids[3])
    assert line.waiting() == [ids[1], ids[3], ids[2]]
    line.hasten(ids[1])  # the first that waits
    line.remove(ids[3])
    assert line.waiting() == [ids[1], ids[2]]


def test_a_file_of_another_program_is_an_empty_line(store: RunStore) -> None:
    store.data_dir.mkdir(parents=True)
    (store.data_dir / "line.json").write_text("{")
    line = RunLine(store, Engine(store))
    line.go_on()
    assert line.waiting() == []


@pytest.mark.skipif(os.name == "nt", reason="pipes")
@pytest.mark.parametrize("odd", ["a pipe", "a device", "deep", "no list"])
def test_an_order_that_is_none_is_empty_and_holds_nobody_up(data_dir: Path, odd: str) -> None:
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / "line.json"
    match odd:
        case "a pipe":
            os.mkfifo(path)
        case "a device":
            path.symlink_to("/dev/zero")
        case "deep":
            path.write_text("[" * 100_000, encoding="utf-8")
        case _:
            path.write_text('{"a": 1}', encoding="utf-8")
    assert Order(path).read() == []
