"""What the Train tab's buttons do, without a browser and without waking the engine."""

import html
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import gradio as gr
import pytest
from PIL import Image

from apt_engine.jobs.engine import EngineStatus
from apt_engine.settings.training import TrainingConfig
from tests.pages import engine, form
from ui import train_view
from ui.context import AppContext, load_examples
from ui.photo_tiles import read_tiles, tiles_of
from ui.tabs import runs, train
from ui.train_panels import credits_of, describe, draw_warps, warped


@pytest.mark.parametrize(
    ("settings", "count", "where", "sentence"),
    [
        ({"subject": "   "}, 4, "word", "The subject is empty"),
        ({"subject": "car", "rank": 0}, 4, "settings", "rank cannot be 0; it must lie between 1 and 256"),
        ({"subject": "car", "steps": None}, 4, "settings", "The setting steps is empty"),
        ({"subject": "car"}, 0, "photos", "There are no photos"),
        ({"subject": "car"}, 1, "photos", "One photo is too few"),
    ],
)
def test_a_mistake_is_one_sentence_where_it_was_made_and_leaves_no_run(
    context: AppContext,
    view: train_view.TrainView,
    photos: list[Path],
    settings: dict[str, Any],
    count: int,
    where: str,
    sentence: str,
) -> None:
    (said,) = train.start(view, context, lambda run_id: {}, form(view, photos[:count], **settings)).items()
    assert said[0] is {"word": view.meaning, "photos": view.notes, "settings": view.summary}[where]
    assert sentence in said[1]
    assert context.store.list() == []
    assert engine(context).process_id is None


@pytest.mark.parametrize("job", ["training", "sampling"])
def test_while_the_engine_is_at_work_a_run_is_put_in_line(
    context: AppContext, view: train_view.TrainView, photos: list[Path], job: Literal["training", "sampling"]
) -> None:
    engine(context)._status = EngineStatus(job, "r1")
    for words in ("Your car is in line: it begins when the engine is free.", "Your car is in line: 1 before it."):
        said = train.start(view, context, lambda run_id: {}, form(view, photos, subject="car"))
        assert words in said[view.summary]
    assert context.line
    assert context.line.waiting() == [run.id for run in reversed(context.store.list())]
    first, second = runs.rows(context)["runs"][::-1]
    assert (first["state"], second["state"]) == ("in line, comes next", "in line, 1 before it")
    assert engine(context).process_id is None


def test_plain_dreambooth_follows_a_run_if_that_is_wished(
    context: AppContext, view: train_view.TrainView, photos: list[Path]
) -> None:
    engine(context)._status = EngineStatus("training", "r1")
    values = {**form(view, photos, subject="car", seed=3), view.beside: True}
    train.start(view, context, lambda run_id: {}, values)
    assert context.line
    run, plain = (context.store.open(run_id) for run_id in context.line.waiting())
    assert (run.config.needs_reference, plain.config.needs_reference) == (True, False)
    assert (run.config.seed, plain.config.seed) == (3, 3)
    off: dict[Any, Any] = {"augmentation": 0, "weighting": False, "stabilization": 0, "alignment": 0}
    assert train.sum_up(view, context, values)[view.beside].visible is True
    values |= {view.settings[name]: value for name, value in off.items()}
    assert train.sum_up(view, context, values)[view.beside].visible is False
    train.start(
        view, context, lambda run_id: {}, {**values, view.settings["stop"]: "never", view.settings["steps"]: 300}
    )
    assert len(context.line.waiting()) == 3  # a plain run has none beside it


