"""A GPU borrowed call by call: training goes on from slice to slice, also after one was cut off."""

import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from apt_engine.errors import BusyError, DiskError, EngineError
from apt_engine.jobs.worker import Worker
from apt_engine.jobs.zerogpu import ZeroGpuEngine
from apt_engine.runs.events import Event, RunFinished, StepFinished
from apt_engine.runs.history import summarize
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.sampling import SampleRequest
from ui.serving.tenants import open_engine

PATIENCE_SECONDS = 120


class Lender:
    """Runs each call in a process of its own, as ZeroGPU does; some calls are cut off after a while."""

    def __init__(self, cut_off: dict[int, float] | None = None) -> None:
        self.calls = 0
        self._cut_off = cut_off or {}

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            self.calls += 1
            context = multiprocessing.get_context("spawn")
            answers = context.SimpleQueue()
            process = context.Process(target=_work, args=(answers, function, arguments))
            process.start()
            process.join(self._cut_off.get(self.calls, PATIENCE_SECONDS))
            if process.is_alive():
                process.kill()
                process.join()
                raise TimeoutError("GPU task aborted")
            assert process.exitcode == 0, "the call raised something"
            return answers.get()

        return call


def _work(answers: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    answers.put(function(*arguments))


@pytest.fixture
def store(data_dir: Path) -> RunStore:
    return RunStore(data_dir)


def finish(worker: ZeroGpuEngine) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while worker.status.job != "idle":
        assert time.monotonic() < end, "it never ended"
        time.sleep(0.05)


def steps_of(run: Run) -> list[int]:
    return [event.step for event in run.events()[0] if isinstance(event, StepFinished)]


def test_slices_add_up_to_the_whole_run(store: RunStore, new_run: Callable[..., Run], tmp_path: Path) -> None:
    lender = Lender()
    worker = ZeroGpuEngine(store, lender, seconds=0.0)  # a call is over before its first step is: one step a call
    run = new_run(steps=2)
    worker.start_training(run.id)
    with pytest.raises(BusyError, match="The engine is at work"):
        worker.sample(SampleRequest(prompt="a cat", run=""))
    finish(worker)
    summary = summarize(run)
    assert (summary.state, summary.step) == ("finished", 2), run.events()[0][-1]
    assert steps_of(run) == [1, 2]
    assert lender.calls == 2
    ends = [event for event in run.events()[0] if isinstance(event, RunFinished)]
    assert len(ends) == 1


def test_a_slice_that_was_cut_off_is_made_again_from_the_last_checkpoint(
    store: RunStore, new_run: Callable[..., Run]
) -> None:
    lender = Lender(cut_off={1: 0.5})
    worker = ZeroGpuEngine(store, lender, seconds=60)
    run = new_run(steps=4)
    worker.start_training(run.id)
    finish(worker)
    assert (summarize(run).state, lender.calls) == ("finished", 2)


def test_a_gpu_that_never_comes_is_a_sentence_and_the_run_resumes(store: RunStore, new_run: Callable[..., Run]) -> None:
    worker = ZeroGpuEngine(store, Lender(cut_off=dict.fromkeys(range(1, 10), 0.01)), seconds=60)
    run = new_run(steps=4)
    worker.start_training(run.id)
    finish(worker)
    assert "The GPU was taken away 3 times in a row" in worker.status.message
    assert summarize(run).state == "failed"
    again = ZeroGpuEngine(store, Lender(), seconds=60)
    again.start_training(run.id, resume=True)
    finish(again)
    assert summarize(run).state == "finished"


def test_pictures_take_one_call_and_a_mistake_is_a_sentence(
    store: RunStore, new_run: Callable[..., Run], toy_base: Path
) -> None:
    lender = Lender()
    worker = ZeroGpuEngine(store, lender)
    request = SampleRequest(prompt="a cat", run="", base=str(toy_base), count=2, steps=2, width=32, height=32)
    *_, last = worker.sample(request)
    assert [path.is_file() for path in last.images] == [True, True]
    assert lender.calls == 1
    run = new_run(steps=2)
    with pytest.raises(EngineError, match="has no checkpoint yet"):
        list(worker.sample(SampleRequest(prompt="a cat", run=run.id)))
    assert worker.status.job == "idle"
    nearby = ZeroGpuEngine(store, lambda function: function)
    with pytest.raises(EngineError, match="has no checkpoint yet"):
        list(nearby.export(run.id, "kept"))
    assert nearby.status.job == "idle"


def test_zero_gpu_is_used_where_its_package_is(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_engine(store), Worker)
    spaces = ModuleType("spaces")
    asked: list[int] = []

    def gpu(duration: int) -> Any:
        asked.append(duration)
        return lambda function: function

    spaces.GPU = gpu  # pyright: ignore[reportAttributeAccessIssue]
    spaces.__spec__ = ModuleType("spec")  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "spaces", spaces)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert isinstance(open_engine(store), ZeroGpuEngine)
    assert asked == [150]


def test_a_full_disk_leaves_the_engine_free(
    store: RunStore, new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lend(_function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*_arguments: Any) -> Any:
            raise TimeoutError("GPU task aborted")

        return call

    def full(_run: Run, _event: Event) -> None:
        raise DiskError("Cannot write events.jsonl.")

    run, worker = new_run(), ZeroGpuEngine(store, lend)
    monkeypatch.setattr(Run, "append", full)
    worker.start_training(run.id)
    finish(worker)
    assert "taken away 3 times in a row (GPU task aborted)" in worker.status.message
