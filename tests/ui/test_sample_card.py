"""Samples of the run that trains, asked for on Watch: now, and with other prompts."""

from dataclasses import replace

import gradio as gr
import pytest

from apt_engine.jobs.engine import EngineStatus
from apt_engine.runs.events import PromptsChanged, SampleReady
from apt_engine.runs.wishes import take_samples_wish, wished_prompts
from tests.pages import begun, engine, new_run, step
from ui import sample_card
from ui.context import AppContext, Values
from ui.tabs import watch


@pytest.fixture
def view() -> watch.WatchView:
    with gr.Blocks(analytics_enabled=False):
        return watch.build()


def test_they_are_offered_while_it_trains_and_what_is_typed_stays(context: AppContext, view: watch.WatchView) -> None:
    run = begun(new_run(context, sample_prompts=("a {subject}", "a cat")), steps=2)
    assert watch.open_run(view, context, run.id)[view.wishes.row].visible is False
    engine(context)._status = EngineStatus("training", run.id)
    shown = watch.open_run(view, context, run.id)
    assert (shown[view.wishes.row].visible, shown[view.wishes.fold].visible) == (True, True)
    assert shown[view.wishes.prompts] == "a {subject}\na cat"
    run.append(step(3))
    later = watch.refresh(view, context, shown)
    assert view.wishes.prompts not in later
    assert later[view.wishes.row].visible is True


def test_a_press_and_other_prompts_reach_whoever_trains(
    context: AppContext, view: watch.WatchView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gr, "Info", lambda *_: None)
    run = begun(new_run(context), steps=2)
    watched: Values = {view.watched: replace(watch.Watch(), run_id=run.id)}
    sample_card.sample_now(context, view.watched, watched)
    assert (take_samples_wish(run), take_samples_wish(run)) == (True, False)

    said = sample_card.use_prompts(view.wishes, context, view.watched, {**watched, view.wishes.prompts: "a\n\nb"})
    assert "these 2 prompts" in said[view.wishes.said]
    assert wished_prompts(run) == ("a", "b")
    said = sample_card.use_prompts(view.wishes, context, view.watched, {**watched, view.wishes.prompts: " "})
    assert "There is no prompt left" in said[view.wishes.said]
    assert wished_prompts(run) == ("a", "b")


def test_pictures_stand_beside_the_prompt_they_were_drawn_with(context: AppContext, view: watch.WatchView) -> None:
    run = begun(new_run(context, sample_prompts=("a {subject}", "a cat")), steps=2)
    for index, prompt in enumerate(("a zwx backpack", "a cat")):
        run.append(SampleReady(step=0, index=index, prompt=prompt, seed=0, path=f"samples/0-{index}.png"))
    run.append(PromptsChanged(step=2, prompts=("a {subject}", "a dog")))
    for index, prompt in enumerate(("a zwx backpack", "a dog")):
        run.append(SampleReady(step=2, index=index, prompt=prompt, seed=0, path=f"samples/2-{index}.png"))
    drawn = watch.open_run(view, context, run.id)[view.samples]
    assert drawn["prompts"] == ["a zwx backpack", "a dog", "a cat"]
    assert drawn["notes"] == ["", "since step 2", "until step 0"]
    assert {place: url.rpartition("/")[2] for place, url in drawn["urls"].items()} == {
        "0-0": "0-0.png",
        "0-2": "0-1.png",
        "2-0": "2-0.png",
        "2-1": "2-1.png",
    }
