"""Folders of other programs, pointed at on the Train tab."""

import shutil
from pathlib import Path
from typing import Any

import gradio as gr

from apt_engine.runs.model_folders import remembered
from ui import model_folders, train_view
from ui.context import AppContext
from ui.train_panels import describe


def look(view: train_view.TrainView, context: AppContext, text: str) -> tuple[str, Any]:
    base = view.settings["base"]
    changes = model_folders.look(view.folders, context, base, {view.folders.folders: text, base: "pocket"})
    return changes[view.folders.note], changes.get(base)


def test_a_folder_pointed_at_fills_the_list_of_bases_now_and_at_the_next_start(
    context: AppContext, view: train_view.TrainView, toy_base: Path, tmp_path: Path
) -> None:
    place = tmp_path / "ComfyUI" / "models" / "diffusers" / "mine"
    shutil.copytree(toy_base, place, ignore=shutil.ignore_patterns("*.safetensors"))
    (place.parent / "other.safetensors").write_bytes(b"no model")
    before = model_folders.offered(context)
    note, dropdown = look(view, context, f"{tmp_path / 'ComfyUI'}\n")
    assert "1 model found. 1 other model there cannot be trained on." in note
    assert isinstance(dropdown, gr.Dropdown)
    assert dropdown.value == "pocket"
    assert model_folders.offered(context) == [*before, ("mine (folder)", str(place))]
    with gr.Blocks(analytics_enabled=False):
        again = train_view.build(context)
    assert again.folders.folders.value == str(tmp_path / "ComfyUI")
    assert ("mine (folder)", str(place)) in again.settings["base"].choices  # pyright: ignore[reportAttributeAccessIssue]


def test_a_folder_that_is_not_there_is_said_and_nothing_is_forgotten(
    context: AppContext, view: train_view.TrainView, tmp_path: Path
) -> None:
    look(view, context, str(tmp_path))
    note, dropdown = look(view, context, str(tmp_path / "gone"))
    assert "gone is not there" in note
    assert dropdown is None
    assert remembered(context.store.data_dir) == [tmp_path]


def test_what_a_card_must_have_and_a_distilled_base_are_told_before_the_start(context: AppContext) -> None:
    from apt_engine.bases.profiles import build_config

    config = build_config(context.presets, [], {"subject": "car", "base": "stabilityai/stable-diffusion-xl-base-1.0"})
    assert "Fits a graphics card of 8 GB; with base_precision 8bit, which" in describe(context, config, 5)
    turbo = describe(context, config.replace(base="stabilityai/sdxl-turbo"), 5)
    assert "distilled to draw in a few steps" in turbo
    assert "graphics card" not in describe(context, config.replace(base="pocket", device="cpu"), 5)
