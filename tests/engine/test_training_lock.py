"""One process trains in a data directory; others see which run, and write nothing into it."""

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apt_engine.errors import BusyError
from apt_engine.jobs.session import tell_death, train
from apt_engine.jobs.worker import ROOT, Worker
from apt_engine.runs.events import RunFailed, StageChanged, StepFinished
from apt_engine.runs.history import summarize
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.runs.training_lock import Training, refuse_if_trained, training_in, training_lock
from tests.holding import held

PATIENCE_SECONDS = 120
NEEDS_SIGNALS = pytest.mark.skipif(os.name == "nt", reason="needs signals that stop, and kill")


@pytest.fixture
def store(data_dir: Path) -> RunStore:
    return RunStore(data_dir)


def test_who_trains_what_is_seen_by_others_until_it_ends(store: RunStore) -> None:
    assert training_in(store) is None
    assert not store.data_dir.exists()
    with held(store, "r1") as process:
        for _ in range(2):
            assert training_in(store) == Training("r1", process.pid)
        with pytest.raises(BusyError, match=f"Run r1 is training in {store.data_dir}; wait for it to finish"):
            refuse_if_trained(store)
        with pytest.raises(BusyError, match="Run r1 is training"), training_lock(store, "r2"):
            pass
    assert training_in(store) is None
    with training_lock(store, "r2"):
        assert training_in(store) == Training("r2", os.getpid())
    assert [path.name for path in store.data_dir.iterdir()] == ["training.lock"]


@NEEDS_SIGNALS
def test_who_was_killed_trains_no_more(store: RunStore) -> None:
    with held(store, "r1") as process:
        process.kill()
        process.wait()
        assert (store.data_dir / "training.json").exists()
        assert training_in(store) is None
        assert not (store.data_dir / "training.json").exists()
    with held(store, "r1") as process:
        process.kill()
        process.wait()
        with training_lock(store):  # to make a run, or to write how one ended
            assert training_in(store) is None
    refuse_if_trained(store)


@pytest.mark.parametrize("note", ["", "{", "[]", "3", '{"run": "r1"}', '{"run": "r1", "process_id": "x"}'])
def test_a_damaged_note_is_no_training(store: RunStore, note: str) -> None:
    store.data_dir.mkdir()
    (store.data_dir / "training.json").write_text(note)
    assert training_in(store) is None
    refuse_if_trained(store)


def test_looking_keeps_nobody_from_training(store: RunStore) -> None:
    is_over = threading.Event()

    def look() -> None:
        while not is_over.is_set():
            training_in(store)

    onlookers = [threading.Thread(target=look) for _ in range(2)]
    for onlooker in onlookers:
        onlooker.start()
    try:
        for number in range(30):
            with training_lock(store, f"r{number}"):
                pass
    finally:
        is_over.set()
        for onlooker in onlookers:
            onlooker.join()


def digest(run: Run) -> list[str]:
    """Of all that a second session could touch."""
    return [hashlib.sha256((run.path / name).read_bytes()).hexdigest() for name in ("events.jsonl", "config.json")]


def test_nothing_is_written_into_a_run_that_another_process_trains(
    store: RunStore, new_run: Callable[..., Run]
) -> None:
    run = new_run()
    before = digest(run)
    with held(store, run.id):
        with pytest.raises(BusyError, match=f"Run {run.id} is training"):
            list(train(store, run, lambda: False, steps=9))
        tell_death(store, run.id, "The engine was killed.")
        with pytest.raises(BusyError, match=f"Run {run.id} is training"):
            Worker(store).start_training(run.id, resume=True)
    assert digest(run) == before
    tell_death(store, run.id, "The engine was killed.")
    assert (summarize(run).state, summarize(run).message) == ("failed", "The engine was killed.")
    tell_death(store, "deleted", "The engine was killed.")


@pytest.fixture
def training_process(store: RunStore, new_run: Callable[..., Run]) -> Iterator[tuple[Run, subprocess.Popen[str]]]:
    """A run that the command line trains, halted after some steps."""
    run = new_run(steps=5000)
    process = start("resume", store, "--run", run.id)
    end = time.monotonic() + PATIENCE_SECONDS
    while summarize(run).step < 3:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)
    process.send_signal(signal.SIGSTOP)
    yield run, process
    process.kill()
    process.communicate()


def start(command: str, store: RunStore, *arguments: str) -> subprocess.Popen[str]:
    line = [sys.executable, "-m", "apt_engine", command, "--data-dir", str(store.data_dir), *arguments]
    return subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@NEEDS_SIGNALS
def test_a_second_process_is_refused_in_one_sentence_and_changes_nothing(
    store: RunStore, training_process: tuple[Run, subprocess.Popen[str]], photo_dir: Path, toy_base: Path
) -> None:
    run, process = training_process
    before = digest(run)
    photos = ("--photos", str(photo_dir), "--subject", "car", "--base", str(toy_base))
    for command, arguments in (("resume", ()), ("resume", ("--steps", "6000")), ("train", photos)):
        second = start(command, store, *arguments)
        _, errors = second.communicate(timeout=PATIENCE_SECONDS)
        assert second.returncode == 1
        assert errors.splitlines() == [
            f"apt_engine: Run {run.id} is training in {store.data_dir}; wait for it to finish, or choose another --data-dir."
        ]
    assert digest(run) == before
    assert [other.id for other in store.list()] == [run.id]
    listed, _ = start("runs", store).communicate(timeout=PATIENCE_SECONDS)
    assert listed.startswith(f"{run.id}  training   step {summarize(run).step}/5000")
    process.send_signal(signal.SIGCONT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_SECONDS)
    events, _ = run.events()
    assert isinstance(events[-1], StageChanged)
    assert "resume the run" in events[-1].message
    assert not [event for event in events if isinstance(event, RunFailed)]
    steps = [event.step for event in events if isinstance(event, StepFinished)]
    assert steps == list(range(1, len(steps) + 1))
