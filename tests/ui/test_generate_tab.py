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
from apt_engine.jobs.picture_line import PictureLine
from apt_engine.runs import grid
from apt_engine.runs.events import CheckpointSaved
from apt_engine.settings.sampling import SampleRequest
from tests.pages import begun, checked, engine, new_run
from ui import model_folders, models, more_loras, picture_view
from ui.context import AppContext, Values
from ui.layout import PageView, build, generate_with, open_generate, tell_status
from ui.tabs import generate, runs, watch

MANY = ", ".join(map(str, range(100)))


@pytest.fixture
def generate_view(context: AppContext) -> picture_view.GenerateView:
    with gr.Blocks(analytics_enabled=False):
        return picture_view.build(context)


@pytest.fixture
def page_view(context: AppContext) -> PageView:
    with gr.Blocks(analytics_enabled=False):
        return build(context)


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
    assert row["step"] == "kept 4, last 6"


def form_of(view: picture_view.GenerateView, **changes: Any) -> Values:
    """The Generate tab's form as it stands at first, with some settings changed."""
    inputs = {**view.settings, **view.form.axes, "keep_seed": view.form.keep_seed, "compare": view.compare}
    model = {"choices": [], "chosen": changes.get("run", models.BARE)}
    shown = {component: changes.get(name, getattr(component, "value", None)) for name, component in inputs.items()}
    return {**shown, view.model: model, view.more: {"rows": changes.get("rows", [])}}


def test_beside_a_run_stand_the_base_and_other_steps_at_the_same_seeds(
    context: AppContext, generate_view: picture_view.GenerateView
) -> None:
    run = checked(begun(new_run(context), steps=6), kept_step=4)
    values = form_of(generate_view, run=run.id, seed="7", compare=[models.BASE_TOO, "50"])
    found = generate.requests_of(generate_view, context, values)
    assert [(name, request.checkpoint, request.strength) for name, request in found] == [
        ("backpack, step 4", "kept", 1.0),
        ("the base model", "kept", 0.0),
        ("backpack, step 50", "50", 1.0),
    ]
    assert {request.seed for _, request in found} == {7}


def test_a_lora_file_becomes_a_choice_of_its_own_and_names_its_pictures(
    context: AppContext, generate_view: picture_view.GenerateView, tmp_path: Path
) -> None:
    view, brought = generate_view, tmp_path / "my bear.safetensors"
    brought.write_bytes(b"weights")
    values = generate.bring_lora(
        view, context, {view.lora: str(brought), view.more: view.more.value, view.settings["prompt"]: "a bear"}
    )
    chosen = values[view.model]["chosen"]
    assert [choice["title"] for choice in values[view.model]["choices"]] == ["my bear", "The base model"]
    ((name, request),) = generate.requests_of(view, context, form_of(view, run=chosen, prompt="a bear"))
    assert (name, request.run, Path(request.lora).read_bytes()) == ("my bear", "", b"weights")
    ((_, request),) = generate.requests_of(view, context, form_of(view, run="file:../../etc/x.safetensors", prompt="a"))
    assert request.lora == ""
    left = generate.forget_lora(view, context, chosen, chosen)
    assert left[view.model] == {"choices": [models.list_models(context)[-1]], "chosen": models.BARE}


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
    *_, shown = generate.generate(view, context, form_of(view, prompt="an owl", count=2))
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
    with pytest.warns(
        UserWarning, match="Behind this picture, but not here: gone; its other settings are taken over"
    ):  # on the page, a message
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
        next(generate.generate(generate_view, context, form_of(generate_view, **wish)))
    assert engine(context).process_id is None


