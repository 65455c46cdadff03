"""What the page says, in the language of whoever looks at it.

English stands in the code. `languages/<tag>.json` says each sentence in another language, and whether a machine translated it.
`say` and `count` say sentences of the page. `told` says those of the engine, which speaks English alone: it finds the template
that a sentence was made from. So nothing of the engine knows of languages, and what an older run wrote is translated too.
"""

import json
import re
import string
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from gradio.context import LocalContext
from starlette.requests import cookie_parser

FOLDER = Path(__file__).parent / "languages"
LANGUAGES = {"en": "English", "de": "Deutsch", "ja": "日本語", "zh-CN": "简体中文"}
ENGLISH = "en"
COOKIE = "apt-language"
SWAPPED_COMMAS = {"de": str.maketrans(",.", ".,")}
WITHOUT_SPACES = ("ja", "zh-CN")  # between sentences; and one is counted like many
LEAST_LETTERS = 5  # of a template whose fields may be anything; those of a shorter one are amounts
FIELD = re.compile(r"\{(\w+)[^{}]*\}")
NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?%?")
AMOUNT = NUMBER.pattern + "(?: [KMG]B)?"
SENTENCES = re.compile(r"(?<=[.:;!?]) ")

_asked: ContextVar[str] = ContextVar("language", default=ENGLISH)


class Words(NamedTuple):
    """A language: sentences of the page by their English, and the templates of the engine, the most exact first.

    Attributes:
        is_by_machine: whether nobody has read some of it yet.
    """

    is_by_machine: bool
    page: Mapping[str, Any]
    engine: Mapping[str, str]
    templates: tuple[tuple[re.Pattern[str], str], ...]


def language() -> str:
    """The language of the visitor whose event is being handled, or of the block inside `speaking`."""
    request = LocalContext.request.get(None)
    return language_of(request.headers) if request is not None else _asked.get()


@contextmanager
def speaking(tag: str) -> Iterator[None]:
    """Whatever is said inside is said in this language, unless a visitor's event is being handled."""
    token = _asked.set(tag)
    try:
        yield
    finally:
        _asked.reset(token)


def language_of(headers: Mapping[str, str]) -> str:
    """The language that a visitor chose before, or else the first of the browser's that there is; or else English."""
    chosen = cookie_parser(headers.get("cookie", "")).get(COOKIE, "")
    return chosen if chosen in LANGUAGES else _accepted(headers.get("accept-language", ""))


def known_language(wanted: str) -> str | None:
    """The tag of a language that there is, from one such as de-AT or zh-Hans; None where there is none."""
    main = wanted.strip().lower().replace("_", "-").split("-")[0]
    return next((tag for tag in LANGUAGES if tag.lower().split("-")[0] == main), None)


def is_by_machine(tag: str) -> bool:
    """Whether some of a language was translated by a machine and nobody has read it yet."""
    return _words(tag).is_by_machine


def file_of(tag: str) -> str:
    """Where a language stands in the project."""
    return (FOLDER / f"{tag}.json").relative_to(FOLDER.parents[1]).as_posix()


def say(sentence: str, **values: Any) -> str:
    """A sentence of the page, with its values. Numbers are written as the language writes them."""
    words = _words(language()).page.get(sentence)
    return _FORMATTER.vformat(words or sentence, (), values)


def count(one: str, many: str, number: int, **values: Any) -> str:
    """A sentence that counts something: `number` is its field of this name, and chooses between one and many."""
    tag = language()
    words = _words(tag).page.get(many) or {"one": one, "other": many}
    is_one = number == 1 and tag not in WITHOUT_SPACES
    return _FORMATTER.vformat(words["one" if is_one else "other"], (), {"number": number, **values})


def later(sentence: str) -> str:
    """A sentence that `say` will be asked for by name: it is only marked here, and stays English."""
    return sentence


def number(value: float, form: str = "") -> str:
    """A number as the language writes it."""
    return format(value, form).translate(SWAPPED_COMMAS.get(language(), {}))


