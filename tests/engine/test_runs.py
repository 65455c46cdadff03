"""Run folders: whole or not at all, verified checkpoints, events that survive a torn line."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from apt_engine.errors import DiskError, RunError
from apt_engine.runs.events import CheckpointSaved, RunFailed, RunFinished, RunStarted, StepFinished
from apt_engine.runs.files import write_atomically
from apt_engine.runs.history import summarize
from apt_engine.runs.resumption import starting_checkpoint
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig

ROOT = Path(__file__).resolve().parents[2]


def _photo(folder: Path) -> None:
    (folder / "01.png").write_bytes(b"picture")


def _checkpoint(run: Run, step: int, content: bytes = b"weights") -> None:
    def write(folder: Path) -> None:
        (folder / "lora.safetensors").write_bytes(content)
        (folder / "optimizer.safetensors").write_bytes(b"moments")

    run.save_checkpoint(step, write)


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path)


@pytest.fixture
def run(store: RunStore) -> Run:
    return store.create(TrainingConfig(subject="teddy bear"), _photo)


def step_event(step: int, loss: float = 0.5) -> StepFinished:
    return StepFinished(step=step, loss=loss, prior_loss=None, gradient_norm=1.0, learning_rate=1e-4, seconds=0.1)


def test_a_run_is_found_again_with_its_config_and_photos(store: RunStore, run: Run) -> None:
    assert store.open(run.id).config == TrainingConfig(subject="teddy bear")
    assert store.open("latest").id == run.id
    assert run.id.endswith("teddy-bear")
    assert [path.name for path in run.photo_paths] == ["01.png"]


def test_two_runs_in_one_second_get_two_folders(store: RunStore) -> None:
    made = [store.create(TrainingConfig(subject="car"), _photo) for _ in range(3)]
    assert len({run.id for run in made}) == 3
    assert {run.id for run in store.list()} == {run.id for run in made}


def test_a_run_that_cannot_be_made_leaves_nothing(store: RunStore) -> None:
    def full(_folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DiskError, match=r"No space left on device.*free some disk space"):
        store.create(TrainingConfig(subject="car"), full)
    assert list(store.runs_dir.iterdir()) == []


def test_an_unknown_run_is_refused(store: RunStore) -> None:
    with pytest.raises(RunError, match="there are none yet"):
        store.open("latest")


def test_a_path_is_no_run_id(store: RunStore, run: Run) -> None:
    with pytest.raises(RunError, match="no run"):
        store.open(f"../runs/{run.id}")


def test_events_are_read_on_from_a_cursor(run: Run) -> None:
    first, second = step_event(1), step_event(2)
    run.append(first)
    events, cursor = run.events()
    assert events == [first]
    assert run.events(cursor) == ([], cursor)
    run.append(second)
    assert run.events(cursor)[0] == [second]


def test_a_half_written_event_waits_and_a_torn_one_is_passed_over(run: Run) -> None:
    run.append(step_event(1))
    with run.events_path.open("ab") as file:
        file.write(b'{"kind": "StepFin')
    events, cursor = run.events()
    assert len(events) == 1
    with run.events_path.open("ab") as file:
        file.write(b"\n")
    run.append(step_event(2))
    assert [event.step for event in run.events(cursor)[0] if isinstance(event, StepFinished)] == [2]


def test_an_event_after_a_torn_one_is_read(run: Run) -> None:
    run.append(step_event(1))
    with run.events_path.open("ab") as file:
        file.write(b'{"kind": "StepFin')
    _, cursor = run.events()
    run.append(step_event(2))
    run.append(step_event(3))
    assert [event.step for event in run.events(cursor)[0] if isinstance(event, StepFinished)] == [2, 3]


def test_the_newest_intact_checkpoint_is_last(run: Run) -> None:
    for step in (10, 20, 30):
        _checkpoint(run, step)
    assert run.checkpoint().step == 30
    (run.path / "checkpoints" / "000030" / "lora.safetensors").write_bytes(b"weightz")
    assert run.checkpoint().step == 20
    with pytest.raises(RunError, match="step 30 of run .* is damaged"):
        run.checkpoint("30")
    with pytest.raises(RunError, match="it has: 10, 20, 30"):
        run.checkpoint("25")


def test_checkpoints_come_in_the_order_of_their_steps(run: Run) -> None:
    for step in (1000, 900, 1_000_000, 20):
        _checkpoint(run, step)
    assert [item.step for item in run.checkpoints()] == [20, 900, 1000, 1_000_000]
    assert run.checkpoint().step == 1_000_000


def test_old_checkpoints_keep_their_lora_alone(run: Run) -> None:
    for step in (10, 20, 30):
        _checkpoint(run, step)
    assert [(item.step, item.can_resume, item.is_intact()) for item in run.checkpoints()] == [
        (10, False, True),
        (20, True, True),
        (30, True, True),
    ]


def test_damaged_checkpoints_of_later_steps_do_not_cost_a_resumed_run_its_own(run: Run) -> None:
    for step in (20, 30):
        _checkpoint(run, step)
        (run.path / "checkpoints" / f"{step:06d}" / "lora.safetensors").write_bytes(b"torn")
    _checkpoint(run, 10)
    assert starting_checkpoint(run, 100) == run.checkpoint("10")


def test_a_run_goes_on_where_there_is_an_optimizer_state_and_ends_where_there_is_a_lora(run: Run) -> None:
    assert starting_checkpoint(run, 20) is None
    for step in (10, 20):
        _checkpoint(run, step)
    run.checkpoint("20").optimizer_path.unlink()
    assert starting_checkpoint(run, 30) == run.checkpoint("10")
    assert starting_checkpoint(run, 20) == run.checkpoint("20")


def test_what_a_killed_save_left_is_gone_after_the_next_one(run: Run) -> None:
    left = run.path / "checkpoints" / ".000003.part" / "lora.safetensors"
    left.parent.mkdir(parents=True)
    left.touch()
    _checkpoint(run, 5)
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["000005"]


def test_a_checkpoint_that_fails_leaves_the_older_ones(run: Run) -> None:
    _checkpoint(run, 10)

    def full(folder: Path) -> None:
        (folder / "lora.safetensors").write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(DiskError):
        run.save_checkpoint(20, full)
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["000010"]


def test_the_same_step_may_be_saved_again(run: Run) -> None:
    _checkpoint(run, 10)
    _checkpoint(run, 10, b"others")
    assert run.checkpoint().lora_path.read_bytes() == b"others"


def test_an_atomic_write_keeps_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.json"
    write_atomically(path, b"old")

    def full(_path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("apt_engine.runs.files.sync", full)
    with pytest.raises(DiskError):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="needs a killing signal")
def test_a_kill_while_saving_leaves_only_whole_checkpoints(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from apt_engine.runs.run import Run\n"
        "def write(folder):\n"
        "    for name in ('lora', 'optimizer'): (folder / f'{name}.safetensors').write_bytes(b'x' * 5_000_000)\n"
        "for step in range(1, 100000): Run(Path(sys.argv[1])).save_checkpoint(step, write); print(step, flush=True)\n"
    )
    run = Run(tmp_path)
    for attempt in range(5):
        child = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
        assert child.stdout
        child.stdout.readline()
        time.sleep(0.013 * attempt)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert run.checkpoints()
        assert all(item.is_intact() for item in run.checkpoints())


def test_a_summary_tells_the_state(store: RunStore, run: Run) -> None:
    def state() -> str:
        return summarize(run).state

    assert state() == "new"
    run.append(RunStarted(run=run.id, base="pocket", subject="car", photo_count=4, first_step=0, last_step=9))
    run.append(step_event(3))
    assert state() == "training"
    run.append(RunFailed(message="The engine was killed."))
    assert (state(), summarize(run).message) == ("failed", "The engine was killed.")
    run.append(RunStarted(run=run.id, base="pocket", subject="car", photo_count=4, first_step=0, last_step=9))
    run.append(CheckpointSaved(step=9, path="checkpoints/000009"))
    run.append(RunFinished(step=9, reason="Done.", is_complete=True, seconds=1.0, peak_memory_bytes=1))
    assert (state(), summarize(run).step, summarize(run).last_step) == ("finished", 9, 9)


def test_pictures_asked_for_in_the_same_second_lie_apart(data_dir: Path) -> None:
    store = RunStore(data_dir)
    folders = [store.next_pictures_dir()]
    folders[0].mkdir(parents=True)
    folders.append(store.next_pictures_dir())
    assert folders[0] != folders[1]
    assert sorted(folders) == folders  # the newest comes last
