"""What the Generate tab offers, asks for and puts in line, without a browser."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from apt_engine.errors import BusyError
from apt_engine.jobs.engine import EngineStatus, SampleProgress
from apt_engine.runs.events import CheckpointSaved
from apt_engine.settings.sampling import SampleRequest
from tests.pages import begun, checked, drawing_form, engine, new_run
from ui import model_folders, models, picture_view
from ui.context import AppContext, Values
from ui.layout import PageView, generate_with, open_generate, tell_status
from ui.tabs import generate, runs, watch


def test_the_generate_tab_offers_the_watched_run_and_what_was_drawn(context: AppContext, page_view: PageView) -> None:
    older, newer = (begun(new_run(context), steps=4) for _ in range(2))
    for run in (older, newer):
        run.save_checkpoint(4, lambda folder: (folder / "lora.safetensors").touch())
    model, history = page_view.generate.model, page_view.generate.history
    prompt_input = page_view.generate.settings["prompt"]
    inputs: Values = {
        model: model.value,
        prompt_input: "an owl",
        page_view.generate.more: {"rows": []},
        page_view.watch.watched: watch.Watch(older.id),
        page_view.followed: "",
    }
    values = open_generate(page_view, context, inputs)
    assert values[model]["chosen"] == older.id
    at_once = open_generate(page_view, context, {**inputs, page_view.watch.watched: watch.Watch()})
    assert at_once[model]["chosen"] == newer.id  # the tab was opened before the page had found its run
    assert values[history] == {"pictures": [], "pick": True, "all": "pictures"}
    followed = {**inputs, page_view.followed: values[page_view.followed]}
    again = open_generate(page_view, context, {**followed, model: {"choices": [], "chosen": newer.id}})
    assert again[model]["chosen"] == newer.id


def test_generate_follows_the_run_last_trained_or_opened(context: AppContext, page_view: PageView) -> None:
    first, second = (begun(new_run(context), steps=4) for _ in range(2))
    first.save_checkpoint(4, lambda folder: (folder / "lora.safetensors").touch())
    model = page_view.generate.model
    seen: Values = {
        model: {"choices": [], "chosen": first.id},
        page_view.generate.settings["prompt"]: "an owl",
        page_view.generate.more: {"rows": []},
        page_view.watch.watched: watch.Watch(second.id),
        page_view.followed: first.id,
    }

    def come_back() -> str:
        values = open_generate(page_view, context, seen)
        seen.update({model: values[model], page_view.followed: values[page_view.followed]})
        return seen[model]["chosen"]

    assert come_back() == first.id  # the second has no LoRA yet
    second.save_checkpoint(4, lambda folder: (folder / "lora.safetensors").touch())
    assert come_back() == second.id
    seen[model] = {"choices": [], "chosen": first.id}  # by hand
    assert come_back() == first.id
    seen.update(generate_with(page_view, context, second.id))
    assert come_back() == second.id


def test_only_runs_with_a_lora_are_offered(context: AppContext, generate_view: picture_view.GenerateView) -> None:
    run = begun(new_run(context), steps=4)
    assert [choice["id"] for choice in models.list_models(context)] == [models.BARE]
    run.save_checkpoint(4, lambda folder: (folder / "lora.safetensors").touch())
    run.append(CheckpointSaved(step=4, path="checkpoints/000004"))
    assert [choice["id"] for choice in models.list_models(context)] == [run.id, models.BARE]
    prompt_input = generate_view.settings["prompt"]

    def choose(run_id: str, prompt: str) -> Values:
        return generate.choose_model(generate_view, context, run_id, prompt)

    changes = choose(run.id, models.suggest_prompts(models.BARE)[0])
    prompt = changes[prompt_input]
    assert prompt == models.suggest_prompts(run.id)[0]
    assert prompt_input not in choose(run.id, "my own words")
    assert "{subject}" not in choose(models.BARE, prompt)[prompt_input]
    assert changes.keys() <= {*generate_view.chosen}
    assert changes[generate_view.model]["chosen"] == run.id
    assert all("{subject}" in prompt for prompt in changes[generate_view.suggestions]["prompts"])
    assert not any("{subject}" in prompt for prompt in models.suggest_prompts(models.BARE))
    assert changes[generate_view.settings["checkpoint"]].choices == [
        ("kept: the last", "kept"),
        ("last: step 4", "last"),
        ("step 4", "4"),
    ]
    assert [value for _, value in changes[generate_view.compare].choices] == [models.BASE_TOO, "4"]
    assert "zwx backpack" in changes[generate_view.meaning]


def test_the_kept_step_is_chosen_and_says_so(
    context: AppContext, page_view: PageView, generate_view: picture_view.GenerateView
) -> None:
    run = checked(begun(new_run(context), steps=6), kept_step=4)
    for saved in (2, 4, 6):
        run.save_checkpoint(saved, lambda folder: (folder / "lora.safetensors").touch())
    chosen = generate.choose_model(generate_view, context, run.id, "")[generate_view.settings["checkpoint"]]
    assert chosen.value == "kept"
    assert chosen.choices[:3] == [("kept: step 4", "kept"), ("last: step 6", "last"), ("step 6", "6")]
    view = page_view.generate
    assert generate_with(page_view, context, run.id)[view.settings["checkpoint"]].value == "kept"
    (row,) = runs.rows(context)["runs"]
    assert row["step"] == "4, last 6"  # in a column that says "kept"


def test_beside_a_run_stand_the_base_and_other_steps_at_the_same_seeds(
    context: AppContext, generate_view: picture_view.GenerateView
) -> None:
    run = checked(begun(new_run(context), steps=6), kept_step=4)
    values = drawing_form(generate_view, run=run.id, seed="7", compare=[models.BASE_TOO, "50"])
    found = generate.requests_of(generate_view, context, values)
    assert [(name, request.checkpoint, request.strength) for name, request in found] == [
        ("backpack, step 4", "kept", 1.0),
        ("the base model", "kept", 0.0),
        ("backpack, step 50", "50", 1.0),
    ]
    assert {request.seed for _, request in found} == {7}


def test_a_choice_has_a_picture_and_says_which_step_and_when(context: AppContext) -> None:
    run = checked(begun(new_run(context), steps=6), kept_step=4)
    run.save_checkpoint(4, lambda folder: (folder / "lora.safetensors").touch())
    choice = models.list_models(context)[0]
    assert re.fullmatch(r"kept step 4, \d\d \w{3}, \d\d:\d\d", choice["words"])
    assert choice["picture"].endswith("/photos/01.png")


def test_while_the_engine_is_at_work_pictures_are_put_in_line(
    context: AppContext, page_view: PageView, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    view = page_view.generate
    engine(context)._status = EngineStatus("training", "r1")
    told = tell_status(page_view, context, {page_view.status: None, view.waiting: view.waiting.value})
    assert told[view.generate].value == "Generate next: put in line"
    *_, shown = generate.generate(view, context, drawing_form(view, prompt="an owl", count=2))
    assert [wish["words"] for wish in shown[view.waiting]["wishes"]] == ["2 x an owl"]
    assert context.pictures
    assert context.pictures.go_on() is False  # it still trains

    def sample(request: SampleRequest) -> Iterator[SampleProgress]:
        yield SampleProgress("Done", 1.0, (tmp_path / "01.png", tmp_path / "02.png"))

    monkeypatch.setattr(context.engine, "sample", sample)
    engine(context)._status = EngineStatus()
    assert context.pictures.go_on() is True
    later = tell_status(page_view, context, {page_view.status: told[page_view.status], **shown})
    assert later[view.waiting]["wishes"] == []
    assert [picture["name"] for picture in later[view.pictures]["pictures"]] == ["01.png", "02.png"]
    assert later[view.generate].value == "Generate"


def test_the_settings_of_a_picture_come_back_into_the_form(
    context: AppContext, generate_view: picture_view.GenerateView
) -> None:
    folder = context.store.data_dir / "generated" / "20260101-000000"
    folder.mkdir(parents=True)
    info = PngInfo()
    request = SampleRequest(prompt="a {subject}", run="gone", seed=41, steps=7, sampler="Euler")
    info.add_itxt("apt_studio", json.dumps(request.to_dict()))
    Image.new("RGB", (8, 8)).save(folder / "01.png", pnginfo=info)
    # On the page, a message.
    with pytest.warns(UserWarning, match="Behind this picture, but not here: gone; its other settings are taken over"):
        values = generate.use_again(generate_view, context, 0)
    again = {name: values[component] for name, component in generate_view.settings.items()}
    assert (again["prompt"], again["seed"], again["steps"], again["sampler"]) == ("a {subject}", "41", 7, "Euler")
    assert (values[generate_view.model]["chosen"], values[generate_view.form.keep_seed]) == (models.BARE, True)
    assert (again["width"], again["height"]) == ("", "")  # as trained


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ({"prompt": "  "}, "The prompt is empty"),
        ({"run": models.BARE, "prompt": "a {subject}"}, "needs a trained run"),
        ({"prompt": "owl " * 500, "run": "r1"}, "The prompt has 2,000 characters; shorten it"),
        ({"prompt": "an owl", "run": "r1"}, "There is no run r1"),
        ({"prompt": "an owl", "width": "wide"}, 'width is "wide", which is not a whole number'),
    ],
)
def test_a_mistake_is_a_sentence_and_wakes_no_engine(
    context: AppContext, generate_view: picture_view.GenerateView, wish: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(gr.Error, match=sentence):
        next(generate.generate(generate_view, context, drawing_form(generate_view, **wish)))
    assert engine(context).process_id is None


def test_the_base_models_of_other_programs_are_offered_for_drawing_and_found_again_by_name(
    context: AppContext, page_view: PageView, toy_base: Path, tmp_path: Path
) -> None:
    view, place = page_view.generate, tmp_path / "ComfyUI" / "models" / "diffusers" / "mine"
    shutil.copytree(toy_base, place, ignore=shutil.ignore_patterns("*.safetensors"))
    base = view.settings["base"]
    typed: Values = {view.folders.folders: str(tmp_path / "ComfyUI"), base: "pocket"}
    changes = model_folders.look(view.folders, context, base, typed)
    assert ("mine (folder)", str(place)) in changes[base].choices
    ((_, request),) = generate.requests_of(view, context, drawing_form(view, prompt="an owl", base=str(place)))
    assert (request.base, request.without_folders().base) == (str(place), "mine")
    assert model_folders.find(context, "mine") == str(place)
    assert model_folders.find(context, "another") is None


def test_pictures_that_somebody_was_faster_for_are_put_in_line(
    context: AppContext, page_view: PageView, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sample(request: SampleRequest) -> Iterator[SampleProgress]:
        raise BusyError("The engine is drawing pictures; wait until they are done.")

    monkeypatch.setattr(context.engine, "sample", sample)
    view = page_view.generate
    *_, shown = generate.generate(view, context, drawing_form(view, prompt="an owl", count=2))
    assert [wish["words"] for wish in shown[view.waiting]["wishes"]] == ["2 x an owl"]
