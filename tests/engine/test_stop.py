"""A wish to stop or to pause: heard wherever work takes long, obeyed by all processes, and nothing that was learnt is lost."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from apt_engine.bases import registry
from apt_engine.bases.sd import StableDiffusion
from apt_engine.errors import ConfigError
from apt_engine.jobs.session import train
from apt_engine.runs.events import (
    CheckpointSaved,
    DriftMeasured,
    Event,
    ExportReady,
    PromptsChanged,
    RunFinished,
    SampleReady,
    StageChanged,
    StepFinished,
)
from apt_engine.runs.history import summarize
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.runs.wishes import ask_for_prompts, ask_for_samples, wished_prompts
from apt_engine.sampling.sampler import Stopped
from apt_engine.training.ending import LastPictures, StopSignal
from apt_engine.training.processes import Processes


@pytest.fixture
def store(data_dir: Path) -> RunStore:
    return RunStore(data_dir)


@pytest.fixture
def make_run(new_run: Callable[..., Run]) -> Callable[..., Run]:
    def make(**settings: Any) -> Run:
        run = new_run(settings.pop("steps", 4))
        run.replace_config(run.config.replace(sample_prompts=("a {subject}", "a cat"), rank=4, **settings))
        return run

    return make


def stopped(
    run: Run, is_time: Callable[[Event], bool], should_pause: Callable[[], bool] = lambda: False
) -> list[Event]:
    """What a session tells that is asked to stop from some event on."""
    events: list[Event] = []
    store = RunStore(run.path.parent.parent)
    events.extend(train(store, run, lambda: any(is_time(event) for event in events), should_pause))
    return events


def whole(run: Run) -> list[Event]:
    return stopped(run, lambda event: False)


def stage(name: str, fraction: float = 0.0) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, StageChanged) and event.stage == name and (event.fraction or 0) >= fraction


def steps_of(events: list[Event]) -> list[int]:
    return [event.step for event in events if isinstance(event, StepFinished)]


def samples_of(events: list[Event]) -> list[tuple[int, int]]:
    return [(event.step, event.index) for event in events if isinstance(event, SampleReady)]


def is_stopped_before_the_first_step(run: Run, events: list[Event]) -> None:
    assert isinstance(events[-1], RunFinished)
    assert (events[-1].reason, events[-1].is_complete) == ("Stopped before the first step, as asked.", False)
    assert summarize(run).state == "stopped"
    assert not steps_of(events)
    assert not run.checkpoints()
    assert not [event for event in events if isinstance(event, ExportReady)]


def count_calls(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """Where a method of the base model notes its calls."""
    monkeypatch.setattr(registry, "try_out", lambda base: None)  # it calls each once when a base model is loaded
    real, calls = getattr(StableDiffusion, name), []

    def method(self: StableDiffusion, *arguments: Any, **options: Any) -> Any:
        calls.append(len(calls))
        return real(self, *arguments, **options)

    monkeypatch.setattr(StableDiffusion, name, method)
    return calls


def test_encoding_tells_how_far_it_is_and_stops_within_one_picture(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(border="paper")  # else a view without a photo in it is drawn again
    calls = count_calls(monkeypatch, "encode_images")
    events = stopped(run, stage("encoding", 0.5))
    fractions = [event.fraction for event in events if stage("encoding")(event) and isinstance(event, StageChanged)]
    assert fractions == [done / 12 for done in range(7)]  # four photos, plain and in two more views
    assert len(calls) == 6
    is_stopped_before_the_first_step(run, events)
    assert steps_of(whole(run)) == [1, 2, 3, 4]


def test_photos_alone_tell_how_far_they_are_as_well(make_run: Callable[..., Run]) -> None:
    run = make_run(augmentation=0.0)
    events = stopped(run, stage("encoding", 0.5))
    assert [event.fraction for event in events if isinstance(event, StageChanged)][-3:] == [0, 0.25, 0.5]
    is_stopped_before_the_first_step(run, events)


def test_progress_of_a_long_encoding_is_told_a_few_times_only(make_run: Callable[..., Run]) -> None:
    events = stopped(make_run(warped_views=40), stage("encoding", 0.95))
    assert len([event for event in events if stage("encoding")(event)]) == 20


def test_prior_pictures_stop_between_denoising_steps_and_those_made_stay(make_run: Callable[..., Run]) -> None:
    run = make_run(prior_preservation=True, prior_images=3)
    events = stopped(run, stage("prior", 0.3))  # the second is about to be drawn
    assert [path.name for path in sorted((run.path / "prior").iterdir())] == ["0000.png"]
    is_stopped_before_the_first_step(run, events)


@pytest.mark.parametrize("is_time", [stage("sampling"), lambda event: isinstance(event, DriftMeasured)])
def test_the_first_samples_stop_between_denoising_steps(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, is_time: Callable[[Event], bool]
) -> None:
    run, calls = make_run(drift_every_steps=2, drift_prompts=("a cat",)), count_calls(monkeypatch, "decode")
    events = stopped(run, is_time)
    assert samples_of(events) == []
    assert not calls
    is_stopped_before_the_first_step(run, events)


def test_drift_stops_while_its_latents_are_drawn(make_run: Callable[..., Run]) -> None:
    run = make_run(drift_every_steps=2, drift_prompts=("a cat",))
    asked = itertools.count()  # once a view of the four photos, twelve in all; then by the latents
    events = list(train(RunStore(run.path.parent.parent), run, lambda: next(asked) >= 12))
    assert not [event for event in events if isinstance(event, DriftMeasured)]
    is_stopped_before_the_first_step(run, events)


@pytest.mark.parametrize("step", [2, 3])  # a checkpoint is due, and is not
def test_a_stop_while_samples_are_drawn_leaves_them_whole_and_changes_no_number(
    make_run: Callable[..., Run], step: int
) -> None:
    settings = {"sample_every_steps": step, "save_every_steps": 2 if step == 2 else 10}
    run, undisturbed = make_run(**settings), make_run(**settings)
    whole(undisturbed)
    events = stopped(run, lambda event: stage("sampling")(event) and steps_of(run.events()[0])[-1:] == [step])
    assert isinstance(events[-1], RunFinished)
    assert run.checkpoint().step == events[-1].step == step
    assert run.checkpoint().can_resume
    assert [event.step for event in events if isinstance(event, CheckpointSaved)] == [step]
    assert samples_of(events) == [(0, 0), (0, 1), (step, 0), (step, 1)]
    assert samples_of(whole(run)) == [(4, 0), (4, 1)]
    assert run.checkpoint().lora_path.read_bytes() == undisturbed.checkpoint().lora_path.read_bytes()


def at_step(number: int) -> Callable[[Event], bool]:
    return lambda event: isinstance(event, StepFinished) and event.step == number


@pytest.mark.parametrize("every", [2, 3])  # samples are due at the step, and are not
def test_the_step_it_is_stopped_at_is_drawn_and_a_second_stop_leaves_that_out(
    make_run: Callable[..., Run], every: int
) -> None:
    run, hurried = make_run(sample_every_steps=every), make_run(sample_every_steps=every)
    events = stopped(run, at_step(2))
    assert samples_of(events) == [(0, 0), (0, 1), (2, 0), (2, 1)]
    assert isinstance(events[-1], RunFinished)
    assert (events[-1].step, events[-1].is_complete) == (2, False)
    seen: list[Event] = []
    store = RunStore(hurried.path.parent.parent)
    is_stopped = lambda: any(at_step(2)(event) for event in seen)  # noqa: E731
    seen.extend(train(store, hurried, is_stopped, should_hurry=is_stopped))
    assert samples_of(seen) == [(0, 0), (0, 1)]
    assert (summarize(hurried).state, hurried.checkpoint().step) == ("stopped", 2)
    assert samples_of(whole(run)) == ([] if every == 2 else [(3, 0), (3, 1)]) + [(4, 0), (4, 1)]
    due = [(2, 0), (2, 1)] if every == 2 else [(3, 0), (3, 1)]
    assert samples_of(whole(hurried)) == [*due, (4, 0), (4, 1)]
    assert run.checkpoint().lora_path.read_bytes() == hurried.checkpoint().lora_path.read_bytes()


def test_pictures_after_a_stop_end_when_their_time_is_over_or_the_program_leaves(make_run: Callable[..., Run]) -> None:
    asked = StopSignal(lambda: True, Processes())
    LastPictures(StopSignal(lambda: False, Processes()), lambda: False, seconds=0.0).obey()  # nobody asked: no limit
    LastPictures(asked, lambda: False, seconds=60.0).obey()
    for soon in (LastPictures(asked, lambda: False, seconds=0.0), LastPictures(asked, lambda: True)):
        with pytest.raises(Stopped):
            soon.obey()
    run, events = make_run(), list[Event]()
    store = RunStore(run.path.parent.parent)
    events.extend(train(store, run, lambda: False, is_leaving=lambda: any(at_step(2)(event) for event in events)))
    assert samples_of(events) == [(0, 0), (0, 1)]  # a program that ends saves, and draws nothing
    assert run.checkpoint().step == 2


def test_samples_now_and_other_prompts_change_no_number(make_run: Callable[..., Run]) -> None:
    run, undisturbed = make_run(steps=6, sample_every_steps=4), make_run(steps=6, sample_every_steps=4)
    whole(undisturbed)
    before, events = (run.path / "config.json").read_bytes(), list[Event]()
    store = RunStore(run.path.parent.parent)
    for event in train(store, run, lambda: any(at_step(5)(event) for event in events)):
        events.append(event)
        if at_step(1)(event):
            ask_for_samples(run)  # drawn at the end of this very step
        if at_step(2)(event):
            ask_for_prompts(run, "a {subject}\n\n  a   red {subject} \na dog")
    drawn = [(event.step, event.prompt) for event in events if isinstance(event, SampleReady)]
    first, other = ["a zwx car", "a cat"], ["a zwx car", "a red zwx car", "a dog"]
    wanted = {0: first, 1: first, 4: other, 5: other}
    assert drawn == [(step, prompt) for step, prompts in wanted.items() for prompt in prompts]
    changed = [event for event in events if isinstance(event, PromptsChanged)]
    assert [(event.step, event.prompts) for event in changed] == [(4, ("a {subject}", "a red {subject}", "a dog"))]
    assert not (run.path / "sample-now").exists()
    rest = whole(run)  # the prompts stay over a resume, and are told once
    assert [(event.step, event.prompt) for event in rest if isinstance(event, SampleReady)] == [
        (6, prompt) for prompt in other
    ]
    assert not [event for event in rest if isinstance(event, PromptsChanged)]
    assert (run.path / "config.json").read_bytes() == before
    assert summarize(run).prompts == tuple(other)
    for name in ("lora.safetensors", "optimizer.safetensors"):
        assert (run.checkpoint().path / name).read_bytes() == (undisturbed.checkpoint().path / name).read_bytes()


def test_a_wish_for_samples_that_comes_too_late_is_answered_by_the_last(make_run: Callable[..., Run]) -> None:
    run, events = make_run(sample_every_steps=2), list[Event]()
    for event in train(RunStore(run.path.parent.parent), run, lambda: False):
        events.append(event)
        if at_step(4)(event):
            ask_for_samples(run)
    assert samples_of(events).count((4, 0)) == 1
    assert not (run.path / "sample-now").exists()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (" \n ", "There is no prompt left"),
        ("\n".join("a cat" for _ in range(13)), "13 prompts are too many"),
        ("a " * 400, "is too long"),
        ("a \x00 cat", "cannot be written"),
    ],
)
def test_prompts_that_cannot_be_drawn_are_refused_in_a_sentence(
    make_run: Callable[..., Run], text: str, sentence: str
) -> None:
    run = make_run()
    with pytest.raises(ConfigError, match=sentence):
        ask_for_prompts(run, text)
    assert wished_prompts(run) == ()
    (run.path / "prompts.json").write_text('{"a": 1}')  # by another hand
    assert wished_prompts(run) == ()


def test_a_checkpoint_has_its_scores_behind_it_and_its_samples_after_it(make_run: Callable[..., Run]) -> None:
    run = make_run(sample_every_steps=2, drift_every_steps=2, drift_prompts=("a cat",))
    told = [
        (event.step, type(event).__name__)
        for event in whole(run)
        if isinstance(event, DriftMeasured | CheckpointSaved | SampleReady)
    ]
    order = ["DriftMeasured", "CheckpointSaved", "SampleReady", "SampleReady"]
    assert told == [(0, kind) for kind in order if kind != "CheckpointSaved"] + [
        (step, kind) for step in (2, 4) for kind in order
    ]


def test_a_wish_that_is_heard_once_counts_and_is_told_as_such(make_run: Callable[..., Run]) -> None:
    run, wishes, events = make_run(), ["once"], list[Event]()
    events.extend(
        train(RunStore(run.path.parent.parent), run, lambda: bool(steps_of(events) and wishes and wishes.pop()))
    )
    assert isinstance(events[-1], RunFinished)
    assert (events[-1].step, events[-1].reason) == (1, "Stopped at step 1 of 4, as asked.")


def test_a_pause_comes_after_a_step_stopping_goes_before_it_and_the_last_step_before_both(
    make_run: Callable[..., Run],
) -> None:
    run = make_run()
    paused = stopped(run, lambda event: False, lambda: True)
    assert isinstance(paused[-1], StageChanged)
    assert (paused[-1].stage, steps_of(paused), run.checkpoint().step) == ("waiting", [1], 1)
    assert [type(event) for event in paused].count(CheckpointSaved) == 1
    assert {step for step, _ in samples_of(stopped(run, at_step(2), lambda: True))} == {2}
    assert summarize(run).message == "Stopped at step 2 of 4, as asked."
    stopped(run, lambda event: isinstance(event, StepFinished) and event.step == 4)
    assert summarize(run).message == "All 4 steps are done."


def others(heard: float) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor + heard


def test_a_wish_that_one_process_heard_is_obeyed_by_all() -> None:
    deaf = StopSignal(lambda: False, Processes(index=1, count=2, add_up=others(1.0)))
    assert deaf.is_heard()
    with pytest.raises(Stopped):
        deaf.obey()
    with pytest.raises(Stopped):  # and it stays
        deaf.obey_alone()
    hearing = StopSignal(lambda: True, Processes(index=0, count=2, add_up=others(0.0)))
    with pytest.raises(Stopped):
        hearing.obey()
    neither = StopSignal(lambda: False, Processes(index=0, count=2, add_up=others(0.0)))
    neither.obey()
    neither.obey_alone()
    assert torch.is_grad_enabled()
