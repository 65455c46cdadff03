"""The one fold of a run's events: what they amount to, and that each is read once."""

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from apt_engine.errors import RunError
from apt_engine.runs import event_file, history
from apt_engine.runs.events import DriftMeasured, Event, Noticed, SampleReady, SplitMeasured, ViewsShown, to_json
from apt_engine.runs.folds import Folds
from apt_engine.runs.history import NEWER, History, RunSummary, follow, summarize
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig
from tests.histories import FAILED, FINISHED, STOPPED, count_reads, history_of, started, step, worn


@pytest.fixture
def store(data_dir: Path) -> RunStore:
    return RunStore(data_dir)


@pytest.fixture
def run(store: RunStore) -> Run:
    return store.create(TrainingConfig(subject="backpack", steps=10), lambda folder: None)


def append(run: Run, *events: Event) -> None:
    for event in events:
        run.append(event)


def test_a_resumed_session_draws_no_step_twice() -> None:
    told = history_of(started(), step(1), step(2), step(3), FAILED, started(first_step=2), step(3), step(4))
    assert [number for number, _ in told.losses] == [1, 2, 3, 4]
    assert told.step == 4


def test_the_speed_is_that_of_usual_steps() -> None:
    told = history_of(started(), step(1, seconds=30.0), *(step(number, seconds=2.0) for number in range(2, 8)))
    assert told.seconds_per_step == 2.0
    assert history_of(started()).seconds_per_step is None


def test_samples_and_notices_are_kept_in_their_places() -> None:
    told = history_of(
        started(),
        SampleReady(step=0, index=1, prompt="p", seed=1, path="samples/a.png"),
        *(Noticed(message=f"note {number}") for number in range(5)),
    )
    assert told.samples == {(0, 1): "samples/a.png"}
    assert told.notices == ["note 2", "note 3", "note 4"]
    assert told.prompts[0] == "a photo of a zwx backpack"


def test_without_samples_there_are_no_rows() -> None:
    assert history_of(sample_every_steps=0).prompts == ()


def test_what_is_measured_is_kept_and_forgotten_where_it_is_done_again() -> None:
    told = history_of(
        started(),
        DriftMeasured(step=0, drift=0.0),
        worn(1, (0.1,), 0.5),
        worn(2, (0.1,), 0.5),
        DriftMeasured(step=2, drift=0.2),
        ViewsShown(step=2, paths=("views/a.png",)),
        started(first_step=1),
        worn(2, (0.2,), 0.4),
        DriftMeasured(step=2, drift=0.3),
    )
    assert told.drifts == [(0, 0.0), (2, 0.3)]
    assert told.references == [(1, 0.2), (2, 0.2)]
    assert told.chances == [(1, 0.5), (2, 0.4)]
    assert told.kept_features == [(1, 0.5), (2, 0.5)]
    assert (told.kept_attention, told.memory, told.views) == ([], 7, ("views/a.png",))
    assert [told.has_drift(number) for number in (0, 1, 2)] == [True, False, True]


def test_what_is_known_of_the_step_a_session_starts_from_is_kept() -> None:
    told = history_of(
        started(),
        *(
            event
            for at in (1, 2, 3)
            for event in (
                worn(at, (0.1,), 0.5),
                DriftMeasured(step=at, drift=float(at)),
                SplitMeasured(step=at, cells=(3,), gains=(0.1,)),
            )
        ),
        started(first_step=2),
    )
    assert [step for step, _ in told.losses] == [step for step, _ in told.drifts] == [1, 2]
    assert [measured.step for measured in told.splits] == [1, 2]
    assert (told.has_drift(2), told.has_drift(3), told.step) == (True, False, 2)


@pytest.mark.parametrize(
    ("events", "idle", "trained"),
    [
        ([], "new", "waking"),
        ([started(), step(1)], "interrupted", "training"),
        ([started(), FINISHED], "finished", "waking"),
        ([started(), STOPPED], "stopped", "waking"),
        ([started(), FAILED], "failed", "waking"),
    ],
)
def test_a_run_without_an_end_is_trained_or_was_interrupted(events: list[Event], idle: str, trained: str) -> None:
    told = history_of(*events)
    assert (told.state_while(False), told.state_while(True)) == (idle, trained)


def test_the_newest_sample_of_a_prompt_is_that_of_the_last_step(run: Run) -> None:
    told = History.of(run)
    assert told.newest_sample(told.prompts[0]) is None
    for at, index in itertools.product((0, 20, 10), (0, 1)):
        told.add([SampleReady(step=at, index=index, prompt=told.prompts[index], seed=0, path=f"{at}-{index}.png")])
    assert told.newest_sample(told.prompts[1]) == (20, "20-1.png")
    assert told.newest_sample("a prompt of another run") is None
    (run.path / "20-1.png").touch()
    assert told.drawn_samples(20) == {1}


