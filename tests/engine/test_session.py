"""A session writes how it failed, whatever the reason, and nothing when it was refused."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from apt_engine.errors import DiskError, EngineError, RunError
from apt_engine.jobs.session import train
from apt_engine.runs.events import Event, RunFailed, RunFinished, RunStarted
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.runs.training_lock import training_in
from apt_engine.training.trainer import Trainer
from tests.histories import started


@pytest.fixture
def store(data_dir: Path) -> RunStore:
    return RunStore(data_dir)


@pytest.mark.parametrize(
    ("error", "sentence", "is_plain"),
    [
        (RunError("The photos are gone; bring them back."), "The photos are gone; bring them back.", True),
        (MemoryError(), "The memory ran out while this was done; close other programs", False),
        (
            KeyError("up"),
            "Something unexpected happened; what was saved is kept, so try again. The details, for a report, are in events.j",
            False,
        ),
    ],
)
def test_what_breaks_a_session_is_the_last_that_the_run_tells(
    store: RunStore,
    new_run: Callable[..., Run],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    sentence: str,
    is_plain: bool,
) -> None:
    def broken(*_arguments: object) -> Iterator[Event]:
        yield started()
        raise error

    monkeypatch.setattr(Trainer, "run", broken)
    run = new_run()
    with pytest.raises(EngineError) as caught:
        list(train(store, run, lambda: False))
    assert isinstance(caught.value, type(error)) is is_plain
    first, last = run.events()[0]
    assert isinstance(first, RunStarted)
    assert isinstance(last, RunFailed)
    assert last.message == str(caught.value)
    assert last.message.startswith(sentence)
    assert (last.detail == "") is is_plain
    assert is_plain or "test_session.py" in last.detail
    assert training_in(store) is None


def test_a_session_that_was_refused_leaves_the_run_as_it_was(store: RunStore, new_run: Callable[..., Run]) -> None:
    run = new_run(steps=2)
    events = list(train(store, run, lambda: False))
    assert isinstance(events[-1], RunFinished)
    before = run.events_path.read_bytes()
    with pytest.raises(RunError, match="already at step 2; give it more steps"):
        list(train(store, run, lambda: False))
    (run.path / "config.json").write_text("{")
    with pytest.raises(RunError, match="cannot be read"):
        list(train(store, run, lambda: False))
    assert run.events_path.read_bytes() == before


def test_a_full_disk_is_the_sentence_and_leaves_the_run_without_an_end(
    store: RunStore, new_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Run.append

    def full_after_the_first(run: Run, event: Event) -> None:
        if run.events()[0]:
            raise DiskError("Cannot write events.jsonl.")
        append(run, event)

    monkeypatch.setattr(Run, "append", full_after_the_first)
    run = new_run()
    with pytest.raises(DiskError, match=r"Cannot write events\.jsonl"):
        list(train(store, run, lambda: False))
    assert [type(event) for event in run.events()[0]] == [RunStarted]
    assert training_in(store) is None
