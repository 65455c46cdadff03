"""The page in other languages: which one a visitor gets, and what becomes of sentences."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest
from gradio.context import LocalContext
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from ui import words
from ui.blocks import SpokenBlocks
from ui.serving.languages import Languages
from ui.words import count, language, language_of, number, say, speaking, told

SPOKEN = {
    "page": {
        "Train": {"words": "Trainieren", "machine": True},
        "step {step:,}": {"words": "Schritt {step:,}", "machine": True},
        "{number:,} pictures": {"words": {"one": "{number:,} Bild", "other": "{number:,} Bilder"}, "machine": True},
    },
    "engine": {
        "Learning the photos.": {"words": "Lernt die Fotos.", "machine": True},
        "The memory ran out while {doing}; {remedy}.": {
            "words": "Kein Speicher mehr: {doing}; {remedy}.",
            "machine": True,
        },
        "photos were encoded": {"words": "Fotos kodiert wurden", "machine": True},
        "{path} is damaged: {error}; get the model again.": {
            "words": "{path} geht nicht auf: {error}.",
            "machine": True,
        },
        "{size} of {whole} GB are there": {"words": "{size} von {whole} GB sind da", "machine": True},
        "{seconds} min": {"words": "{seconds} Min.", "machine": True},
    },
}


@pytest.fixture
def german(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A small German, of this file alone."""
    (tmp_path / "de.json").write_text(json.dumps(SPOKEN), encoding="utf-8")
    monkeypatch.setattr(words, "FOLDER", tmp_path)
    monkeypatch.setattr(words, "LANGUAGES", {"en": "English", "de": "Deutsch", "zh-CN": "中文"})
    words._words.cache_clear()
    words._translated.cache_clear()
    with speaking("de"):
        yield
    words._words.cache_clear()
    words._translated.cache_clear()


@pytest.mark.parametrize(
    ("headers", "tag"),
    [
        ({}, "en"),
        ({"accept-language": "de-AT,de;q=0.9,en;q=0.8"}, "de"),
        ({"accept-language": "fr-FR,fr;q=0.9,zh-Hans;q=0.5,en;q=0.3"}, "zh-CN"),
        ({"accept-language": "en-GB,de;q=0.9"}, "en"),
        ({"accept-language": "de;q=0,en"}, "en"),
        ({"accept-language": "de;q=x,;;,"}, "en"),
        ({"accept-language": "de", "cookie": "a=b; apt-language=zh-CN"}, "zh-CN"),
        ({"accept-language": "de", "cookie": "apt-language=xx"}, "de"),
    ],
)
def test_a_choice_comes_before_the_browsers_languages(german: None, headers: dict[str, str], tag: str) -> None:
    assert language_of(headers) == tag


def test_a_sentence_has_its_values_and_numbers_as_the_language_writes_them(german: None) -> None:
    assert say("Train") == "Trainieren"
    assert say("step {step:,}", step=1200) == "Schritt 1.200"
    assert say("never translated {value:.2f}", value=0.5) == "never translated 0,50"
    assert number(1234.5, ",.1f") == "1.234,5"
    with speaking("en"):
        assert say("step {step:,}", step=1200) == "step 1,200"
        assert number(1234.5, ",.1f") == "1,234.5"


def test_one_is_counted_apart_from_many(german: None) -> None:
    forms = [count("{number:,} picture", "{number:,} pictures", many) for many in (0, 1, 2000)]
    assert forms == ["0 Bilder", "1 Bild", "2.000 Bilder"]


@pytest.mark.parametrize(
    ("english", "german_words"),
    [
        ("Learning the photos.", "Lernt die Fotos."),
        (
            "The memory ran out while photos were encoded; lower it.",
            "Kein Speicher mehr: Fotos kodiert wurden; lower it.",
        ),
        ("/a/b: c is damaged: 1,234; get the model again.", "/a/b: c geht nicht auf: 1.234."),
        (
            "x is damaged: 0.5 of 1,000 GB are there; get the model again.",
            "x geht nicht auf: 0,5 von 1.000 GB sind da.",
        ),
        (
            "Learning the photos. Something new. Learning the photos.",
            "Lernt die Fotos. Something new. Lernt die Fotos.",
        ),
        ("3 min", "3 Min."),
        ("1,024.5 MB", "1.024,5 MB"),
        ("ten min", "ten min"),
        ("nobody knows this", "nobody knows this"),
    ],
)
def test_a_sentence_of_the_engine_is_found_by_its_template(german: None, english: str, german_words: str) -> None:
    assert told(english) == german_words
    with speaking("en"):
        assert told(english) == english


def test_two_visitors_have_two_languages_at_once(german: None) -> None:
    with speaking("en"):
        assert say("Train") == "Train"
        with speaking("de"):
            assert say("Train") == "Trainieren"
        assert say("Train") == "Train"


def page_in(request: Request) -> HTMLResponse:
    return HTMLResponse(f'<!doctype html>\n<html\n\tlang="en"\n>\n<head></head>{language()}</html>')


@pytest.fixture
def browser() -> TestClient:
    """Of a page that says which language it is asked in."""
    middleware = [Middleware(Languages, is_framed=False)]
    return TestClient(Starlette(routes=[Route("/", page_in)], middleware=middleware))


def test_the_page_says_its_language_and_keeps_the_one_that_is_chosen(browser: TestClient) -> None:
    assert 'lang="en"' in browser.get("/", headers={"accept-language": "fr"}).text
    answer = browser.get("/", headers={"accept-language": "ja"})
    assert 'lang="ja"' in answer.text and answer.text.endswith("ja</html>") and "set-cookie" not in answer.headers
    assert browser.get("/?lang=de-AT", headers={"accept-language": "ja"}).text.endswith("de</html>")
    assert browser.get("/", headers={"accept-language": "ja"}).text.endswith("de</html>")  # of the cookie
    assert browser.get("/?lang=x%22%3E", headers={"accept-language": "ja"}).text.endswith("de</html>")


def test_each_language_has_the_same_components_with_words_of_its_own() -> None:
    def make(page: gr.Blocks) -> None:
        gr.Button(say("Train"))

    blocks = SpokenBlocks(make, analytics_enabled=False)
    with speaking("de"):
        german = blocks.config["components"]
    english = blocks.config["components"]
    assert [one["id"] for one in german] == [one["id"] for one in english]
    assert [one["props"]["value"] for one in (*english, *german)] == ["Train", "Trainieren"]


def test_what_a_handler_answers_meanwhile_is_no_part_of_another_languages_page() -> None:
    def make(page: gr.Blocks) -> None:
        if language() != "en":
            handler = threading.Thread(target=gr.Row, kwargs={"visible": False})
            handler.start()
            handler.join()
        gr.Button(say("Train"))

    blocks = SpokenBlocks(make, analytics_enabled=False)
    with speaking("de"):
        assert [one["props"]["value"] for one in blocks.config["components"]] == ["Trainieren"]


def test_a_guests_event_is_answered_in_the_guests_language() -> None:
    """Whatever is spoken around it: events wait in a queue that belongs to nobody."""
    with speaking("de"):
        token = LocalContext.request.set(gr.Request(headers={"accept-language": "zh-CN"}))
        try:
            assert say("Train") == "训练"
        finally:
            LocalContext.request.reset(token)
        assert say("Train") == "Trainieren"
