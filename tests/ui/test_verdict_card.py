"""The verdict and plain DreamBooth on the page, handler by handler; without a browser."""

import math
from collections.abc import Iterator
from dataclasses import replace

import gradio as gr
import pytest

from apt_engine.errors import BusyError
from apt_engine.jobs.engine import EngineStatus, SampleProgress
from apt_engine.runs import library
from apt_engine.runs.events import CheckpointSaved, PhotosJudged, PicturesJudged, PicturesSeen, VerdictReached
from apt_engine.runs.history import History
from apt_engine.runs.plain import plain_of
from apt_engine.runs.run import Run
from tests.pages import begun, ended, engine, new_run
from ui import verdict_card
from ui.context import AppContext, Values
from ui.layout import PageView, build, show_beside_watched
from ui.tabs import watch

PHOTOS = PhotosJudged(likeness=(0.5, 0.7), copies=(0.58, 0.58), follows=(-0.4,))


def judged(step: int, likeness: float) -> PicturesJudged:
    return PicturesJudged(
        step=step,
        likeness=(likeness - 0.1, likeness + 0.1),
        copies=(0.25, math.nan),
        follows=(0.1, 0.2),
        nearest=(0, 7),
        drift=step / 100,
        paths=(f"samples/verdict/{step:06d}-0.png", f"samples/verdict/{step:06d}-1.png"),
    )


@pytest.fixture
def page(context: AppContext) -> PageView:
    with gr.Blocks(analytics_enabled=False):
        return build(context)


@pytest.fixture
def run(context: AppContext) -> Run:
    """A run that ended at step 6 of 10; step 4 is kept."""
    return ended(new_run(context), "Done.")


def judge(run: Run, message: str = "Step 4: fine.") -> None:
    for event in (PHOTOS, judged(0, 0.0), judged(4, 0.3), judged(6, 0.4), VerdictReached(message=message, seconds=1)):
        run.append(event)


def test_what_a_verdict_takes_is_told_before_the_click(context: AppContext, page: PageView, run: Run) -> None:
    card = page.watch.verdict
    shown = watch.open_run(page.watch, context, run.id)
    assert shown[card.column].visible
    assert "<b>64</b> pictures, of the untrained model and 3 checkpoints, about <b>" in shown[card.cost]
    assert "The untrained model draws" in shown[card.cost]
    assert (shown[card.judged], shown[card.judge].value) == ("", "Judge it")
    judge(run)
    shown = watch.open_run(page.watch, context, run.id)
    assert "64</b> pictures" in shown[card.cost]
    assert shown[card.judge].value == "Judge again"
    going = begun(new_run(context), steps=3)
    engine(context)._status = EngineStatus("training", going.id)
    shown = watch.open_run(page.watch, context, going.id)
    assert not shown[card.column].visible
    assert not shown[page.watch.plain.column].visible


def test_a_verdict_is_curves_beside_the_untrained_model_and_the_photos(
    context: AppContext, page: PageView, run: Run
) -> None:
    judge(run, "Step 4: <i>fine</i>.")
    shown = watch.open_run(page.watch, context, run.id)[page.watch.verdict.judged]
    assert "Step 4: &lt;i&gt;fine&lt;/i&gt;." in shown
    likeness = shown.split("Likeness</h2>")[1].split("</section>")[0]
    assert "checkpoints now 0.4; untrained 0.00 now 0; photos 0.60 now 0.6" in likeness
    follows = shown.split("Follows the prompt</h2>")[1].split("</section>")[0]
    assert "photos -0.40 now 0" in follows  # its line lies at the edge, its value in the legend
    assert 'class="band" d="M0.00' in likeness
    assert [shown.count(f'data-name="{name}') for name in ("checkpoints", "untrained", "photos")] == [4, 4, 3]
    assert shown.count("kept, 4</b>") == 4
    # of two pictures a step the second is nearest to a photo that is not there
    assert shown.count("<figure>") == 2
    assert "000004-0.png" in shown
    assert "000006-0.png" in shown
    assert "photos/01.png" in shown
    assert "Your two most alike photos: 0.58." in shown


