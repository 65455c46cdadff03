"""Whether a text that a visitor reads was forgotten: in a language that marks whatever is said, all else stands out."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import gradio as gr
import pytest

from tests.pages import checked, ended, new_run
from ui import words
from ui.context import ASSETS_DIR, AppContext
from ui.layout import build, show_status
from ui.tabs import runs, watch

BEGIN, END = "\u27e6", "\u27e7"
WORD = re.compile(r"[^\W\d_]{2,}")
SHOWN = ("label", "info", "placeholder", "words", "note", "notes", "problem", "problems", "warnings")
ATTRIBUTES = ("aria-label", "title", "alt", "placeholder")
# Names, what is written the same in each language, and what is typed as it stands.
NAMES = re.compile(
    r"APT Studio|100, 200, kept|LoRA|CLIP|DINOv2|Pocket|CSV|\b(RS|AA|px|[KMG]B)\b|\.\w+\b|https?://\S+|<[^>]+>|\{\w+\}"
    r"|(?i:\ba (photo|pencil|red) .*)"
)
CREDITS = re.compile(r'(<details class="credits">.*?)<ul>.*?</ul>', re.DOTALL)  # as their authors wish them
UNSAID = re.compile(r'"([A-Z][a-z]+(?: [a-z]+)+[^"]*)"')


class Page(dict[str, Any]):
    """A language that has every sentence."""

    def get(self, key: str, default: Any = None) -> Any:
        return Said(f"{BEGIN}{key}{END}")

    def __contains__(self, key: object) -> bool:
        return True

    def __getitem__(self, key: str) -> Any:
        return self.get(key)


class Said(str):
    """A marked sentence, of one and of many."""

    __slots__ = ()

    def __getitem__(self, key: Any) -> str:
        return str(self) if isinstance(key, str) else super().__getitem__(key)


class Text(HTMLParser):
    """What a reader meets outside the marks."""

    def __init__(self) -> None:
        super().__init__()
        self.depth, self.unmarked, self.hidden = 0, list[str](), 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hidden += tag in ("code", "style", "script", "datalist")
        self.unmarked += [left for name, value in attrs if name in ATTRIBUTES for left in unmarked(value or "")]

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= tag in ("code", "style", "script", "datalist")

    def handle_data(self, data: str) -> None:
        for piece in re.split(f"([{BEGIN}{END}])", data):
            self.depth += (piece == BEGIN) - (piece == END)
            if not self.depth and not self.hidden and WORD.search(NAMES.sub("", piece)):
                self.unmarked.append(piece.strip())


def unmarked(text: str) -> list[str]:
    """Texts with words in them that nobody said; of HTML what is shown, and what is read aloud."""
    reader = Text()
    reader.feed(CREDITS.sub(r"\1", text))
    reader.close()
    return reader.unmarked


def shown_in(value: Any, key: str = "") -> Iterator[str]:
    """What is shown of a component's properties, or of data that a script draws."""
    if isinstance(value, str):
        if key in SHOWN or "<" in value:
            yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from shown_in(inner, str(name))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from shown_in(inner, key)


@pytest.fixture
def marking(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whatever is said or told is marked."""
    monkeypatch.setattr(words, "_words", lambda tag: words.Words(False, Page(), {}, ()))
    monkeypatch.setattr(words, "_translated", lambda tag, sentence: f"{BEGIN}{sentence}{END}")
    with words.speaking("xx"):
        yield


@pytest.mark.usefixtures("marking")
def test_all_that_the_page_shows_at_first_is_said(context: AppContext) -> None:
    with gr.Blocks(analytics_enabled=False) as page:
        build(context)
    skipped = ("js_on_load", "html_template", "css_template", "elem_id", "elem_classes")
    found = []
    for component in page.get_config_file()["components"]:
        properties = {name: value for name, value in component["props"].items() if name not in skipped}
        found += [left for text in shown_in(properties) for left in unmarked(text)]
    assert found == []
    labels = [
        component["props"].get("label") or component["props"].get("value")
        for component in page.get_config_file()["components"]
        if component["type"] in ("button", "tabitem", "accordion")
    ]
    assert [label for label in labels if label and BEGIN not in str(label)] == []


@pytest.mark.usefixtures("marking")
def test_all_that_is_shown_of_a_run_is_said(context: AppContext) -> None:
    ended(checked(new_run(context), kept_step=4), "Done.")
    with gr.Blocks(analytics_enabled=False):
        view = build(context)
    shown = watch.open_run(view.watch, context, context.store.list()[0].id)
    values = [*shown.values(), runs.rows(context), show_status(context.engine.status)]
    found = [left for value in values for text in shown_in(value) for left in unmarked(text)]
    buttons = [str(value.constructor_args.get("value") or BEGIN) for value in values if isinstance(value, gr.Button)]
    assert found == []
    assert [text for text in buttons if BEGIN not in text] == []


def test_no_script_has_a_sentence_that_it_does_not_say() -> None:
    found = []
    for path in sorted(ASSETS_DIR.glob("*.js")):
        lines = [line for line in path.read_text("utf-8").splitlines() if not line.lstrip().startswith("//")]
        said = re.sub(r'\bsay\("(?:[^"\\]|\\.)+"', "", "\n".join(lines))
        found += [f"{path.name}: {text}" for text in UNSAID.findall(said)]
    assert found == []


def test_a_text_that_nobody_said_is_found() -> None:
    assert unmarked(f"<p>{BEGIN}Step <b>4</b> of ten{END} is kept</p>") == ["is kept"]
    assert unmarked(f'<img alt="a sample"><b>64 px</b> {BEGIN}fine{END}') == ["a sample"]
    assert unmarked(f"<p>{BEGIN}outer {BEGIN}inner{END} outer{END}</p>") == []
