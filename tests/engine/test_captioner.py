"""Captions by a BLIP model, where one lies in the hub's cache: a tiny random network of the real class."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from apt_engine.bases.captioner import describe
from apt_engine.bases.captioners import caption_from, captioners
from apt_engine.errors import BaseModelError
from tests.captioners import NAME, WORDS, save_blip


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def silent(message: str, fraction: float | None) -> None:
    """Nobody listens."""


def test_only_captioners_that_lie_whole_in_the_cache_are_offered(cache: Path) -> None:
    assert captioners() == []
    whole = save_blip(cache)
    (save_blip(cache, "me/half") / "model.safetensors").unlink()
    other = save_blip(cache, "me/clip") / "config.json"
    other.write_text(other.read_text().replace("BlipForConditionalGeneration", "CLIPModel"))
    (save_blip(cache, "me/torn") / "config.json").write_text("{")
    assert captioners() == [NAME]
    (whole / "vocab.txt").unlink()
    assert captioners() == []


def test_a_captioner_says_something_of_each_photo(cache: Path, photo_dir: Path) -> None:
    save_blip(cache)
    photos, told = sorted(photo_dir.iterdir()), list[tuple[str, float | None]]()
    said = list(describe(NAME, photos, lambda *what: told.append(what), device="cpu"))
    assert len(said) == len(photos)
    assert all(set(words.split()) <= {*WORDS} for words in said)
    assert any(said)
    assert told[0] == (f"Loading {NAME}", None)
    assert told[2] == (f"Describing photo 2 of {len(photos)}", 1 / len(photos))
    assert said == list(describe(NAME, photos, silent, device="cpu"))


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_damaged_captioner_is_one_sentence(cache: Path, photo_dir: Path, file: str) -> None:
    path = save_blip(cache) / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BaseModelError, match="The captioner Salesforce/\\S+ in the hub's cache is damaged; delete it"):
        next(describe(NAME, sorted(photo_dir.iterdir()), silent))
    path.unlink()
    with pytest.raises(BaseModelError, match="is not in the hub's cache any more"):
        next(describe(NAME, sorted(photo_dir.iterdir()), silent))


@pytest.mark.parametrize(
    ("words", "subject", "caption"),
    [
        ("a brown bear on grass", "teddy bear", "a photo of a {subject} on grass"),
        ("arafed teddy bear sitting on a floor", "teddy bear", "a photo of a {subject} sitting on a floor"),
        ("there is a dog and a bear on a bed", "bear", "a photo of a dog and a {subject} on a bed"),
        ("a man with bear", "bear", "a photo of a man with {subject}"),
        ("two bears in a park.", "bear", "a photo of two {subject} in a park"),
        ("a black and white photo of the red backpack", "backpack", "a black and white photo of a {subject}"),
        ("a stuffed animal on a table", "toy", "a photo of a {subject}, a stuffed animal on a table"),
        ("a cat (in a hat", "c(t", "a photo of a {subject}, a cat (in a hat"),
        ("a man", "", "a photo of a {subject}, a man"),
        ("", "toy", "a photo of a {subject}"),
    ],
)
def test_the_subject_stands_in_a_caption_for_the_thing(words: str, subject: str, caption: str) -> None:
    assert caption_from(words, subject) == caption
