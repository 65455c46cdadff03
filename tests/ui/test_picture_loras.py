"""LoRA files and several LoRAs on the Generate tab, without a browser."""

import json
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from apt_engine.settings.sampling import SampleRequest
from tests.pages import begun, checked, drawing_form, engine, new_run
from ui import models, more_loras, picture_view
from ui.context import AppContext
from ui.tabs import generate


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
    ((name, request),) = generate.requests_of(view, context, drawing_form(view, run=chosen, prompt="a bear"))
    assert (name, request.run, Path(request.lora).read_bytes()) == ("my bear", "", b"weights")
    ((_, request),) = generate.requests_of(
        view, context, drawing_form(view, run="file:../../etc/x.safetensors", prompt="a")
    )
    assert request.lora == ""
    left = generate.forget_lora(view, context, chosen, chosen)
    assert left[view.model] == {"choices": [models.list_models(context)[-1]], "chosen": models.BARE}


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
    values = drawing_form(view, run=run.id, rows=rows, strength=0.8, compare=[models.BASE_TOO])
    (name, request), (_, bare) = generate.requests_of(view, context, values)
    assert name == "backpack, step 4 at 0.8 + wool at 0.5 + backpack, step 4 at 1"
    assert request.loras == (f"{context.loras_dir / 'wool.safetensors'}:0.5", f"{other.id}@kept:1")
    assert (bare.strength, bare.loras) == (0.0, ())
    ((name, request),) = generate.requests_of(view, context, drawing_form(view, prompt="a bear", rows=rows[:1]))
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
    form = drawing_form(generate_view, prompt="an owl", run="file:wool.safetensors", rows=values)
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


def test_a_picture_without_settings_leaves_its_field_for_another(
    context: AppContext, generate_view: picture_view.GenerateView, tmp_path: Path
) -> None:
    view, picture = generate_view, tmp_path / "2.png"
    Image.new("RGB", (8, 8)).save(picture)
    with pytest.warns(UserWarning, match=r"The picture 2\.png holds no settings; choose one made here"):
        assert generate.take_settings(view, context, {view.form.source: str(picture)}) == {view.form.source: None}
