"""The Runs tab keeps up with what happens, and tells two runs of one name apart; without a browser."""

import gradio as gr
import pytest

from apt_engine.runs import library
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


def test_two_runs_of_one_name_are_told_apart_and_markup_in_a_name_is_shown_as_written(context: AppContext) -> None:
    first, second = (checked(begun(new_run(context), steps=6), kept_step=4) for _ in range(2))
    alike = runs.compare(context, [first.id, second.id])
    heads = alike.split("<thead>")[1].split("</thead>")[0]
    names = [head.split("</th>")[0] for head in heads.split('<th scope="col">')[1:]]
    assert len(set(names)) == 2
    assert all(name.startswith("backpack") for name in names)
    assert alike.count('data-name="backpack') == 4  # loss and new views; drift was not measured
    library.rename(first, "R&B")
    assert 'data-name="R&amp;B"' in runs.compare(context, [first.id, second.id])
