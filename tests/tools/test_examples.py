"""Example subjects: what the page lists is there, is credited in the README, and is known to the model by class alone."""

import json
from pathlib import Path

import pytest

from apt_engine.photos.photo_set import photos_in, read_photos
from tools.pocket.subjects import SUBJECTS
from tools.pocket.vocabulary import OBJECTS, SOLID

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "assets" / "examples"
ENTRIES: list[dict[str, str]] = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
SUBJECT_ROWS: list[dict[str, str]] = json.loads(
    (ROOT / "benchmarks" / "subjects" / "subjects.json").read_text(encoding="utf-8")
)


def test_every_folder_is_listed_once_and_those_that_suit_the_pocket_model_come_first() -> None:
    shapes = [subject.key for subject in SUBJECTS if subject.role == "example"]
    assert [entry["key"] for entry in ENTRIES][: len(shapes)] == shapes
    assert sorted(entry["folder"] for entry in ENTRIES) == sorted(p.name for p in EXAMPLES.iterdir() if p.is_dir())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["key"])
def test_the_photos_are_good(entry: dict[str, str]) -> None:
    found = read_photos(photos_in(EXAMPLES / entry["folder"]))
    assert 3 <= len(found.photos) <= 10
    assert found.problems == ()
    assert min(min(photo.image.size) for photo in found.photos) == 512


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["key"])
def test_maker_and_licence_stand_in_the_readme_beside_the_folder(entry: dict[str, str]) -> None:
    lines = (EXAMPLES / "README.md").read_text(encoding="utf-8").splitlines()
    (row,) = [line for line in lines if line.startswith(f"| `{entry['folder']}` |")]
    maker = next((row["creator"] for row in SUBJECT_ROWS if row["key"] == entry["key"]), "")
    assert maker in entry["credit"]
    assert maker in row
    assert entry["licence"] in row.replace("CC-BY 4.0", "CC-BY-4.0")


def test_subjects_have_their_views_and_the_model_knows_their_class_but_not_them() -> None:
    trained_on = {solid for solids in SOLID.values() for solid in solids}
    roles = [row["role"] for row in SUBJECT_ROWS]
    assert [roles.count(role) for role in ("example", "evidence", "tuning")] == [4, 12, 6]
    for row in SUBJECT_ROWS:
        assert row["name"] in OBJECTS
        assert row["model"] not in trained_on
        assert [len(photos_in(ROOT / row[kind])) for kind in ("training", "held_out")] == [5, 3], row["key"]


def test_every_source_of_pictures_stands_in_the_attribution() -> None:
    text = (ROOT / "assets" / "pocket" / "ATTRIBUTION.md").read_text(encoding="utf-8")
    packs = {icon.partition(":")[0] for icons in OBJECTS.values() for icon in icons} & {
        "fluent-emoji",
        "noto",
        "noto-v1",
        "twemoji",
    }
    assert len(packs) == 4
    assert all(f"| `@iconify-json/{pack}` |" in text for pack in packs)
    shapes = {solid for solids in SOLID.values() for solid in solids} | {row["model"] for row in SUBJECT_ROWS}
    assert all(f"| `{shape}` |" in text for shape in shapes)
    for licence in ("MIT", "Apache-2.0", "CC-BY-4.0", "CC-BY-3.0", "CC0-1.0"):
        assert licence in text
    assert "@pmndrs/assets" in text
