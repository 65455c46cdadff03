"""What the Watch tab shows of the split, and what it offers when a run has ended; without a browser."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from apt_engine.errors import RunError
from apt_engine.jobs.engine import EngineStatus, SampleProgress
from apt_engine.runs.events import SplitMeasured
from apt_engine.runs.history import History
from apt_engine.runs.run import Run
from apt_engine.settings.training import TrainingConfig
from tests.pages import begun, ended, engine, new_run
from ui import step_files
from ui.context import AppContext, Values
from ui.layout import PageView, build, make_pictures
from ui.run_panels import draw_progress, draw_split
from ui.tabs import watch

REASON = "New views of your photos are fitted no better since step 4; from here it only memorizes."


@pytest.fixture
def page(context: AppContext) -> PageView:
    with gr.Blocks(analytics_enabled=False):
        return build(context)


@pytest.fixture
def run(context: AppContext) -> Run:
    """A run that ended by itself at step 6; step 4 is kept."""
    return ended(new_run(context), REASON, is_by_itself=True)


def test_the_split_is_two_lines_and_the_kept_step_is_marked_on_every_plot(
    context: AppContext, page: PageView, run: Run
) -> None:
    view = page.watch
    shown = watch.open_run(view, context, run.id)
    assert 'data-name="your photos" d="M0.00 100.00L60.00 ' in shown[view.split]
    assert "your photos now 40; new views of them now 25" in shown[view.split]
    for plot in (view.split, view.indicator, view.lines, view.loss, view.drift):
        assert '<b class="kept" style="left:40.0%">kept, 4</b>' in shown[plot] or "does not compute" in shown[plot]
    assert shown[view.samples]["kept"] == 4
    assert "kept: step <b>4</b>" in shown[view.progress]
    assert "<b>6</b> of 10 steps</span>" in shown[view.progress]


@pytest.mark.parametrize(
    ("settings", "photos", "kept", "words"),
    [
        ({}, 5, 0, "of at most 500"),
        ({}, 5, 25, "of at most 500"),
        ({"stop": "never"}, 5, 25, "of 500"),
        ({"check_every_steps": 0, "stop": "never"}, 5, 0, "of 500"),
        ({}, 1, 0, "of 300"),
        ({"steps": 150}, 3, 0, "of 150"),  # too few to tell
        ({}, 5, None, "of 500"),  # its checks cannot tell
    ],
)
def test_at_most_is_said_only_of_a_run_that_can_end_by_itself(
    settings: dict[str, Any], photos: int, kept: int | None, words: str
) -> None:
    history = History.new(Run(Path("r1")), TrainingConfig(subject="backpack", **settings), photos)
    if kept != 0:
        history.add([SplitMeasured(step=25, cells=(), gains=(), kept_step=kept or 0, message="It is so.")])
    assert f"<b>0</b> {words}</span>" in draw_progress(history, "training")


def test_a_run_that_was_not_checked_says_so() -> None:
    unchecked = History.empty()
    assert "not checked" not in draw_split(unchecked)
    unchecked.state = "finished"
    assert "not checked for it, so its last step is kept" in draw_split(unchecked)


def test_a_run_that_ended_leads_to_pictures_of_its_kept_step_or_goes_on(
    context: AppContext, page: PageView, run: Run
) -> None:
    view = page.watch
    shown = watch.open_run(view, context, run.id)
    assert f"Trained on your backpack. {REASON} Step 4 is kept." in shown[view.sentence]
    assert (shown[view.pictures].visible, shown[view.resume].visible, shown[view.more].visible) == (True, False, True)
    assert shown[view.go_on].value == "Go on anyway for this many more steps"
    there = make_pictures(page, context, {view.watched: shown[view.watched]})
    assert there[page.tabs].selected == "generate"
    assert there[page.generate.model]["chosen"] == run.id
    assert there[page.generate.settings["checkpoint"]].value == "kept"


def test_while_it_trains_there_are_neither_pictures_nor_files_of_steps(context: AppContext, page: PageView) -> None:
    view, going = page.watch, begun(new_run(context), steps=3)
    engine(context)._status = EngineStatus("training", going.id)
    shown = watch.open_run(view, context, going.id)
    assert (shown[view.pictures].visible, shown[view.other.fold].visible) == (False, False)


def test_files_of_any_step_are_written_by_the_engine(
    context: AppContext, page: PageView, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, asked = page.watch, []

    def export(run_id: str, checkpoint: str) -> Iterator[SampleProgress]:
        asked.append((run_id, checkpoint))
        if checkpoint == "2":
            raise RunError("Checkpoint 2 is damaged; choose another.")
        yield SampleProgress("Writing", None, ())
        yield SampleProgress("Done", 1.0, (Path("/runs/zwx-000004.safetensors"),))

    monkeypatch.setattr(context.engine, "export", export)
    shown = watch.open_run(view, context, run.id)
    assert shown[view.other.step].choices == [("step 6", "6"), ("step 4, kept", "4"), ("step 2", "2")]
    values: Values = {view.watched: shown[view.watched], view.other.step: "4"}
    *_, last = step_files.write_files(view.other, context, view.watched, values)
    assert 'href="gradio_api/file=/runs/zwx-000004.safetensors" download>' in last[view.other.written]
    *_, failed = step_files.write_files(view.other, context, view.watched, {**values, view.other.step: "2"})
    assert "Checkpoint 2 is damaged" in failed[view.other.written]
    assert [state[view.other.write].interactive for state in (last, failed)] == [True, True]
    assert asked == [(run.id, "4"), (run.id, "2")]
