"""Captions by a captioner of the hub's cache, on the Train tab, without a browser; the last with a tiny one in the engine."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from huggingface_hub import constants

from apt_engine.errors import EngineError
from apt_engine.jobs.engine import SampleProgress
from apt_engine.photos.photo_set import PhotoSet
from tests.captioners import NAME, save_blip
from ui import train_view
from ui.captioning import describe_photos, take_captions
from ui.context import AppContext, Values
from ui.photo_tiles import read_tiles, tiles_of


@pytest.fixture
def view(context: AppContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> train_view.TrainView:
    """The tab where a captioner lies in the cache."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))  # of the engine's process
    save_blip(tmp_path / "cache")
    with gr.Blocks(analytics_enabled=False):
        return train_view.build(context)


def shown(view: train_view.TrainView, photos: list[Path], subject: str = "bear") -> Values:
    return {
        view.captioning.captioner: view.captioning.captioner.value,
        view.settings["subject"]: subject,
        view.photos: tiles_of(photos),
    }


def described(view: train_view.TrainView, context: AppContext, values: Values) -> list[Values]:
    subject, folder = view.settings["subject"], context.uploads_dir

    def read(tiles: Any) -> PhotoSet:
        return read_tiles(tiles, [folder])

    return list(describe_photos(view.captioning, context, view.photos, subject, read, values))


def taken(view: train_view.TrainView, written: Values, photos: Any) -> Values:
    """What the page does with captions once they are written, the photos being these by then."""
    return take_captions(view.captioning, view.photos, {**written, view.photos: photos})


def captions(shown: Values, view: train_view.TrainView) -> list[str]:
    return [tile["caption"] for tile in shown[view.photos]["photos"]]


def is_shown(view: train_view.TrainView) -> bool:
    row: Any = view.captioning.describe.parent
    return row.visible


def test_without_a_captioner_in_the_cache_there_is_no_such_choice(
    context: AppContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, view: train_view.TrainView
) -> None:
    assert view.captioning.captioner.choices == [(NAME, NAME)]
    assert is_shown(view)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "nothing"))
    with gr.Blocks(analytics_enabled=False):
        bare = train_view.build(context)
    assert not is_shown(bare)


def test_empty_captions_are_filled_in_and_written_ones_stay(
    context: AppContext, view: train_view.TrainView, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def describe(captioner: str, paths: Sequence[Path]) -> Iterator[SampleProgress]:
        asked.append((captioner, len(paths), all(path.is_file() for path in paths)))
        yield SampleProgress("Describing photo 1 of 3", 0.0, ())
        yield SampleProgress("Done", 1.0, (), captions=("a brown bear on grass", "a cat", "two bears"))

    monkeypatch.setattr(context.engine, "describe", describe)
    values = shown(view, photos)
    values[view.photos]["photos"][0]["caption"] = "mine, a {subject}"
    *_, written = described(view, context, values)
    last = taken(view, written, values[view.photos])
    assert captions(last, view) == [
        "mine, a {subject}",
        "a photo of a {subject} on grass",
        "a photo of a {subject}, a cat",
        "a photo of two {subject}",
    ]
    assert "3 captions are written" in last[view.captioning.said]
    assert asked == [(NAME, 3, True)]
    assert list(context.uploads_dir.glob("described-*")) == []
    assert last[view.captioning.written] == {}
    (only,) = described(view, context, {**values, view.photos: last[view.photos]})
    assert "There is no photo without a caption" in only[view.captioning.said]


def test_photos_may_change_while_captions_are_written(
    context: AppContext, view: train_view.TrainView, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def describe(captioner: str, paths: Sequence[Path]) -> Iterator[SampleProgress]:
        yield SampleProgress("Done", 1.0, (), captions=("a bear on grass", "a bear at home", "a bear in bed", "a bear"))

    monkeypatch.setattr(context.engine, "describe", describe)
    *_, written = described(view, context, shown(view, photos))
    new, typed = photos[0].with_name("new.png"), "typed meanwhile, a {subject}"
    now = {**tiles_of([new, *photos[2:0:-1]]), "round": 7}  # one added, two taken out, the others the other way round
    now["photos"][1]["caption"] = typed
    last = taken(view, written, now)
    assert captions(last, view) == ["", typed, "a photo of a {subject} at home"]
    assert last[view.photos]["round"] == 7
    assert "1 caption is written" in last[view.captioning.said]


def test_a_captioner_that_cannot_be_used_is_a_sentence_and_leaves_the_captions(
    context: AppContext, view: train_view.TrainView, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def describe(captioner: str, paths: Sequence[Path]) -> Iterator[SampleProgress]:
        yield SampleProgress("Starting the engine", None, ())
        raise EngineError(f"The captioner {captioner} in the hub's cache is damaged; delete it there.")

    monkeypatch.setattr(context.engine, "describe", describe)
    *_, last = described(view, context, shown(view, photos))
    assert "is damaged; delete it there." in last[view.captioning.said]
    assert view.captioning.written not in last
    assert last[view.captioning.describe].interactive is True
    assert list(context.uploads_dir.glob("described-*")) == []


def test_the_engine_describes_photos_with_a_captioner_of_the_cache(
    context: AppContext, view: train_view.TrainView, photos: list[Path]
) -> None:
    *_, last = described(view, context, shown(view, photos[:2]))
    said = captions(taken(view, last, tiles_of(photos[:2])), view)
    assert len(said) == 2
    assert all("{subject}" in caption for caption in said)
    assert context.engine.status.job == "idle"
