"""What the page shows of a run that another process trains, or that a newer version wrote."""

import os

import gradio as gr
import pytest

from apt_engine.jobs.engine import EngineStatus
from apt_engine.runs.history import NEWER
from tests.holding import held
from tests.pages import begun, engine, new_run
from ui.context import AppContext
from ui.tabs import runs, watch


@pytest.fixture
def view() -> watch.WatchView:
    with gr.Blocks(analytics_enabled=False):
        return watch.build()


@pytest.fixture
def runs_view(context: AppContext) -> runs.RunsView:
    with gr.Blocks(analytics_enabled=False):
        return runs.build(context)


@pytest.mark.skipif(os.name == "nt", reason="needs a killing signal")
def test_a_run_that_another_process_trains_is_training_and_cannot_be_stopped_here(
    context: AppContext, view: watch.WatchView, runs_view: runs.RunsView
) -> None:
    run = begun(new_run(context), steps=4)
    newer = new_run(context, subject="car")
    with held(context.store, run.id) as process:
        shown = watch.attach(view, context)
        assert shown[view.watched].run_id == run.id != newer.id
        assert "Learning your backpack." in shown[view.sentence]
        assert f"trains it (process {process.pid}); stop it there" in shown[view.sentence]
        assert [shown[part].visible for part in (view.stop, view.resume, view.more)] == [False, False, False]
        working = {row["id"]: (row["state"], row["working"]) for row in runs.rows(context)["runs"]}
        assert working[run.id] == ("training, step 4 of 10", True)
        assert working[newer.id] == ("new, step 0 of 10", False)
        with pytest.raises(gr.Error, match="This run is training; stop it first"):
            runs.discard(runs_view, context, run.id)
        for handler in (watch.resume, watch.go_on):
            with pytest.raises(gr.Error, match=f"Run {run.id} is training in"):
                handler(view, context, {**shown, view.more_steps: 5})
        assert run.config.steps == 10
        assert watch.refresh(view, context, shown) == gr.skip()
        process.kill()
        process.wait()
        later = watch.refresh(view, context, shown)
    assert "Training was interrupted at step 4 of 10" in later[view.sentence]
    assert "stop it there" not in later[view.sentence]
    assert [later[part].visible for part in (view.stop, view.resume, view.more)] == [False, True, False]
    assert runs.rows(context)["runs"][-1]["state"] == "interrupted, step 4 of 10"


def test_a_run_of_this_pages_engine_may_be_stopped_here(context: AppContext, view: watch.WatchView) -> None:
    run = begun(new_run(context), steps=4)
    engine(context)._status = EngineStatus("training", run.id)
    with held(context.store, run.id):  # the engine is a process of its own
        shown = watch.open_run(view, context, run.id)
    assert "stop it there" not in shown[view.sentence]
    assert shown[view.stop].visible is True


def test_why_a_session_never_began_is_said_with_its_run(
    context: AppContext, view: watch.WatchView, runs_view: runs.RunsView
) -> None:
    run, other = new_run(context), new_run(context)
    shown = watch.open_run(view, context, run.id)
    engine(context)._status = EngineStatus(run_id=run.id, message="Run r0 is training in /data.")
    later = watch.refresh(view, context, shown)
    assert "Run r0 is training in /data." in later[view.sentence]
    assert "Run r0" not in watch.open_run(view, context, other.id)[view.sentence]
    runs.discard(runs_view, context, run.id)  # it failed, nothing works on it


def test_a_newer_versions_run_is_told_as_such_and_hides_no_other(context: AppContext, view: watch.WatchView) -> None:
    run = begun(new_run(context), steps=4)
    with run.events_path.open("a") as file:
        file.write('{"kind": "RunDreamt", "dream": "of sheep"}\n{"kind": "StepFin')
    assert NEWER in watch.open_run(view, context, run.id)[view.sentence]
    newer = new_run(context)
    config = (newer.path / "config.json").read_text()
    (newer.path / "config.json").write_text(config.replace('"rank"', '"dreams": true, "rank"'))
    (newer.path / "title.txt").write_bytes(b"\xff")
    words = f"Run {newer.id} was made by a newer version of APT Studio (it has the settings dreams); update this one"
    assert words in watch.open_run(view, context, newer.id)[view.sentence]
    states = {row["id"]: row["state"] for row in runs.rows(context)["runs"]}
    assert states[run.id] == f"interrupted, step 4 of 10. {NEWER}"
    assert words in states[newer.id]
