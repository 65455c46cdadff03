"""Example subjects: what the page lists is there, is credited in the README, and is what the tool makes."""

import json
from pathlib import Path

import pytest
from PIL import Image

from apt_engine.photos import photos_in, read_photos
from tools.pocket.vocabulary import OBJECTS

EXAMPLES = Path(__file__).resolve().parent.parent / "assets" / "examples"
ENTRIES: list[dict[str, str]] = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
MAKERS = {"purple_robot": "Google", "backpack_dog": "Yuanzhen Li", "robot_toy": "Varun Jampani"}


def test_every_folder_is_listed_once_and_the_drawn_subject_comes_first() -> None:
    assert [entry["key"] for entry in ENTRIES] == list(MAKERS)
    assert sorted(entry["folder"] for entry in ENTRIES) == sorted(p.name for p in EXAMPLES.iterdir() if p.is_dir())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["key"])
def test_the_photos_are_good(entry: dict[str, str]) -> None:
    found = read_photos(photos_in(EXAMPLES / entry["folder"]))
    assert 3 <= len(found.photos) <= 10
    assert (found.problems, found.warnings) == ((), ())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["key"])
def test_maker_and_licence_stand_in_the_readme_beside_the_folder(entry: dict[str, str]) -> None:
    lines = (EXAMPLES / "README.md").read_text(encoding="utf-8").splitlines()
    (row,) = [line for line in lines if line.startswith(f"| `{entry['folder']}` |")]
    assert MAKERS[entry["key"]] in entry["credit"]
    assert MAKERS[entry["key"]] in row
    assert entry["licence"] in row.replace("CC-BY 4.0", "CC-BY-4.0")


def test_the_pocket_model_knows_the_class_but_not_the_drawn_instance() -> None:
    examples = pytest.importorskip("tools.examples", reason="resvg-py is not installed", exc_type=ImportError)
    assert ENTRIES[0]["key"] == examples.DRAWN_SUBJECT
    assert ENTRIES[0]["subject"] in OBJECTS
    assert f"noto-v1:{examples.ICON}" not in {icon for icons in OBJECTS.values() for icon in icons}
    assert all(path.stat().st_size < 100_000 for path in photos_in(EXAMPLES / examples.DRAWN_SUBJECT))


def test_photos_are_reduced_and_a_folder_without_any_is_refused(tmp_path: Path) -> None:
    examples = pytest.importorskip("tools.examples", reason="resvg-py is not installed", exc_type=ImportError)
    source, target = tmp_path / "source", tmp_path / "target"
    with pytest.raises(FileNotFoundError, match="no .jpg photos"):
        examples.reduce_photos(source, target)
    assert not target.exists()
    source.mkdir()
    Image.new("RGB", (600, 600), "red").save(source / "b.jpg")
    examples.reduce_photos(source, target)
    (made,) = target.iterdir()
    with Image.open(made) as photo:
        assert (made.name, photo.size) == ("01.jpg", (512, 512))
