"""No language lacks a sentence, says one that nobody says any more, or loses what stands in it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tools.words import engine_sentences, page_sentences, read, updated
from ui.scripted import SAID
from ui.words import ENGLISH, LANGUAGES

OTHERS = [tag for tag in LANGUAGES if tag != ENGLISH]
ASSETS = Path(__file__).resolve().parents[2] / "assets"


def entries(tag: str) -> list[tuple[str, str, dict[str, Any]]]:
    """English, translation and entry of each; both forms of a sentence that counts."""
    found = []
    for part in read(tag).values():
        for english, entry in part.items():
            words = entry["words"]
            found += [(english, form, entry) for form in (words.values() if isinstance(words, dict) else [words])]
    return found


@pytest.mark.parametrize("tag", OTHERS)
def test_no_sentence_is_missing_and_none_is_left_over(tag: str) -> None:
    language = read(tag)
    assert language == updated(language), "run: python -m tools.words --write"
    assert [english for english, words, _ in entries(tag) if not words] == []


@pytest.mark.parametrize("tag", OTHERS)
def test_fields_and_markup_are_those_of_the_english_sentence(tag: str) -> None:
    fields, markup = re.compile(r"\{(\w+)[^{}]*\}"), re.compile(r"</?\w+>|[<>&\"]")
    for english, words, entry in entries(tag):
        lost = set(fields.findall(english)) - set(fields.findall(words))
        assert lost == set() or (lost == {"number"} and words == entry["words"]["one"]), words
        assert set(fields.findall(words)) <= set(fields.findall(english)), words
        assert set(markup.findall(words)) <= set(markup.findall(english)), words
        assert len(re.findall(r"</?\w+>", words)) == len(re.findall(r"</?\w+>", english)), words


@pytest.mark.parametrize("tag", OTHERS)
def test_each_says_whether_a_person_has_read_it(tag: str) -> None:
    assert all(isinstance(entry["machine"], bool) for *_, entry in entries(tag))


def test_what_a_sentence_is_made_from_is_found_in_the_code() -> None:
    engine, page = engine_sentences(), page_sentences()
    assert "Photo {name} is a little blurred." in engine
    assert {"Only one photo; 3 to 10 work better.", "Only {count} photos; 3 to 10 work better."} <= set(engine)
    # A constant, written out.
    assert any(sentence.endswith("choose a plain text-to-image model.") for sentence in engine)
    assert page["{number} runs deleted."] == "{number} run deleted."
    assert "Keep the seed" in page and "Previous" in page  # of Python, of a script


@pytest.mark.parametrize("script", sorted(path.name for path in ASSETS.glob("*.js") if path.name != "words.js"))
def test_scripts_say_whole_sentences_only(script: str) -> None:
    text = (ASSETS / script).read_text(encoding="utf-8")
    assert len(re.findall(r"\bsay\(", text)) == len(SAID.findall(text))


@pytest.mark.parametrize("tag", OTHERS)
def test_a_language_file_has_an_entry_a_line_and_no_name_twice(tag: str) -> None:
    text = (Path("ui/languages") / f"{tag}.json").resolve().read_text(encoding="utf-8")
    language = json.loads(text)
    assert text.count("\n") == sum(map(len, language.values())) + 6
