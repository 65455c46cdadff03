"""Grids of pictures on the Generate tab, drawn, put in line and read back, without a browser."""

from collections.abc import Iterator

import gradio as gr
import pytest
from PIL import Image

from apt_engine.jobs.engine import EngineStatus, SampleProgress
from apt_engine.jobs.picture_line import PictureLine
from apt_engine.runs import grid
from apt_engine.settings.sampling import SampleRequest
from tests.pages import begun, drawing_form, engine, new_run
from ui import picture_view
from ui.context import AppContext
from ui.layout import PageView, tell_status
from ui.tabs import generate

MANY = ", ".join(map(str, range(100)))


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
    *_, shown = generate.generate(
        view, context, drawing_form(view, run=run.id, count=1, seed="5", keep_seed=True, **axes)
    )
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
        next(generate.generate(generate_view, context, drawing_form(generate_view, prompt="an owl", **axes)))
    assert engine(context).process_id is None


def test_a_grid_asked_for_while_the_engine_is_at_work_is_queued_and_drawn_as_one_png(
    context: AppContext, page_view: PageView, monkeypatch: pytest.MonkeyPatch
) -> None:
    view, drawn = page_view.generate, []
    engine(context)._status = EngineStatus("sampling")
    told = tell_status(page_view, context, {page_view.status: None, view.waiting: view.waiting.value})
    assert told[view.generate].value == "Generate next: put in line"
    axes = {"checkpoints": "2, 4, kept", "strengths": "0.5, 0.8, 1", "prompts": "an owl\na red owl"}
    *_, shown = generate.generate(view, context, drawing_form(view, prompt="an owl", count=1, **axes))
    *_, shown = generate.generate(view, context, drawing_form(view, prompt="a cat", count=1))
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
