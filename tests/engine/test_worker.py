"""The engine as a child process: trains, samples, stops, is killed, and never drags torch into the page's process."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apt_engine.errors import BusyError, EngineError
from apt_engine.jobs.worker import ROOT, Worker
from apt_engine.runs.events import RunFailed, RunFinished, StepFinished
from apt_engine.runs.history import summarize
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.sampling import SampleRequest

PATIENCE_SECONDS = 300


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return RunStore(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def worker(store: RunStore) -> Iterator[Worker]:
    worker = Worker(store)
    yield worker
    worker.close()


def wait_until(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not is_true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def wait_for_step(run: Run, step: int, since: int = 0) -> None:
    wait_until(lambda: any(isinstance(event, StepFinished) and event.step >= step for event in run.events(since)[0]))


def wait_until_idle(worker: Worker) -> None:
    wait_until(lambda: worker.status.job == "idle")


def test_it_trains_and_then_draws(worker: Worker, new_run: Callable[..., Run], store: RunStore) -> None:
    run = new_run()
    worker.start_training(run.id)
    assert worker.status.job == "training"
    with pytest.raises(BusyError, match=f"training {run.id}; wait for it to finish, or stop it"):
        worker.start_training(run.id)
    with pytest.raises(BusyError, match="training"):
        worker.sample(SampleRequest(prompt="a cat"))
    wait_until_idle(worker)
    assert summarize(run).state == "finished"
    assert worker.status.message == ""

    last = list(worker.sample(SampleRequest(prompt="a {subject}", run=run.id, count=2, steps=2)))[-1]
    assert [path.suffix for path in last.images] == [".png", ".png"]
    assert all(path.is_relative_to(store.data_dir / "generated") and path.exists() for path in last.images)
    assert worker.status.job == "idle"

    exported = summarize(run).exports
    written = list(worker.export(run.id, "2"))[-1]
    assert [path.name for path in written.images] == [
        "zwx_car-000002.safetensors",
        "zwx_car-000002-diffusers.safetensors",
    ]
    assert all(path.parent == run.path / "exports" and path.exists() for path in written.images)
    assert summarize(run).exports == exported  # those of the run as it ended
    with pytest.raises(EngineError, match="no checkpoint"):
        list(worker.export(run.id, "3000"))


def test_it_judges_a_run_and_the_verdict_is_in_its_events(worker: Worker, new_run: Callable[..., Run]) -> None:
    run = new_run()
    with pytest.raises(EngineError, match="no checkpoint to judge yet"):
        list(worker.judge(run.id))
    worker.start_training(run.id)
    wait_until_idle(worker)
    told = []
    for progress in worker.judge(run.id):
        assert worker.status.job in ("judging", "idle")
        told.append(progress.message)
    assert "Judging the untrained model" in told
    assert told[-1] == "Done"
    verdict = summarize(run).verdict
    assert verdict
    assert [one.step for one in verdict.pictures] == [0, 2, 4]
    assert verdict.message.startswith("Step 4: ")
    assert all((run.path / path).exists() for one in verdict.pictures for path in one.paths)

    size = run.events_path.stat().st_size
    judging = worker.judge(run.id)
    next(judging)
    with pytest.raises(BusyError, match="judging a run; wait for its verdict"):
        worker.sample(SampleRequest(prompt="a cat"))
    worker.stop()
    assert [progress.message for progress in judging][-1] == "Stopped"
    assert run.events_path.stat().st_size == size
    for path in run.photo_paths:
        path.unlink()
    with pytest.raises(EngineError, match="has no photos any more"):
        list(worker.judge(run.id))


def test_a_failure_is_a_sentence_and_the_engine_goes_on(worker: Worker, new_run: Callable[..., Run]) -> None:
    run = new_run()
    with pytest.raises(EngineError, match="has no checkpoint yet"):
        list(worker.sample(SampleRequest(prompt="a {subject}", run=run.id)))
    run.photo_paths[0].write_bytes(b"no picture")
    worker.start_training(run.id)
    wait_until_idle(worker)
    assert summarize(run).state == "failed"
    assert worker.status.message == summarize(run).message
    good = new_run()
    worker.start_training(good.id)
    wait_until_idle(worker)
    assert summarize(good).state == "finished"


def test_it_stops_when_asked_and_resumes(worker: Worker, new_run: Callable[..., Run]) -> None:
    run = new_run(steps=5000)
    worker.start_training(run.id)
    wait_for_step(run, 3)
    worker.stop()
    wait_until_idle(worker)
    finished = run.events()[0][-1]
    assert isinstance(finished, RunFinished)
    assert not finished.is_complete
    with pytest.raises(BusyError, match="resume it instead"):
        worker.start_training(run.id)
    worker.start_training(run.id, resume=True)
    wait_for_step(run, finished.step + 2)
    worker.stop()
    wait_until_idle(worker)
    assert summarize(run).step > finished.step


@pytest.mark.parametrize("end", ["closed", "terminated", "abandoned"])
def test_an_engine_whose_app_ends_saves_its_step_and_is_never_said_to_have_failed(
    worker: Worker, new_run: Callable[..., Run], end: str
) -> None:
    run = new_run(steps=5000)
    worker.start_training(run.id)
    wait_for_step(run, 3)
    process = worker._process
    assert process
    if end == "closed":
        worker.close()
    elif end == "terminated":
        process.terminate()
    else:  # as the system does when the app was killed
        assert process.stdin
        process.stdin.close()
    assert process.wait(PATIENCE_SECONDS) == 0
    wait_until_idle(worker)
    assert "resume the run to go on" in summarize(run).message
    assert summarize(run).state_while(False) == "interrupted"
    assert summarize(run).step == run.checkpoint().step
    assert not (run.path / "exports").exists()
    assert worker.status.message == ""


def test_an_answer_that_nobody_hears_is_no_error() -> None:
    from apt_engine.jobs.worker_process import Child

    read, written = os.pipe()
    os.close(read)
    answers = os.fdopen(written, "w")
    Child(answers)._tell("done")
    with contextlib.suppress(BrokenPipeError):
        answers.close()


@pytest.mark.skipif(os.name == "nt", reason="needs a killing signal")
def test_a_killed_engine_is_noticed_and_the_run_resumes(worker: Worker, new_run: Callable[..., Run]) -> None:
    run = new_run(steps=5000)
    worker.start_training(run.id)
    wait_for_step(run, 5)
    assert worker.process_id
    os.kill(worker.process_id, signal.SIGKILL)
    wait_until_idle(worker)
    events, cursor = run.events()
    failed = events[-1]
    assert isinstance(failed, RunFailed)
    assert "The engine was killed" in failed.message
    assert "Resume" in failed.message
    before = run.checkpoint().step
    worker.start_training(run.id, resume=True)
    wait_for_step(run, before + 1, since=cursor)
    worker.stop()
    wait_until_idle(worker)
    assert run.checkpoint().step > before


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="a mapped file cannot be cut there")
def test_an_engine_that_died_of_a_file_that_was_cut_says_so(worker: Worker) -> None:
    told = worker._explain_death(-signal.SIGBUS)
    assert told.startswith("The engine was ended, as a file in use, most likely the base model's, was cut short")


def test_the_pages_process_never_imports_torch(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "import apt_engine.jobs.worker, apt_engine.photos.photo_set, apt_engine.bases.profiles, apt_engine.cli.main\n"
        "from apt_engine.runs.store import RunStore\n"
        "apt_engine.jobs.worker.Worker(RunStore(Path(sys.argv[1])))\n"
        "assert not {'torch', 'diffusers', 'transformers', 'gradio'} & set(sys.modules), 'heavy import'\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, check=True)


def test_a_broken_torch_is_a_sentence(
    store: RunStore, new_run: Callable[..., Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run, broken = new_run(), Worker(store)
    broken.start_training(run.id)
    wait_until_idle(broken)
    assert "The engine ended unexpectedly (libtorch is broken); start the app again" in broken.status.message
    assert summarize(run).state == "failed"