def test_a_grid_of_steps_strengths_and_prompts_is_one_png_that_comes_back_into_the_form(
    context: AppContext, generate_view: picture_view.GenerateView, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, asked = generate_view, []
    run = begun(new_run(context), steps=6)
    run.save_checkpoint(4, lambda folder: (folder / "lora.safetensors").touch())
    folder = context.store.data_dir / "generated" / "20260101-000000"
    folder.mkdir(parents=True)

    def sample(request: SampleRequest) -> Iterator[SampleProgress]:
        asked.append((request.prompt, request.strength, request.checkpoint))
        path = folder / f"{len(asked):02d}.png"
        Image.new("RGB", (64, 64), (10 * len(asked), 0, 0)).save(path)
        yield SampleProgress("Done", 1.0, (path,))

    monkeypatch.setattr(context.engine, "sample", sample)
    axes = {"checkpoints": "step 2, 4, kept", "strengths": "0.5,0.8, 1", "prompts": "a {subject}\n\na red {subject}"}
    *_, shown = generate.generate(view, context, form_of(view, run=run.id, count=1, seed="5", keep_seed=True, **axes))
    assert len(asked) == 18
    assert [one[1:] for one in asked[:4]] == [(0.5, "2"), (0.5, "4"), (0.5, "kept"), (0.8, "2")]
    assert {one[0] for one in asked[:9]} == {"a {subject}"}
    assert asked[9] == ("a red {subject}", 0.5, "2")
    assert [picture["name"] for picture in shown[view.pictures]["pictures"]][:2] == ["grid.png", "01.png"]
    with Image.open(folder / "grid.png") as sheet:
        cell, step = 128 + 6, grid.LABEL + 3 * (128 + 6)
        left, top = grid.SIDE_LABEL + 64, 2 * grid.LABEL + 64
        middles = [(left + column * cell, top + row * cell) for row in range(3) for column in range(3)]
        reds = [sheet.getpixel((x, y + block * step)) for block in range(2) for x, y in middles]
    assert reds == [(10 * number, 0, 0) for number in range(1, 19)]
    again = generate.take_settings(view, context, {view.form.source: str(folder / "grid.png")})
    told = {name: again[box] for name, box in view.form.axes.items()}
    assert told == {"checkpoints": "2, 4, kept", "strengths": "0.5, 0.8, 1", "prompts": "a {subject}\na red {subject}"}
    assert (again[view.model]["chosen"], again[view.settings["seed"]]) == (run.id, "5")
    plain = generate.take_settings(view, context, {view.form.source: str(folder / "grid.png")})
    assert plain.keys() >= {*view.form.axes.values()}


@pytest.mark.parametrize(
    ("axes", "sentence"),
    [
        ({"strengths": "0.5, much"}, 'The strength "much" is not a number'),
        ({"strengths": "0.5, 7"}, "strength cannot be 7"),
        ({"checkpoints": MANY, "strengths": ", ".join(f"0.{n}" for n in range(100))}, "would be 40,000 pictures"),
    ],
)
def test_a_grid_that_cannot_be_is_one_sentence(
    context: AppContext, generate_view: picture_view.GenerateView, axes: dict[str, str], sentence: str
) -> None:
    with pytest.raises(gr.Error, match=sentence):
        next(generate.generate(generate_view, context, form_of(generate_view, prompt="an owl", **axes)))
    assert engine(context).process_id is None


def strong(context: AppContext, *names: str) -> None:
    """LoRA files that were brought."""
    context.loras_dir.mkdir(parents=True)
    for name in names:
        (context.loras_dir / f"{name}.safetensors").write_bytes(name.encode())


def test_several_loras_are_asked_for_and_named_with_their_strengths_under_each_picture(
    context: AppContext, generate_view: picture_view.GenerateView
) -> None:
    view = generate_view
    strong(context, "wool", "ink")
    run, other = (checked(begun(new_run(context), steps=6), kept_step=4) for _ in range(2))
    for one in (run, other):
        one.save_checkpoint(4, lambda folder: (folder / "lora.safetensors").touch())
    assert {choice["id"] for choice in more_loras.show(context, [], run.id)["choices"]} == {
        run.id,
        other.id,
        "file:wool.safetensors",
        "file:ink.safetensors",
    }
    rows = [{"id": "file:wool.safetensors", "strength": 0.5}, {"id": other.id, "strength": 1}]
    values = form_of(view, run=run.id, rows=rows, strength=0.8, compare=[models.BASE_TOO])
    (name, request), (_, bare) = generate.requests_of(view, context, values)
    assert name == "backpack, step 4 at 0.8 + wool at 0.5 + backpack, step 4 at 1"
    assert request.loras == (f"{context.loras_dir / 'wool.safetensors'}:0.5", f"{other.id}@kept:1")
    assert (bare.strength, bare.loras) == (0.0, ())
    ((name, request),) = generate.requests_of(view, context, form_of(view, prompt="a bear", rows=rows[:1]))
    assert (name, request.run, request.lora) == ("wool at 0.5", "", "")
    (context.loras_dir / "wool.safetensors").unlink()
    assert more_loras.show(context, rows, run.id)["rows"] == rows[1:]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([("ink", 0.5), ("ink", 1)], r"The LoRA ink\.safetensors is given twice"),
        ([("wool", 1)], r"The LoRA wool\.safetensors is given twice"),
        ([("ink", "nan")], "The strength of ink.safetensors cannot be nan"),
        ([("ink", 100)], "cannot be 100; it must lie between 0 and 2"),
        ([("ink", -1)], "cannot be -1"),
        ([("gone", 1)], r"The LoRA gone\.safetensors is not here any more; choose another, or take it out"),
    ],
)
def test_loras_that_cannot_be_together_are_one_sentence(
    context: AppContext, generate_view: picture_view.GenerateView, rows: list[tuple[str, Any]], sentence: str
) -> None:
    strong(context, "wool", "ink")
    values = [{"id": f"file:{name}.safetensors", "strength": strength} for name, strength in rows]
    form = form_of(generate_view, prompt="an owl", run="file:wool.safetensors", rows=values)
    with pytest.raises(gr.Error, match=sentence):
        next(generate.generate(generate_view, context, form))
    assert engine(context).process_id is None


