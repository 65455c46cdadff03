"""The Runs tab keeps up with what happens, and tells two runs of one name apart; without a browser."""

import gradio as gr
import pytest

from apt_engine.runs import library
from apt_engine.runs.events import SampleReady
from tests.pages import begun, checked, new_run, step
from ui.context import AppContext
from ui.tabs import runs


@pytest.fixture
def view(context: AppContext) -> runs.RunsView:
    with gr.Blocks(analytics_enabled=False):
        return runs.build(context)


def test_rows_that_were_shown_follow_what_happens(context: AppContext, view: runs.RunsView) -> None:
    run = begun(new_run(context), steps=2)
    assert runs.follow(view, context, {view.table: {"runs": [], "bin": []}}) == gr.skip()  # the tab was never opened
    shown = runs.refresh(view, context)
    assert runs.follow(view, context, shown) == gr.skip()
    run.append(step(3))
    assert "step 3 of 10" in runs.follow(view, context, shown)[view.table]["runs"][0]["state"]


def test_two_runs_are_compared_by_settings_and_curves(context: AppContext, view: runs.RunsView) -> None:
    first, second = begun(new_run(context), steps=4), begun(new_run(context, rank=4), steps=4)
    side_by_side = runs.compare(view, context, [first.id, second.id])[view.comparison]
    assert "<code>rank</code></th><td>16</td><td>4</td>" in side_by_side
    assert "<code>steps</code>" not in side_by_side
    by_photos = begun(new_run(context, steps=0), steps=4)
    assert (
        "<td>10</td><td>300, by the photos</td>"
        in runs.compare(view, context, [first.id, by_photos.id])[view.comparison]
    )
    alike = runs.compare(view, context, [first.id, first.id])[view.comparison]
    assert "Their settings are the same." in alike


def test_samples_of_two_runs_stand_side_by_side_at_steps_of_choice(context: AppContext, view: runs.RunsView) -> None:
    first = checked(begun(new_run(context, sample_prompts=("a {subject}", "a cat")), steps=6), kept_step=4)
    second = begun(new_run(context, sample_prompts=("a cat",)), steps=6)
    for run, step_drawn, index in ((first, 0, 1), (first, 4, 1), (first, 6, 0), (second, 0, 0), (second, 6, 0)):
        path, prompt = f"samples/{step_drawn:06d}-{index}.png", run.config.fill(run.config.sample_prompts[index])
        run.append(SampleReady(step=step_drawn, index=index, prompt=prompt, seed=0, path=path))
    sides = runs.compare(view, context, [first.id, second.id])[view.sides]
    assert sides["prompts"] == ["a zwx backpack", "a cat"]
    left, right = sides["columns"]
    assert [one["words"] for one in left["steps"]] == ["before", "step 4, kept", "step 6"]
    assert (left["start"], right["start"]) == (4, 6)
    assert right["urls"].keys() == {"0-1", "6-1"}  # its only prompt stands in the second row
    assert left["urls"]["6-0"].endswith("samples/000006-0.png")


def test_prompts_of_two_subjects_that_differ_in_the_subject_alone_are_one_row(
    context: AppContext, view: runs.RunsView
) -> None:
    first, second = (
        begun(new_run(context, subject, sample_prompts=("a {subject}",)), 6) for subject in ("duck", "cup")
    )
    for run in (first, second):
        prompt, path = run.config.fill("a {subject}"), "samples/000006-0.png"
        run.append(SampleReady(step=6, index=0, prompt=prompt, seed=0, path=path))
    sides = runs.compare(view, context, [first.id, second.id])[view.sides]
    assert sides["prompts"] == ["a {subject}"]
    assert [list(column["urls"]) for column in sides["columns"]] == [["6-0"], ["6-0"]]


def test_two_runs_of_one_name_are_told_apart_and_markup_in_a_name_is_shown_as_written(
    context: AppContext, view: runs.RunsView
) -> None:
    first, second = (checked(begun(new_run(context), steps=6), kept_step=4) for _ in range(2))
    shown = runs.compare(view, context, [first.id, second.id])
    names = [column["name"] for column in shown[view.sides]["columns"]]
    assert len(set(names)) == 2
    assert all(name.startswith("backpack") for name in names)
    assert shown[view.comparison].count('data-name="backpack') == 4  # loss and new views; drift was not measured
    library.rename(first, "R&B")
    assert 'data-name="R&amp;B"' in runs.compare(view, context, [first.id, second.id])[view.comparison]
