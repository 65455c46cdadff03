"""Caption files beside photos, as other trainers write them and as editors save them."""

import shutil
from pathlib import Path

import pytest

from apt_engine.errors import PhotoError
from apt_engine.photos.captions import read_caption
from apt_engine.photos.photo_set import photos_in, read_photos

WORDS = "a photo of a {subject} at the café"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
def test_each_usual_encoding_is_read(encoding: str) -> None:
    assert read_caption(f"{WORDS}\r\n".encode(encoding), "cat.txt") == WORDS


def test_lines_are_joined_and_an_empty_file_is_no_caption() -> None:
    assert read_caption(b"a {subject},\n  on a table\n", "a.txt") == "a {subject}, on a table"
    assert read_caption(b"", "a.txt") == ""
    assert read_caption("{subject} 写真".encode("utf-16"), "a.txt") == "{subject} 写真"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\x89PNG\r\n\x1a\n\x01\x02", "Caption file cat.txt holds no plain text; save it as UTF-8."),
        (b"\xff\xfea", "holds no plain text"),
        (b"a" * 301, "has 301 characters; keep it within 300"),
    ],
)
def test_what_is_no_caption_is_one_sentence(content: bytes, sentence: str) -> None:
    with pytest.raises(PhotoError, match=sentence):
        read_caption(content, "cat.txt")


def test_a_folder_of_photos_brings_its_captions(photo_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(photo_dir, tmp_path / "photos")
    first, second, *_ = photos_in(folder)
    first.with_suffix(".txt").write_bytes(WORDS.encode("latin-1"))
    second.with_suffix(".txt").write_bytes(b"\x00\x01\x02\x03")
    found = read_photos(photos_in(folder))
    assert {photo.name: photo.caption for photo in found.photos if photo.caption} == {first.name: WORDS}
    assert len(found.problems) == 1
    assert second.with_suffix(".txt").name in found.problems[0]