def test_where_there_is_no_line_an_engine_at_work_takes_no_second_run(
    context: AppContext, view: train_view.TrainView, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = replace(context.tenants.find_current(), line=None)  # as a visitor's of a Space is
    monkeypatch.setattr(context.tenants, "find_current", lambda: workspace)
    engine(context)._status = EngineStatus("training", "r1")
    with pytest.raises(gr.Error, match="The engine is training r1"):
        train.start(view, context, lambda run_id: {}, form(view, photos, subject="car"))
    assert context.store.list() == []
    assert engine(context).process_id is None


def test_sixty_photos_are_refused(context: AppContext, view: train_view.TrainView, photos: list[Path]) -> None:
    said = train.start(view, context, lambda run_id: {}, form(view, photos * 15, subject="car"))
    assert "60 photos are too many" in said[view.notes]


def test_of_sixty_photos_the_first_are_shown_and_one_may_choose(
    context: AppContext, view: train_view.TrainView, tmp_path: Path
) -> None:
    folder = context.uploads_dir
    folder.mkdir(parents=True)
    paths = [folder / f"{number:02d}.png" for number in range(60)]
    for number, path in enumerate(paths):
        Image.effect_noise((80, 80), 40 + number).save(path)
    shown = train.show_photos(view, context, form(view, paths, subject="car"))
    tiles, summary = shown[view.photos], shown[view.summary]
    assert len(tiles["photos"]) == 30
    assert all(tile["url"] for tile in tiles["photos"])
    assert tiles["problems"] == ["60 photos are too many; the first 30 are here. Keep the 3 to 10 that differ most."]
    assert "<b>30</b> photos" in summary


def test_a_bad_file_is_named_and_the_good_ones_stay(
    context: AppContext, view: train_view.TrainView, photos: list[Path]
) -> None:
    bad = photos[0].with_name("notes.jpg")
    bad.write_text("no picture")
    shown = train.show_photos(view, context, form(view, [*photos, bad], subject=""))
    tiles, summary = shown[view.photos], shown[view.summary]
    assert [tile["path"] for tile in tiles["photos"]] == [str(path) for path in photos]
    assert len(tiles["problems"]) == 1
    assert "notes.jpg cannot be opened" in tiles["problems"][0]
    assert "<b>4</b> photos" in summary
    assert "at most <b>400</b> steps" in summary
    assert "download <b>none</b>" in summary


def wide_photo(folder: Path) -> Path:
    """Gray, with something red at its right."""
    picture = Image.new("RGB", (300, 100), "gray")
    picture.paste("red", (210, 20, 280, 90))
    picture.save(folder / "wide.png")
    return folder / "wide.png"


def test_a_tile_shows_the_square_around_the_subject_until_another_is_chosen(
    context: AppContext, view: train_view.TrainView, photos: list[Path]
) -> None:
    wide = wide_photo(photos[0].parent)
    values = form(view, [wide], subject="")
    (tile,) = train.show_photos(view, context, values)[view.photos]["photos"]
    left, top, side = tile["box"]
    assert (left > 0.4, top, side) == (True, 0, 1)
    moved = {**tile, "box": [0.0, 0.0, 0.5]}
    again_shown = train.show_photos(view, context, {**values, view.photos: {"photos": [moved], "problems": []}})
    (again,) = again_shown[view.photos]["photos"]
    assert again["box"] == pytest.approx([0, 0, 0.5])
    assert again["url"] != tile["url"]
    assert again["whole"] == tile["whole"]
    square = read_tiles({"photos": [moved], "problems": []}, [context.uploads_dir]).photos[0].square
    assert square == (0, 0, 50, 50)


def test_with_buckets_a_tile_shows_the_proportions_that_are_learnt(
    context: AppContext, view: train_view.TrainView, photos: list[Path]
) -> None:
    wide = wide_photo(photos[0].parent)
    square = form(view, [wide], subject="", resolution=64)
    buckets = {**square, view.settings["crop"]: "buckets"}
    (photo,) = read_tiles(square[view.photos], [context.uploads_dir]).photos
    assert photo.learnt(64, "square") == photo.square
    for values, bucket, size, notes in (
        (square, None, (256, 256), []),
        (buckets, (64, 32), (256, 128), []),  # twice as wide as high, at most
        ({**buckets, view.settings["resolution"]: 256}, (256, 128), (256, 128), ["small"]),
    ):
        shown = train.show_photos(view, context, values)
        (tile,) = shown[view.photos]["photos"]
        assert (tile["bucket"], tile["warnings"]) == (bucket, notes)
        left, _, right, _ = photo.learnt(64, "buckets" if bucket else "square")
        red = round((245 - left) / (right - left) * size[0])
        with Image.open(context.uploads_dir / "tiles" / Path(tile["url"]).name) as learnt:
            assert learnt.size == size
            assert learnt.getpixel((red, size[1] // 2)) == pytest.approx((254, 0, 0), abs=8)
        warp = re.findall(r'src="[^"]*/([^"/]+)"', shown[view.warps])[-1]
        with Image.open(context.uploads_dir / "tiles" / warp) as warped_photo:
            assert warped_photo.width == 96
            assert warped_photo.height == round(96 * size[1] / size[0])
    assert right - left == 200


def test_a_file_that_was_not_brought_is_never_opened(
    context: AppContext, view: train_view.TrainView, photo_dir: Path
) -> None:
    elsewhere = sorted(photo_dir.iterdir())
    tiles = train.show_photos(view, context, form(view, elsewhere, subject=""))[view.photos]
    assert tiles["photos"] == []
    assert all("is not among the files you brought" in problem for problem in tiles["problems"])
    said = train.start(view, context, lambda run_id: {}, form(view, elsewhere, subject="car"))
    assert "There are no photos" in said[view.notes]


def test_a_caption_without_the_subject_is_a_sentence_and_others_go_into_the_run(
    context: AppContext, view: train_view.TrainView, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = form(view, photos, subject="car")
    values[view.photos]["photos"][1]["caption"] = "a red thing"
    said = train.start(view, context, lambda run_id: {}, values)
    assert "caption of photo 2.png does not mention the subject" in said[view.notes]
    assert context.store.list() == []
    values[view.photos]["photos"][1]["caption"] = "a red  {subject}"
    monkeypatch.setattr(context.engine, "start_training", lambda run_id: None)
    train.start(view, context, lambda run_id: {}, values)
    assert context.store.list()[0].captions[:2] == ["a photo of a {subject}", "a red {subject}"]


def test_captions_the_model_cannot_hear_to_the_end_are_marked_before_the_start(
    context: AppContext, view: train_view.TrainView, photos: list[Path]
) -> None:
    values = form(view, photos[:3], subject="car")
    captions = ("", f"a {{subject}}{28 * ' cat'}", f"a {{subject}}{27 * ' cat'}")  # of 33 tokens in all, then of 32
    for tile, caption in zip(values[view.photos]["photos"], captions, strict=True):
        tile["caption"] = caption
    shown = train.show_photos(view, context, values)
    marked = ["caption too long" in tile["warnings"] for tile in shown[view.photos]["photos"]]
    assert marked == [False, True, False]
    assert f"The caption of {photos[1].name} is longer than the model can read" in shown[view.notes]
    assert "The caption is" not in shown[view.notes]
    usual = train.show_photos(view, context, {**values, view.settings["caption"]: "a {subject}" + 40 * " cat"})
    assert "The caption is longer than the model can read, so its end is lost; shorten it." in usual[view.notes]


def test_doubles_and_small_photos_are_marked_on_their_tiles(
    context: AppContext, view: train_view.TrainView, photos: list[Path]
) -> None:
    double = photos[0].with_name("double.png")
    shutil.copy(photos[1], double)
    shown = train.show_photos(view, context, form(view, [photos[1], double], subject="", resolution=512))
    tiles, notes = shown[view.photos], shown[view.notes]
    assert [tile["warnings"][-1] for tile in tiles["photos"]] == ["small", "like another one"]
    assert "512 px or more are better" in notes


def test_another_base_moves_the_settings_but_not_what_was_typed(
    context: AppContext, view: train_view.TrainView
) -> None:
    classic = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    chosen: dict[Any, Any] = {view.chosen: view.chosen.value}
    radios: dict[Any, Any] = {radio: radio.value for radio in view.presets.values()}
    changed = train.choose(view, context, form(view, [], base=classic, rank=7, subject="car") | chosen | radios)
    assert changed[view.settings["resolution"]] == 512
    assert changed[view.chosen][0] == classic
    assert view.settings["rank"] not in changed
    assert view.settings["subject"] not in changed


@pytest.mark.parametrize(
    ("subject", "base", "is_warned"),
    [
        ("backpack", "pocket", False),
        ("Toy Robot", "", False),
        ("cartoon", "pocket", True),
        ("car<toons", "pocket", False),
        ("cartoon", "stable-diffusion-v1-5/stable-diffusion-v1-5", False),
    ],
)
def test_a_word_says_what_it_will_be_and_whether_the_model_knows_it(
    context: AppContext, view: train_view.TrainView, subject: str, base: str, is_warned: bool
) -> None:
    (said,) = train.explain_word(view, form(view, [], subject=subject, base=base)).values()
    assert f'<span class="chip">zwx {html.escape(subject)}</span>' in said
    assert ("does not know" in said) is is_warned
    assert train.explain_word(view, form(view, [], subject=" ")) == {view.meaning: ""}


def test_each_base_model_stands_once_in_the_list(view: train_view.TrainView) -> None:
    base = view.settings["base"]
    assert isinstance(base, gr.Dropdown)
    names = [name for name, _ in base.choices]
    assert len(names) == len(set(names)) > 3


def test_each_preset_says_what_it_does_and_dreambooth_trains_without_apt(
    context: AppContext, view: train_view.TrainView
) -> None:
    assert all(radio.info for radio in view.presets.values())
    chosen: dict[Any, Any] = {view.chosen: view.chosen.value}
    radios: dict[Any, Any] = {radio: radio.value for radio in view.presets.values()}
    radios[view.presets["regularization"]] = "dreambooth"
    changed = train.choose(view, context, form(view, [], subject="car") | chosen | radios)
    assert "without APT" in changed[view.presets["regularization"]].info
    names = ("augmentation", "stabilization", "alignment", "weighting", "prior_preservation")
    assert [changed[view.settings[name]] for name in names] == [0, 0, 0, False, True]


def test_an_example_brings_photos_and_word(view: train_view.TrainView, photo_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(photo_dir, tmp_path / "discs")
    (tmp_path / "examples.json").write_text(
        '[{"key": "disc", "folder": "discs", "subject": "disc", "title": "Disc", "credit": "By A & B.", "licence": "CC0"}]'
    )
    example = load_examples(tmp_path)["disc"]
    values = train.take_example(view, example)
    assert (len(values[view.photos]["photos"]), values[view.settings["subject"]]) == (4, "disc")
    assert "<li>Disc: By A &amp; B. CC0</li>" in credits_of([example])
    assert load_examples(tmp_path / "nowhere") == {}


def test_re_framing_is_shown_on_ones_own_photos_and_only_where_it_is_on(
    context: AppContext, view: train_view.TrainView, photos: list[Path]
) -> None:
    values = form(view, photos, subject="car")
    shown = train.show_photos(view, context, values)[view.warps]
    assert shown.count("<img") == 4
    assert train.show_photos(view, context, {**values, view.settings["augmentation"]: 0})[view.warps] == ""
    strong = train.show_photos(view, context, {**values, view.settings["max_zoom"]: 2.0})[view.warps]
    assert not set(re.findall(r'src="([^"]+)"', shown)) & set(re.findall(r'src="([^"]+)"', strong))
    assert draw_warps([], TrainingConfig(subject="car"), context.uploads_dir) == ""


def test_a_re_framed_photo_is_smaller_turned_the_trainers_way_and_black_around() -> None:
    square = Image.new("RGB", (96, 96), "white")
    square.paste("red", (48, 0, 96, 96))
    small = warped(square, 3.0, 0.0)
    assert [small.getpixel(place) for place in ((48 - 20, 48), (40, 48), (60, 48))] == [
        (0, 0, 0),
        (255, 255, 255),
        (255, 0, 0),
    ]
    quarter = warped(square, 1.0, 90.0)  # counter-clockwise: what was right is up
    assert (quarter.getpixel((48, 20)), quarter.getpixel((48, 75))) == ((255, 0, 0), (255, 255, 255))


def test_a_run_trained_again_has_its_whole_photos_cut_and_captioned_as_before(
    context: AppContext, view: train_view.TrainView, photos: list[Path]
) -> None:
    wide = photos[0].with_name("wide.png")
    Image.new("RGB", (300, 100), "gray").save(wide)
    value = tiles_of([wide, photos[0]])
    value["photos"][0] |= {"box": [0.25, 0.0, 0.5], "caption": "a wide {subject}"}
    found = read_tiles(value, [context.uploads_dir])
    run = context.store.create(TrainingConfig(subject="car"), lambda folder: found.save(folder, 64))
    first, second = train.fill_in(view, context, run)[view.photos]["photos"]
    assert (first["box"], first["caption"], second["caption"]) == ([0.25, 0.0, 0.5], "a wide {subject}", "")
    with Image.open(first["path"]) as whole:
        assert whole.size == (300, 100)
    (run.path / "photos" / "originals" / "01.jpg").unlink()  # as a run of an earlier version
    assert [Path(tile["path"]).name for tile in train.fill_in(view, context, run)[view.photos]["photos"]] == [
        "01.png",
        "02.png",
    ]


def test_without_a_gpu_the_time_of_a_large_model_is_told_before_the_click(
    context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    config = TrainingConfig(subject="car", base=base, steps=600, resolution=512, batch_size=1)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("apt_engine.jobs.estimate.has_gpu", lambda: False)
    said = describe(context, config, 5)
    assert "about <b>30 min</b> without a GPU" in said
    monkeypatch.setattr("apt_engine.jobs.estimate.has_gpu", lambda: True)
    assert "without a GPU" not in describe(context, config, 5)
    assert "about <b>30 min</b> without a GPU" in describe(context, config.replace(device="cpu"), 5)