def test_a_summary_is_a_history_without_its_curves(run: Run) -> None:
    append(run, started(), worn(1, (0.1,), 0.5), DriftMeasured(step=1, drift=0.1), STOPPED, started(1), step(2))
    whole, short = vars(History.of(run)), vars(RunSummary.of(run))
    assert short == {name: whole[name] for name in short}
    curves = {name: len(whole[name]) for name in whole.keys() - short.keys()}
    assert curves["losses"] == 2
    assert curves["gammas"] == 1


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[Path]:
    return count_reads(monkeypatch)


def test_a_list_of_runs_reads_each_event_once(store: RunStore, reads: Counter[Path]) -> None:
    made = [store.create(TrainingConfig(subject="car", steps=10), lambda folder: None) for _ in range(3)]
    for run in made:
        append(run, started(), step(1))
    for _ in range(2):
        assert [summarize(run).step for run in store.list()] == [1, 1, 1]
    made[0].append(step(2))
    assert [summarize(run).step for run in made] == [2, 1, 1]
    assert dict(reads) == {run.events_path: run.events_path.stat().st_size for run in made}


def test_a_summary_follows_its_files(run: Run, reads: Counter[Path]) -> None:
    append(run, started(), step(1), step(2))
    assert (summarize(run).step, summarize(run).subject) == (2, "backpack")
    run.replace_config(run.config.replace(subject="bag"))
    assert summarize(run).subject == "bag"
    lines = run.events_path.read_text().splitlines(keepends=True)
    run.events_path.write_text("".join(lines[:-1]))  # another file of the same name
    assert summarize(run).step == 1
    (run.path / "config.json").unlink()
    with pytest.raises(RunError, match="cannot be read"):
        summarize(run)


def test_only_so_many_runs_are_kept(store: RunStore, reads: Counter[Path]) -> None:
    kept = Folds(RunSummary.of, 2)
    made = [store.create(TrainingConfig(subject="car"), lambda folder: None) for _ in range(3)]
    for run in made:
        append(run, started(), step(1))
    for run in (made[0], made[1], made[0], made[2], made[0]):
        kept.of(run)
    assert all(reads[run.events_path] == run.events_path.stat().st_size for run in made)
    kept.of(made[1])
    assert reads[made[1].events_path] == 2 * made[1].events_path.stat().st_size


def test_a_history_that_is_followed_is_the_readers_own(run: Run) -> None:
    append(run, started(), step(1), SampleReady(step=1, index=0, prompt="a", seed=0, path="samples/1.png"))
    first = follow(run)
    append(run, step(2), SampleReady(step=2, index=0, prompt="a", seed=0, path="samples/2.png"))
    assert follow(run).losses == [(1, 0.1), (2, 0.1)] and len(follow(run).samples) == 2
    assert first.losses == [(1, 0.1)] and len(first.samples) == 1 and len(first.recent_seconds) == 1


def test_a_run_that_is_followed_for_long_takes_no_more_memory_than_one_that_is_opened(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "STEPS_KEPT", 100)
    monkeypatch.setitem(event_file.FREQUENT, b'{"kind": "StepFinished"', 100)
    append(run, started())
    told, sizes = follow(run), list[int]()
    for number in range(1, 1001):
        append(run, step(number))
        told = follow(run)
        assert told.losses[-1] == (number, 0.1)
        sizes.append(len(told.losses))
    assert max(sizes) <= 201 and sizes[200] == 201
    steps = [number for number, _ in told.losses]
    assert steps == sorted(set(steps)) and max(later - earlier for earlier, later in itertools.pairwise(steps)) <= 12


@pytest.mark.parametrize("line", ["{", "3", "[]", '{"kind": []}', '{"kind": "StepFinished", "step": "two"}', "\udcff"])
def test_a_damaged_line_costs_no_other(run: Run, line: str) -> None:
    append(run, started(), step(1))
    with run.events_path.open("ab") as file:
        file.write(line.encode(errors="surrogateescape") + b"\n")
    append(run, step(2))
    told = History.of(run)
    assert [number for number, _ in told.losses] == [1, 2]
    assert told.notices == []


def test_what_only_a_newer_version_knows_is_one_notice_that_stays(run: Run) -> None:
    append(run, started(), step(1))
    dreamt: dict[str, Any] = {"kind": "RunDreamt", "dream": "of sheep"}
    with run.events_path.open("a") as file:
        file.write(f"{json.dumps(dreamt)}\n{json.dumps(dreamt)}\n{to_json(started(1))}\n")
    append(run, step(2))
    assert summarize(run).notices == [NEWER]
    assert (summarize(run).state, summarize(run).step) == ("training", 2)


def test_a_run_that_was_stopped_or_is_finished_is_never_called_failed(tmp_path: Path) -> None:
    for ended, state in ((FINISHED, "finished"), (STOPPED, "stopped")):
        told = history_of(started(), ended, FAILED)
        assert told.state == state
        assert told.notices[-1] == FAILED.message
    assert history_of(started(), STOPPED, started(), FAILED).state == "failed"
