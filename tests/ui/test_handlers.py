"""What the page's buttons do, without a browser: real run folders, and an engine that has not been woken."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from apt_engine.jobs.engine import EngineStatus
from apt_engine.photos.photo_set import photos_in, read_photos
from apt_engine.runs import library
from apt_engine.runs.events import (
    ExportReady,
    RunFailed,
    RunFinished,
    SampleReady,
    StageChanged,
    to_json,
)
from apt_engine.runs.history import follow
from apt_engine.settings.training import TrainingConfig
from tests.histories import count_reads
from tests.pages import begun, engine, new_run, step
from ui import models, train_view
from ui.context import AppContext, Values, plain_errors
from ui.layout import (
    PageView,
    build_app,
    come_in,
    generate_with,
    open_run,
    restore,
    tell_status,
    train_again,
)
from ui.photo_tiles import tiles_of
from ui.tabs import runs, train, watch


def test_an_engines_error_is_shown_as_its_sentence(context: AppContext) -> None:
    with pytest.raises(gr.Error, match="There is no run r1") as caught, plain_errors():
        context.store.open("r1")
    assert caught.value.print_exception is False


@pytest.fixture
def watch_view() -> watch.WatchView:
    with gr.Blocks(analytics_enabled=False):
        return watch.build()


@pytest.fixture
def runs_view(context: AppContext) -> runs.RunsView:
    with gr.Blocks(analytics_enabled=False):
        return runs.build(context)


def test_however_many_pages_watch_a_run_is_read_and_kept_once(
    context: AppContext, watch_view: watch.WatchView, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = count_reads(monkeypatch)
    run = begun(new_run(context), steps=9)
    opened = [watch.open_run(watch_view, context, run.id) for _ in range(3)]
    assert reads[run.events_path] == run.events_path.stat().st_size
    assert len(pickle.dumps(opened[0][watch_view.watched])) < 500  # a session's state stays so long as 100 newer ones
    run.append(step(10))
    assert all(watch.refresh(watch_view, context, page) != gr.skip() for page in opened)
    assert reads[run.events_path] == run.events_path.stat().st_size


def test_watching_reads_on_where_it_was(
    context: AppContext, watch_view: watch.WatchView, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = count_reads(monkeypatch)
    run = begun(new_run(context), steps=2)
    first = watch.open_run(watch_view, context, run.id)
    assert "interrupted at step 2 of 10" in first[watch_view.sentence]
    assert watch.refresh(watch_view, context, first) == gr.skip()
    run.append(step(3))
    run.append(SampleReady(step=0, index=0, prompt="a photo of a zwx backpack", seed=0, path="samples/000000-0.png"))
    later = watch.refresh(watch_view, context, first)
    assert follow(run).step == 3
    assert reads[run.events_path] == run.events_path.stat().st_size
    assert "samples/000000-0.png" in later[watch_view.samples]["urls"]["0-0"]


@pytest.mark.parametrize(("stage", "is_known"), [("sampling", True), ("exporting", False)])
def test_the_bar_stays_where_it_is_while_samples_are_drawn(
    context: AppContext, stage: str, is_known: bool, watch_view: watch.WatchView
) -> None:
    run = begun(new_run(context), steps=5)
    run.append(StageChanged(stage=stage, message="At it."))
    engine(context)._status = EngineStatus("training", run.id)
    shown = watch.open_run(watch_view, context, run.id)
    assert "At it." in shown[watch_view.sentence]
    assert ('aria-valuenow="50"' in shown[watch_view.progress]) is is_known


def test_a_failed_run_says_why_and_offers_to_resume(context: AppContext, watch_view: watch.WatchView) -> None:
    run = begun(new_run(context), steps=2)
    run.append(RunFailed(message="The engine was killed."))
    shown = watch.open_run(watch_view, context, run.id)
    assert "The engine was killed." in shown[watch_view.sentence]
    assert f'<a href="log?run={run.id}" target="_blank">' in shown[watch_view.sentence]
    assert [shown[part].visible for part in (watch_view.stop, watch_view.resume, watch_view.more)] == [
        False,
        True,
        False,
    ]


def test_a_finished_run_goes_on_for_as_many_steps_as_wished(
    context: AppContext, monkeypatch: pytest.MonkeyPatch, watch_view: watch.WatchView
) -> None:
    run = begun(new_run(context), steps=10)
    run.append(RunFinished(step=10, reason="Done.", is_complete=True, seconds=1, peak_memory_bytes=1))
    first = watch.open_run(watch_view, context, run.id)
    assert first[watch_view.more].visible is True
    started: list[tuple[str, bool]] = []
    monkeypatch.setattr(
        context.engine, "start_training", lambda run_id, *, resume=False: started.append((run_id, resume))
    )
    watch.go_on(watch_view, context, {**first, watch_view.more_steps: 25.0})
    assert run.config.steps == 35
    assert started == [(run.id, True)]


def test_nothing_that_can_be_opened_is_drawn_anew_while_a_run_goes_on(
    context: AppContext, watch_view: watch.WatchView
) -> None:
    """A details element in a value that is sent again closes; what folds is an accordion of the layout."""
    values = watch.open_run(watch_view, context, begun(new_run(context), steps=5).id)
    assert not [value for value in values.values() if "<details" in str(value)]
    assert isinstance(watch_view.lines.parent, gr.Accordion)


def test_a_run_deleted_elsewhere_is_a_sentence_and_no_error(context: AppContext, watch_view: watch.WatchView) -> None:
    run = begun(new_run(context), steps=2)
    first = watch.open_run(watch_view, context, run.id)
    library.discard(context.store, run)
    later = watch.refresh(watch_view, context, first)
    assert "There is no run" in later[watch_view.sentence]
    assert watch.refresh(watch_view, context, later) == gr.skip()


def test_lora_files_can_be_downloaded_once_they_are_there(context: AppContext, watch_view: watch.WatchView) -> None:
    run = begun(new_run(context), steps=10)
    assert watch.open_run(watch_view, context, run.id)[watch_view.files] == ""
    run.append(ExportReady(step=10, layout="kohya", path="exports/zwx.safetensors", keys=8, difference=0.0))
    links = watch.open_run(watch_view, context, run.id)[watch_view.files]
    assert f'href="export/{run.id}/kohya"' in links
    assert "diffusers" not in links


def test_a_page_opened_anew_looks_at_the_newest_run(context: AppContext, watch_view: watch.WatchView) -> None:
    assert watch.attach(watch_view, context)[watch_view.watched] == watch.Watch()
    run = new_run(context)
    assert watch.attach(watch_view, context)[watch_view.watched].run_id == run.id


def test_a_run_that_is_gone_or_damaged_is_a_sentence(context: AppContext, watch_view: watch.WatchView) -> None:
    assert "There is no run r1" in watch.open_run(watch_view, context, "r1")[watch_view.sentence]
    run = new_run(context)
    (run.path / "config.json").write_text("{")
    assert "cannot be read" in watch.open_run(watch_view, context, run.id)[watch_view.sentence]
    assert "cannot be read" in runs.rows(context)["runs"][0]["state"]
    assert models.list_models(context)[:-1] == []


def test_all_runs_are_listed_with_what_became_of_them(context: AppContext) -> None:
    begun(new_run(context), steps=4)
    (row,) = runs.rows(context)["runs"]
    assert (row["title"], row["state"], row["base"]) == ("backpack", "interrupted, step 4 of 10", "pocket")
    assert (row["step"], row["working"], row["drawable"]) == ("nothing yet", False, False)
    assert row["picture"].endswith("photos/01.png")


def test_a_run_is_renamed_put_into_the_bin_and_taken_out(context: AppContext, runs_view: runs.RunsView) -> None:
    run = begun(new_run(context), steps=4)
    assert runs.rename(runs_view, context, run.id, "my bag")[runs_view.table]["runs"][0]["title"] == "my bag"
    engine(context)._status = EngineStatus("training", run.id)
    with pytest.raises(gr.Error, match="This run is training; stop it first"):
        runs.discard(runs_view, context, run.id)
    engine(context)._status = EngineStatus()
    table = runs.discard(runs_view, context, run.id)[runs_view.table]
    assert (table["runs"], [old["title"] for old in table["bin"]]) == ([], ["my bag"])
    assert [row["id"] for row in runs.restore(runs_view, context, run.id)[runs_view.table]["runs"]] == [run.id]
    with pytest.raises(gr.Error, match="not in the bin any more"):
        runs.restore(runs_view, context, run.id)


def test_comparing_two_long_runs_reads_each_once(
    context: AppContext, runs_view: runs.RunsView, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [begun(new_run(context), steps=2) for _ in range(2)]
    lines = "".join(f"{to_json(step(number))}\n" for number in range(3, 10_001))
    for run in made:
        with run.events_path.open("a") as file:
            file.write(lines)
    reads = count_reads(monkeypatch)
    assert "<svg" in runs.compare(runs_view, context, [run.id for run in made])[runs_view.comparison]
    assert dict(reads) == {run.events_path: run.events_path.stat().st_size for run in made}


def test_a_run_is_trained_again_with_its_photos_and_settings(
    context: AppContext, view: train_view.TrainView, photo_dir: Path
) -> None:
    config = TrainingConfig(subject="car", rank=7, sample_prompts=("a {subject}", "a cat"))
    photos = read_photos(photos_in(photo_dir))
    run = context.store.create(config, lambda folder: photos.save(folder, 64))
    values = train.fill_in(view, context, run)
    assert values.keys() == set(view.filled)
    assert len(values[view.photos]["photos"]) == 4
    assert values[view.photos]["problems"] == []
    assert values[view.settings["rank"]] == 7
    assert values[view.settings["sample_prompts"]] == "a {subject}\na cat"


def test_a_click_on_a_run_leads_to_a_tab_and_changes_what_belongs_there(
    context: AppContext, page_view: PageView
) -> None:
    run = begun(new_run(context, rank=7), steps=4)
    run.save_checkpoint(4, lambda folder: (folder / "lora.safetensors").touch())
    Image.new("RGB", (64, 64)).save(run.photo_paths[0])
    watched, chosen, trained = (go(page_view, context, run.id) for go in (open_run, generate_with, train_again))
    assert [go[page_view.tabs].selected for go in (watched, chosen, trained)] == ["watch", "generate", "train"]
    assert watched[page_view.watch.watched].run_id == run.id
    assert chosen[page_view.generate.model]["chosen"] == run.id
    assert trained[page_view.train.settings["rank"]] == 7
    # Gradio refuses a handler that changes more than it was wired to
    assert watched.keys() <= {page_view.tabs, *page_view.watch.outputs}
    assert chosen.keys() <= {
        page_view.tabs,
        page_view.followed,
        *page_view.generate.chosen,
        *page_view.watch.outputs,
    }
    assert trained.keys() <= {page_view.tabs, *page_view.train.filled}


def test_a_page_opened_while_a_run_trains_shows_it_and_nothing_says_ready(
    context: AppContext, page_view: PageView
) -> None:
    assert "ready" not in page_view.header.value
    run = begun(new_run(context), steps=4)
    assert 'data-opens=""' in come_in(page_view, context)[page_view.header]
    engine(context)._status = EngineStatus("training", run.id)
    shown = come_in(page_view, context)
    assert 'data-opens="watch"' in shown[page_view.header]
    assert "training" in shown[page_view.header]
    assert "Learning your backpack" in shown[page_view.watch.sentence]


def typed_in(view: PageView, **changes: Any) -> dict[str, Any]:
    """What the browser keeps of the inputs as they stand at first, but for `changes`; __ stands for a dot."""
    kept = {name: getattr(component, "value", None) for name, component in view.inputs.items()}
    return kept | {name.replace("__", "."): value for name, value in changes.items()}


def test_what_was_typed_comes_back_with_the_photos_that_are_still_there(
    context: AppContext, page_view: PageView, photos: list[Path]
) -> None:
    tiles = tiles_of([*photos, context.uploads_dir / "gone.png"])
    typed = typed_in(page_view, train__photos=tiles, train__subject="car", generate__prompt="")
    values = restore(page_view, context, {page_view.kept: typed})
    view, generate_view = page_view.train, page_view.generate
    assert [tile["name"] for tile in values[view.photos]["photos"]] == [path.name for path in photos]
    assert values[view.settings["subject"]] == "car"
    assert values[generate_view.settings["prompt"]] == models.suggest_prompts(models.BARE)[0]
    assert values[view.chosen] == view.chosen.value
    assert "<b>4</b> photos" in values[view.summary]
    assert values.keys() == {*page_view.inputs.values(), view.chosen, view.notes, view.warps, view.summary, view.beside}


@pytest.mark.parametrize("nothing", [None, {}, [], ["an early version", "kept a list"], {"train.gone": 1}, "words"])
def test_where_nothing_was_kept_the_form_stays_as_it_is(context: AppContext, page_view: PageView, nothing: Any) -> None:
    assert restore(page_view, context, {page_view.kept: nothing}) == gr.skip()


def test_another_versions_form_is_restored_as_far_as_its_names_are_known(
    context: AppContext, page_view: PageView
) -> None:
    typed = typed_in(page_view, train__subject="car", train__steps=123, generate__seed=7)
    typed |= {"train.gone": 1, "gone.subject": "bear", "train.preset.training": "training-of-old"}
    del typed["train.rank"], typed["generate.prompt"], typed["train.photos"]
    typed["generate.sampler"] = "one that was dropped"
    values = restore(page_view, context, {page_view.kept: typed})
    train_view, generate_view = page_view.train, page_view.generate
    assert (values[train_view.settings["subject"]], values[train_view.settings["steps"]]) == ("car", 123)
    assert values[generate_view.settings["seed"]] == 7
    untouched = {train_view.settings["rank"], train_view.presets["training"], generate_view.settings["sampler"]}
    assert not untouched & values.keys()
    assert values[train_view.chosen] == train_view.chosen.value
    assert "all <b>123</b> steps" in values[train_view.summary]


def test_names_under_which_inputs_are_kept(page_view: PageView) -> None:
    """Another name would lose what people typed before an update."""
    names = page_view.inputs.keys()
    assert {"train.photos", "train.subject", "train.preset.training", "generate.prompt", "generate.keep_seed"} <= names
    assert not {"generate.run", "generate.checkpoint"} & names


def test_a_run_begun_elsewhere_comes_into_an_empty_view(context: AppContext, watch_view: watch.WatchView) -> None:
    nothing: Values = {watch_view.watched: watch.Watch()}
    assert watch.refresh(watch_view, context, nothing) == gr.skip()
    run = context.store.create(TrainingConfig(subject="car"), lambda folder: None)
    engine(context)._status = EngineStatus("training", run.id)
    assert watch.refresh(watch_view, context, nothing)[watch_view.watched].run_id == run.id
    deleted: Values = {watch_view.watched: watch.Watch("deleted")}
    assert watch.refresh(watch_view, context, deleted) == gr.skip()


def test_train_puts_in_line_while_the_engine_is_at_work(context: AppContext, page_view: PageView) -> None:
    waiting: Values = {page_view.generate.waiting: page_view.generate.waiting.value}
    first = tell_status(page_view, context, {page_view.status: None, **waiting})
    header, button = first[page_view.header], first[page_view.train.train]
    assert ("ready" in header, button.interactive, button.value) == (True, True, "Train")
    assert tell_status(page_view, context, {**waiting, **first}) == gr.skip()
    engine(context)._status = EngineStatus("training", "r1")
    later = tell_status(page_view, context, {**waiting, **first})
    header, button = later[page_view.header], later[page_view.train.train]
    assert ("training" in header, button.interactive, button.value) == (True, True, "Train next: put in line")


def test_a_place_in_line_stands_in_the_header(
    context: AppContext, page_view: PageView, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = replace(context.tenants.find_current(), line=None, pictures=None)  # as a visitor's is
    monkeypatch.setattr(context.tenants, "find_current", lambda: workspace)
    engine(context)._status = EngineStatus("waiting", "r1", ahead=2)
    values = tell_status(
        page_view, context, {page_view.status: None, page_view.generate.waiting: page_view.generate.waiting.value}
    )
    button = values[page_view.train.train]
    assert "in line, 2 before you" in values[page_view.header]
    assert (button.interactive, button.value) == (False, "Train: in line")


def test_the_page_is_built_without_waking_the_engine(context: AppContext) -> None:
    page = build_app(context)
    assert page.title == "APT Studio"
    assert engine(context).process_id is None
    assert not context.store.data_dir.exists()