def test_the_loras_of_a_picture_come_back_and_those_not_here_are_named_once(
    context: AppContext, generate_view: picture_view.GenerateView, tmp_path: Path
) -> None:
    view, path = generate_view, tmp_path / "1.png"
    strong(context, "wool", "ink")
    request = SampleRequest(
        prompt="an owl",
        run="",
        seed=4,
        base="/far/away/dream.safetensors",
        lora="/home/me/wool.safetensors",
        loras=("/home/me/ink.safetensors:0.25", "/home/me/silk.safetensors:0.5", "20200101-000000-cat@kept:1"),
    )
    info = PngInfo()
    info.add_itxt("apt_studio", json.dumps(request.without_folders().to_dict()))
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    gone = r"not here: silk\.safetensors, 20200101-000000-cat, dream\.safetensors; its other settings"
    with pytest.warns(UserWarning, match=gone):
        values = generate.take_settings(view, context, {view.form.source: str(path)})
    assert values[view.model]["chosen"] == "file:wool.safetensors"
    assert values[view.more]["rows"] == [{"id": "file:ink.safetensors", "strength": 0.25}]
    assert (values[view.settings["prompt"]], values[view.settings["seed"]]) == ("an owl", "4")
    assert values[view.settings["base"]] == gr.skip()
    Image.new("RGB", (8, 8)).save(tmp_path / "2.png")
    with pytest.raises(gr.Error, match=r"The picture 2\.png holds no settings; choose one made here"):
        generate.take_settings(view, context, {view.form.source: str(tmp_path / "2.png")})


def test_the_base_models_of_other_programs_are_offered_for_drawing_and_found_again_by_name(
    context: AppContext, page_view: PageView, toy_base: Path, tmp_path: Path
) -> None:
    view, place = page_view.generate, tmp_path / "ComfyUI" / "models" / "diffusers" / "mine"
    shutil.copytree(toy_base, place, ignore=shutil.ignore_patterns("*.safetensors"))
    base = view.settings["base"]
    typed: Values = {view.folders.folders: str(tmp_path / "ComfyUI"), base: "pocket"}
    changes = model_folders.look(view.folders, context, base, typed)
    assert ("mine (folder)", str(place)) in changes[base].choices
    ((_, request),) = generate.requests_of(view, context, form_of(view, prompt="an owl", base=str(place)))
    assert (request.base, request.without_folders().base) == (str(place), "mine")
    assert model_folders.find(context, "mine") == str(place)
    assert model_folders.find(context, "another") is None


def test_a_grid_asked_for_while_the_engine_is_at_work_is_queued_and_drawn_as_one_png(
    context: AppContext, page_view: PageView, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, drawn = page_view.generate, []
    engine(context)._status = EngineStatus("sampling")
    told = tell_status(page_view, context, {page_view.status: None, view.waiting: view.waiting.value})
    assert told[view.generate].value == "Generate next: put in line"
    axes = {"checkpoints": "2, 4, kept", "strengths": "0.5, 0.8, 1", "prompts": "an owl\na red owl"}
    *_, shown = generate.generate(view, context, form_of(view, prompt="an owl", count=1, **axes))
    *_, shown = generate.generate(view, context, form_of(view, prompt="a cat", count=1))
    assert [wish["words"] for wish in shown[view.waiting]["wishes"]] == ["a grid of 18 x an owl", "1 x a cat"]
    assert context.pictures
    again = PictureLine(context.store, context.engine)  # as after a restart
    _, cat = again.waiting()
    generate.move_wish(view, context, cat.id, "sooner")
    assert [len(wish.requests) for wish in again.waiting()] == [1, 18]
    generate.move_wish(view, context, cat.id, "out")
    folder = context.store.next_pictures_dir()
    folder.mkdir(parents=True)

    def sample(request: SampleRequest) -> Iterator[SampleProgress]:
        drawn.append(request)
        path = folder / f"{len(drawn):02d}.png"
        Image.new("RGB", (64, 64)).save(path)
        yield SampleProgress("Done", 1.0, (path,))

    monkeypatch.setattr(context.engine, "sample", sample)
    engine(context)._status = EngineStatus()
    assert context.pictures.go_on() is True
    later = tell_status(page_view, context, {page_view.status: told[page_view.status], **shown})
    assert [picture["name"] for picture in later[view.pictures]["pictures"]][:2] == ["grid.png", "01.png"]
    assert later[view.pictures]["all"] == f"pictures?of={folder.name}"
    taken = generate.take_settings(view, context, {view.form.source: str(folder / "grid.png")})
    assert taken[view.form.axes["strengths"]] == "0.5, 0.8, 1"
    assert (len(drawn), again.waiting()) == (18, [])


def test_pictures_that_somebody_was_faster_for_are_put_in_line(
    context: AppContext, page_view: PageView, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sample(request: SampleRequest) -> Iterator[SampleProgress]:
        raise BusyError("The engine is drawing pictures; wait until they are done.")

    monkeypatch.setattr(context.engine, "sample", sample)
    view = page_view.generate
    *_, shown = generate.generate(view, context, form_of(view, prompt="an owl", count=2))
    assert [wish["words"] for wish in shown[view.waiting]["wishes"]] == ["2 x an owl"]
