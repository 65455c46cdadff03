"""On a Space, a job that fills its visitor's folder ends with what it made kept, and with one sentence."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from apt_engine.jobs import limits
from apt_engine.jobs.queue import JobQueue, QueuedEngine
from apt_engine.jobs.worker import Worker
from apt_engine.runs.events import StepFinished
from apt_engine.runs.history import History
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.sampling import SampleRequest
from apt_engine.settings.training import TrainingConfig

PATIENCE_SECONDS = 240
FULL = "Ended early, with all it made kept: Your runs, photos and pictures take "


@pytest.fixture
def visitor(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[QueuedEngine]:
    for check in ("check_training", "check_request"):  # which know the bases of the list, not the toy
        monkeypatch.setattr(limits, check, lambda *_: None)
    monkeypatch.setattr(limits, "SECONDS_BETWEEN_LOOKS", 0.2)
    monkeypatch.setattr(limits, "KEPT_FREE", 0)
    queue = JobQueue(Worker(RunStore(data_dir)))
    yield QueuedEngine(queue, RunStore(data_dir / "visitors" / "ada"))
    queue.close()


def until(is_true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not is_true():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)


def new_run(visitor: QueuedEngine, base: Path) -> Run:
    config = TrainingConfig(
        subject="car",
        base=str(base),
        resolution=32,
        rank=4,
        steps=5000,
        save_every_steps=1,
        sample_every_steps=0,
        drift_every_steps=0,
        warped_views=0,
        stop="never",
    )
    return visitor.store.create(config, lambda folder: Image.new("RGB", (40, 40), "red").save(folder / "01.png"))


def test_a_run_that_fills_its_folder_ends_saved_and_says_why(
    visitor: QueuedEngine, toy_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(visitor, toy_base)
    visitor.start_training(run.id)
    until(lambda: len(run.checkpoints()) >= 2)
    assert visitor.status.job == "training"
    monkeypatch.setattr(limits, "MOST_BYTES", limits.size_of(visitor.store.data_dir))
    until(lambda: visitor.status.job == "idle")
    history = History.of(run)
    done = max(event.step for event in run.events()[0] if isinstance(event, StepFinished))
    assert history.state == "stopped"
    assert (run.checkpoints()[-1].step, run.checkpoints()[-1].is_intact()) == (done, True)
    assert done < 5000
    assert [notice[: len(FULL)] for notice in history.notices] == [FULL]
    assert history.notices[0].endswith("delete some of the runs.")
    with pytest.raises(limits.LimitError, match="delete some of the runs"):
        visitor.start_training(run.id, resume=True)


def test_pictures_that_fill_the_folder_end_and_say_why(
    visitor: QueuedEngine, toy_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = SampleRequest(prompt="a cat", base=str(toy_base), run="", count=64, steps=50, width=32, height=32)
    monkeypatch.setattr(limits, "MOST_BYTES", 12_000)
    with pytest.raises(limits.LimitError, match=FULL):
        list(visitor.sample(request))
    pictures = sorted(visitor.store.data_dir.rglob("*.png"))
    assert 0 < len(pictures) < 64
    assert visitor.status.job == "idle"


def test_the_size_of_a_folder_is_that_of_its_own_files(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes(5000))
    folder = tmp_path / "own"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "c").write_bytes(bytes(70))
    (folder / "link").symlink_to(tmp_path / "big")
    assert 70 <= limits.size_of(folder) < 1000
    assert limits.size_of(tmp_path / "none") == 0