def told(sentence: str) -> str:
    """A sentence of the engine in the visitor's language; one that no template fits stays as it is."""
    tag = language()
    return sentence if tag == ENGLISH or not sentence else _translated(tag, sentence)


def gap() -> str:
    """What stands between two sentences."""
    return "" if language() in WITHOUT_SPACES else " "


def words_of(sentences: list[str]) -> dict[str, Any]:
    """What a script in the browser says, by the English in it; empty in English."""
    page = _words(language()).page
    return {sentence: page[sentence] for sentence in sentences if sentence in page}


class _Formatter(string.Formatter):
    def format_field(self, value: Any, format_spec: str) -> str:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return number(value, format_spec) if is_number else format(value, format_spec)


_FORMATTER = _Formatter()


@cache
def _words(tag: str) -> Words:
    if tag == ENGLISH:
        return Words(False, {}, {}, ())
    read = json.loads((FOLDER / f"{tag}.json").read_text(encoding="utf-8"))
    page, engine = ({english: entry["words"] for english, entry in read[part].items()} for part in ("page", "engine"))
    exact_first = sorted((key for key in engine if FIELD.search(key)), key=_letters, reverse=True)
    templates = tuple((_pattern(key), engine[key]) for key in exact_first)
    is_by_machine = any(entry["machine"] for part in read.values() for entry in part.values())
    return Words(is_by_machine, page, engine, templates)


def _letters(template: str) -> int:
    return len(FIELD.sub("", template))


def _pattern(template: str) -> re.Pattern[str]:
    """What a sentence made from a template looks like; a field that comes twice says the same twice."""
    value = ".*?" if _letters(template) >= LEAST_LETTERS else AMOUNT
    parts, seen, end = [], set[str](), 0
    for field in FIELD.finditer(template):
        name = field[1]
        parts += [re.escape(template[end : field.start()]), f"(?P={name})" if name in seen else f"(?P<{name}>{value})"]
        seen.add(name)
        end = field.end()
    return re.compile("".join([*parts, re.escape(template[end:])]), re.DOTALL)


@lru_cache(maxsize=4096)
def _translated(tag: str, sentence: str) -> str:
    """One sentence, or several behind one another of which the longest that is known comes first."""
    if (whole := _matched(tag, sentence)) is not None:
        return whole
    if re.fullmatch(AMOUNT, sentence):
        return _value(tag, sentence)
    pieces = SENTENCES.split(sentence)
    for end in range(len(pieces) - 1, 0, -1):
        if (beginning := _matched(tag, " ".join(pieces[:end]))) is not None:
            return f"{beginning}{'' if tag in WITHOUT_SPACES else ' '}{_translated(tag, ' '.join(pieces[end:]))}"
    rest = " ".join(pieces[1:])
    return f"{pieces[0]} {_translated(tag, rest)}" if rest else sentence


def _matched(tag: str, sentence: str) -> str | None:
    words = _words(tag)
    if sentence in words.engine:
        return words.engine[sentence]
    for pattern, translation in words.templates:
        if found := pattern.fullmatch(sentence):
            return translation.format_map({name: _value(tag, value) for name, value in found.groupdict().items()})
    return None


def _value(tag: str, value: str) -> str:
    """A value inside a sentence: a number, words that are themselves a sentence of the engine, or a name, left alone."""
    if re.fullmatch(AMOUNT, value):
        return value.translate(SWAPPED_COMMAS.get(tag, {}))
    said = _matched(tag, value) if " " in value or value in _words(tag).engine else None
    if said is None and "; " in value:
        return "; ".join(_value(tag, part) for part in value.split("; "))
    return value if said is None else said


def _accepted(header: str) -> str:
    wanted: list[tuple[float, str]] = []
    for part in header[:500].split(","):
        tag, _, quality = part.partition(";q=")
        try:
            wanted.append((float(quality or 1), tag))
        except ValueError:
            continue
    best_first = sorted(wanted, key=lambda pair: pair[0], reverse=True)
    return next((known for quality, tag in best_first if quality > 0 and (known := known_language(tag))), ENGLISH)
