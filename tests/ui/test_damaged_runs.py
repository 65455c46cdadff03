"""One run's trouble stays in its row: damaged folders beside a whole one, on the page and on the command line."""

import json
import os
import shutil
import socket
import zipfile
from collections.abc import Callable
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from apt_engine.cli import main as cli
from apt_engine.runs import library
from apt_engine.runs.run import Run
from benchmarks.hostile.folders import damages
from tests.pages import begun, new_run
from ui import models, pictures
from ui.context import AppContext
from ui.tabs import runs, watch

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes and links")
PLACES: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a link to nothing": lambda path: path.symlink_to("gone"),
    "a link to itself": lambda path: path.symlink_to(path.name),
    "a pipe": os.mkfifo,
    "a socket": lambda path: socket.socket(socket.AF_UNIX).bind(path.name),
}
CHEAP = {name: damage for name, damage in damages().items() if "50 MB" not in name and "ten thousand" not in name}


def whole_run(context: AppContext) -> Run:
    run = begun(new_run(context), steps=2)
    run.save_checkpoint(1, lambda folder: (folder / "lora.safetensors").touch())
    for folder in ("samples", "exports"):
        (run.path / folder).mkdir(exist_ok=True)
    library.rename(run, "whole")
    return run


def test_damaged_runs_spoil_neither_each_other_nor_a_whole_one(
    context: AppContext, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = whole_run(context)
    ids = []
    for number, damage in enumerate(CHEAP.values()):
        copy = whole.path.with_name(f"20200101-0000{number:02d}-damaged")
        shutil.copytree(whole.path, copy)
        damage(copy)
        ids.append(copy.name)
    shown = runs.rows(context)
    json.dumps(shown, ensure_ascii=False).encode()
    assert len(shown["runs"]) > len(CHEAP) / 2
    (row,) = (row for row in shown["runs"] if row["id"] == whole.id)
    assert row["drawable"] and "step 2 of 10" in row["state"]
    assert whole.id in [choice["id"] for choice in models.list_models(context)]
    with gr.Blocks(analytics_enabled=False):
        view = watch.build()
    for run_id in ids:
        watch.open_run(view, context, run_id)
    assert cli.main(["runs", "--data-dir", str(context.store.data_dir)]) == 0
    assert "step 2/10" in capsys.readouterr().out


@pytest.mark.parametrize("kind", PLACES)
def test_what_is_no_file_in_a_folder_that_is_listed_is_passed_over(
    kind: str, context: AppContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = whole_run(context)
    sheet = context.store.data_dir / "generated" / "20260101-000000"
    for folder in (context.loras_dir, sheet):
        folder.mkdir(parents=True, exist_ok=True)
    (context.loras_dir / "bear.safetensors").touch()
    Image.new("RGB", (8, 8)).save(sheet / "01-seed1.png")
    monkeypatch.chdir(whole.path)  # a socket's path may have 107 characters
    for folder, name in (
        (context.loras_dir, "odd.safetensors"),
        (sheet, "02-seed2.png"),
        (whole.path / "samples", "step-000002-01.png"),
        (whole.path / "exports", "odd.kohya.safetensors"),
        (whole.path / "checkpoints", "000002"),
        (whole.path / "photos", "09.png"),
        (context.store.runs_dir, "20200101-000000-odd"),
        (context.store.data_dir / "generated", "20260102-000000"),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        os.chdir(folder)
        PLACES[kind](Path(name))
    assert [choice["title"] for choice in models.list_models(context) if choice["mine"]] == ["bear"]
    assert [path.name for path in pictures.remembered(context)] == ["01-seed1.png"]
    assert [row["id"] for row in runs.rows(context)["runs"]] == [whole.id]
    assert [found.step for found in whole.checkpoints()] == [1]
    with gr.Blocks(analytics_enabled=False):
        view = watch.build()
    watch.open_run(view, context, whole.id)
    packed = library.pack_pictures(context.store, [], context.store.data_dir / "all.zip")
    assert zipfile.ZipFile(packed).namelist() == ["20260101-000000/01-seed1.png"]
    packed = library.pack(whole, context.store.data_dir / "run.zip", with_photos=True)
    assert not [name for name in zipfile.ZipFile(packed).namelist() if "odd" in name or "09.png" in name]


def test_a_file_whose_name_cannot_be_shown_hides_no_other(context: AppContext) -> None:
    whole = whole_run(context)
    sheet = context.store.data_dir / "generated" / "20260101-000000"
    inside = [whole.path / name for name in ("photos", "samples", "exports")]
    for folder in (context.loras_dir, sheet, sheet.with_name(os.fsdecode(b"2026\xff")), *inside):
        folder.mkdir(parents=True, exist_ok=True)
        for name in (b"\xff.png", b"0\xff.safetensors", b"0\x1b[2J.png"):
            (folder / os.fsdecode(name)).touch()
    library.rename(whole, "whole \ud800")
    for shown in (runs.rows(context), models.list_models(context), pictures.show_history(context)):
        json.dumps(shown, ensure_ascii=False).encode()
    assert pictures.remembered(context) == []
    assert [path.name for path in whole.photo_paths] == ["01.png"]
    packed = library.pack(whole, context.store.data_dir / "run.zip", with_photos=True)
    assert not [name for name in zipfile.ZipFile(packed).namelist() if not name.isprintable()]


def test_a_zip_holds_nothing_that_a_link_leads_to(context: AppContext, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.png").write_text("secret")
    run = whole_run(context)
    (run.path / "samples" / "a.png").symlink_to(secret / "key.png")
    (run.path / "exports").rmdir()
    (run.path / "exports").symlink_to(secret)
    packed = library.pack(run, tmp_path / "run.zip")
    assert b"secret" not in packed.read_bytes()
    assert not any("key" in name or "a.png" in name for name in zipfile.ZipFile(packed).namelist())