def test_other_networks_are_named_and_drawn(run: Run) -> None:
    judge(run)
    assert "neither CLIP nor DINOv2 lies in" in verdict_card.draw_verdict(History.of(run))
    for event in (PHOTOS, judged(0, 0.1), judged(4, 0.5)):
        run.append(event)
    for network, follows in (("openai/clip", (0.2, 0.3)), ("facebook/dinov2", ())):
        for step in (0, 4):
            seen = PicturesSeen(network=network, step=step, likeness=(0.5, 0.6), follows=follows, photos=(0.8, 0.8))
            run.append(seen)
    run.append(VerdictReached(message="Fine.", seconds=1))
    drawn = verdict_card.draw_verdict(History.of(run))
    assert "beside it by openai/clip and facebook/dinov2 from the hub" in drawn
    assert drawn.count("what another network from the hub") == 2
    assert "photos 0.80" in drawn


def test_a_single_photo_has_nothing_to_be_held_against(context: AppContext, page: PageView, run: Run) -> None:
    alone = PhotosJudged(likeness=(), copies=(), follows=(0.0,))
    for event in (alone, judged(0, 0.0), judged(6, 0.4), VerdictReached(message="Step 6: fine.", seconds=1)):
        run.append(event)
    shown = watch.open_run(page.watch, context, run.id)[page.watch.verdict.judged]
    assert shown.count('data-name="photos') == 1  # how they fit prompts can be told
    assert "nan" not in shown
    assert "most alike" not in shown


def test_a_click_judges_and_what_prevents_it_is_said(
    context: AppContext, page: PageView, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    card, watched = page.watch.verdict, page.watch.watched
    values: Values = {watched: watch.open_run(page.watch, context, run.id)[watched]}

    def judging(run_id: str) -> Iterator[SampleProgress]:
        assert run_id == run.id
        yield SampleProgress("Judging step 4", 0.5, ())

    monkeypatch.setattr(context.engine, "judge", judging)
    first, last = verdict_card.judge_run(card, context, watched, values)
    assert "Judging step 4" in first[card.progress].value
    assert (first[card.judge].interactive, first[card.stop].visible) == (False, True)
    assert (last[card.progress].visible, last[card.judge].interactive, last[card.stop].visible) == (False, True, False)

    def busy(run_id: str) -> Iterator[SampleProgress]:
        raise BusyError(f"Wait for {run_id}.")

    monkeypatch.setattr(context.engine, "judge", busy)
    (only,) = verdict_card.judge_run(card, context, watched, values)
    assert f"Wait for {run.id}." in only[card.progress].value


def test_plain_dreambooth_is_put_in_line_once_and_both_are_shown_side_by_side(
    context: AppContext, page: PageView, run: Run
) -> None:
    view, card = page.watch, page.watch.plain
    shown = watch.open_run(view, context, run.id)
    assert "without" not in shown[card.about]
    assert "about <b>" in shown[card.about]
    assert shown[card.beside].value == "Train plain beside it"
    values: Values = {view.watched: shown[view.watched]}
    there = show_beside_watched(page, context, values)
    assert context.line
    (plain,) = context.line.waiting()
    assert there[page.tabs].selected == "runs"
    assert [row["title"] for row in there[page.runs.table]["runs"]] == ["backpack, plain", "backpack"]
    assert [column["name"] for column in there[page.runs.sides]["columns"]] == ["backpack", "backpack, plain"]
    again = show_beside_watched(page, context, values)
    assert context.line.waiting() == [plain]
    assert len(again[page.runs.table]["runs"]) == 2
    shown = watch.open_run(view, context, run.id)
    assert "It is in line" in shown[card.about]
    assert shown[card.beside].value == "Show both"
    beside = context.store.open(plain)
    begun(beside, steps=2)
    assert "Trained so far: step 2 of 10" in watch.open_run(view, context, run.id)[card.about]
    assert library.title_of(beside) == "backpack, plain"
    beside.append(replace(run.events()[0][-1]))
    beside.append(CheckpointSaved(step=2, path="checkpoints/000002"))
    assert not watch.open_run(view, context, beside.id)[card.column].visible


def test_plain_dreambooth_that_stopped_by_itself_is_not_offered_beside_itself(
    context: AppContext, page: PageView, run: Run
) -> None:
    run.replace_config(plain_of(run.config, len(run.photo_paths)).replace(stop="auto"))
    assert not watch.open_run(page.watch, context, run.id)[page.watch.plain.column].visible
    run.replace_config(run.config.replace(weighting=True))
    assert watch.open_run(page.watch, context, run.id)[page.watch.plain.column].visible
