"""Indicators read off the split, and what a training does by them."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from apt_engine.apt import stopping
from apt_engine.apt.bins import BINS
from apt_engine.apt.memorized import SplitIndicator, has_turned, memorized_share, shares, turned
from apt_engine.apt.split import MIRROR, SHOT, ZOOM, Cell, phases
from apt_engine.apt.stopping import Check, Rule
from apt_engine.errors import ConfigError
from apt_engine.jobs.session import train
from apt_engine.runs.events import Event, SplitMeasured, StepFinished
from apt_engine.runs.history import summarize
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.checks import check_of


def check(step: int, shots: Sequence[float], views: Sequence[float]) -> Check:
    """Of every bin one shot, and two views that lie about the mean."""
    seen = {Cell(0, MIRROR, index).code: gain - 0.01 for index, gain in enumerate(views)}
    seen |= {Cell(0, ZOOM, index).code: gain + 0.01 for index, gain in enumerate(views)}
    return Check(step, {Cell(1, SHOT, index).code: gain for index, gain in enumerate(shots)}, seen)


def test_the_memorized_share() -> None:
    assert memorized_share(0.4, 0.1) == pytest.approx(0.75)
    assert memorized_share(0.4, -0.2) == pytest.approx(1.5)
    assert memorized_share(0.4, 0.4) == 0
    assert memorized_share(0.019, -1.0) == 0
    assert memorized_share(-0.2, -0.4) == 0


@pytest.mark.parametrize(
    ("gains", "is_past"),
    [
        ([], False),
        ([0.1, 0.2, 0.3], False),
        ([0.1, 0.3, 0.2], False),
        ([0.1, 0.3, 0.2, 0.2], True),
        ([0.1, 0.3, 0.2, 0.31, 0.3], False),
        ([0.1, 0.3, 0.2, 0.2, 0.9], True),
        ([0.1, 0.3, 0.2, 0.25], True),
        ([0.3, 0.3, 0.3], True),
    ],
)
def test_a_bin_is_past_its_turn_after_two_checks_behind_its_best(gains: list[float], is_past: bool) -> None:
    assert has_turned(gains) is is_past


def test_gamma_from_the_split_is_the_share_of_each_bin() -> None:
    shots = [0.4] * 9 + [0.0]
    views = [0.4 - 0.05 * index for index in range(BINS)]
    checks = [check(25, shots, shots), check(50, shots, views)]
    indicator = SplitIndicator("split", lambda: checks)
    assert indicator.raw_gamma().tolist() == pytest.approx([0.125 * index for index in range(9)] + [0])
    checks.append(check(75, shots, [-1.0] * BINS))
    assert indicator.gamma().tolist() == [0.99] * 9 + [0]
    checks.append(check(100, [float("nan")] * BINS, views))
    assert indicator.gamma().tolist() == [0.99] * 9 + [0]


def test_a_check_that_saw_some_bins_leaves_the_others() -> None:
    first = check(25, [0.4] * BINS, [0.2] * BINS)
    second = Check(50, {Cell(0, SHOT, 3).code: 0.4}, {Cell(0, ZOOM, 3).code: 0.1, Cell(0, ZOOM, 4).code: 0.0})
    assert shares([first, second]) == pytest.approx([0.5] * 3 + [0.75] + [0.5] * 6)


def test_a_thin_check_compares_a_shot_with_a_view_of_the_same_photo() -> None:
    for turn in phases(5, [(photo, framing) for photo in range(5) for framing in (MIRROR, ZOOM)]):
        views = {(cell.photo, cell.bin) for cell in turn if cell.framing != SHOT}
        assert {(cell.photo, cell.bin) for cell in turn if cell.framing == SHOT} <= views


def test_bins_are_held_one_by_one_from_their_turn_on() -> None:
    def views(step: int) -> list[float]:
        return [0.1 - 0.001 * abs(step - 25 * index) for index in range(1, BINS + 1)]

    checks: list[Check] = []
    indicator = SplitIndicator("turn", lambda: checks)
    assert indicator.gamma().tolist() == [0] * BINS
    for number in range(1, 7):
        checks.append(check(25 * number, [0.4] * BINS, views(25 * number)))
        assert indicator.gamma().tolist() == [0.99 if index + 2 < number else 0 for index in range(BINS)]
    assert turned(checks) == [True] * 4 + [False] * 6


def test_it_survives_a_resume() -> None:
    one, other = SplitIndicator("split", list), SplitIndicator("split", list)
    one.update(torch.zeros(2, BINS), torch.arange(BINS).double())
    other.load_state_dict(one.state_dict())
    assert torch.equal(one.visits, other.visits)


@pytest.mark.parametrize("off", [{"check_every_steps": 0}, {"new_views": "none"}])
def test_it_needs_checks(off: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="indicator is split but nothing is checked"):
        TrainingConfig(subject="car", indicator="split", **off)


def test_it_needs_no_untrained_model_in_each_step() -> None:
    config = TrainingConfig(subject="car", stabilization=0, alignment=0)
    assert config.needs_reference
    assert not config.replace(indicator="turn").needs_reference
    assert config.replace(indicator="turn", alignment=1).needs_reference


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> RunStore:
    return RunStore(tmp_path_factory.mktemp("data"))


@pytest.fixture
def make(new_run: Callable[..., Run]) -> Callable[..., Run]:
    def make(**settings: Any) -> Run:
        run = new_run(12)
        values = {"check_every_steps": 1, "batch_size": 2, "stop": "never", "save_every_steps": 100}
        values |= {"stabilization": 0, "alignment": 0, "learning_rate": 3e-2, "warmup_steps": 0, "rank": 4}
        run.replace_config(run.config.replace(**{**values, "drift_every_steps": 0, **settings}))
        return run

    return make


def finish(run: Run, stop_at: int = 0) -> list[Event]:
    events: list[Event] = []

    def should_stop() -> bool:
        return any(isinstance(event, StepFinished) and event.step == stop_at for event in events)

    events.extend(train(RunStore(run.path.parent.parent), run, should_stop))
    return events


@pytest.mark.parametrize("form", ["split", "turn"])
def test_a_step_weighs_and_reframes_by_the_checks_before_it_also_after_a_resume(
    make: Callable[..., Run], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apt_engine.apt.memorized.RULE", Rule(least_gain=1e-6))
    run = make(indicator=form)
    checks: list[Check] = []
    weighed: list[StepFinished] = []
    for event in finish(run):
        if isinstance(event, SplitMeasured):
            checks.append(check_of(event, None))
        if isinstance(event, StepFinished):
            gamma = SplitIndicator(form, lambda: checks).gamma()
            assert event.gamma == tuple(gamma.tolist())
            bins = [timestep * BINS // 1000 for timestep in event.timesteps]
            assert event.weights == pytest.approx([float(1 - gamma[index]) for index in bins])
            assert event.chances == pytest.approx([min(0.8, float(gamma[index])) for index in bins])
            assert event.reference_loss is None
            weighed += [event] if min(event.weights) < 1 else []
    assert weighed
    resumed = make(indicator=form)
    finish(resumed, stop_at=9)
    finish(resumed)
    assert resumed.checkpoint().lora_path.read_bytes() == run.checkpoint().lora_path.read_bytes()
    assert [split.gains for split in summarize(resumed).splits] == [split.gains for split in summarize(run).splits]


def test_a_run_whose_bins_are_all_held_ends(make: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "stand", functools.partial(stopping.stand, rule=Rule(least_steps=100)))
    monkeypatch.setattr("apt_engine.training.checks.turned", lambda checks: [len(checks) > 2] * BINS)
    end = finish(make(indicator="turn", stop="auto"))[-1]
    assert (getattr(end, "step", 0), getattr(end, "is_by_itself", False)) == (3, True)
    assert getattr(end, "reason", "").startswith("At every noise level new views of your photos are fitted no better")
