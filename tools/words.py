"""All sentences that a visitor may read, and what other languages lack: `python -m tools.words [--write]`.

Those of the page stand in `say(...)`, `count(...)` and `later(...)` of `ui/` and in `say(...)` of `assets/`. Those of the engine
are found by reading it: every text of several words that is no docstring, as a template whose fields are named after what
stands there. Where a text has two forms, as in "photo" and "photos", both are sentences. A constant of the same module is
written out. Presets, examples and the names of settings are sentences too.

`--write` adds what is missing to `ui/languages/*.json`, without a translation, and takes out what nobody says any more.
"""

import argparse
import ast
import dataclasses
import itertools
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, TypeGuard

from apt_engine.settings.sampling import SampleRequest
from apt_engine.settings.training import TrainingConfig
from ui.form import label_of
from ui.scripted import said_in
from ui.words import ENGLISH, FOLDER, LANGUAGES

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / "apt_engine"
# What is written into files, or said in a terminal alone.
NOT_ON_THE_PAGE = (
    "__main__.py",
    "cli/",
    "errors.py",
    "jobs/push.py",
    "jobs/sweep/",
    "lora/about.py",
    "lora/card.py",
    "runs/event_limits.py",
    "runs/events.py",
    "runs/log.py",
    "settings/parameters.py",
)
ONE_WORD = (  # said alone, of a training before it starts and of the engine
    *("photo", "photos", "steps", "about", "memory", "disk", "download", "none"),
    *("ready", "training", "drawing", "judging", "describing"),
)
PROMPT = re.compile(r"(a|an) (photo|pencil|watercolor)\b.*")  # drawn, not read
WORD = re.compile(r"(?<![\w{.])[a-z]{2,}(?![\w}(])")
BEGINNING = re.compile(r"[A-Z][a-z]+ \{.*")  # "Loading {base}"
UNIT = re.compile(r"\{\w+\} (s|min|h)")
MOST_FORMS = 8


@cache
def page_sentences() -> dict[str, str | None]:
    """The sentences of the page in order; with one that counts, what it says of a single thing."""
    found: dict[str, str | None] = {}
    for path in sorted((ROOT / "ui").rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
                continue
            sides = [side for item in call.args for side in ((item.body, item.orelse) if _is_choice(item) else (item,))]
            texts = [side.value for side in sides if isinstance(side, ast.Constant) and isinstance(side.value, str)]
            if call.func.id in ("say", "later"):
                found |= {text: None for text in texts if text not in found}
            elif call.func.id == "count" and len(texts) == 2:
                found[texts[1]] = texts[0]
    for path in sorted((ROOT / "assets").glob("*.js")):
        found |= {sentence: None for sentence in said_in(path.read_text("utf-8")) if sentence not in found}
    return found


@cache
def engine_sentences() -> list[str]:
    """Sentences and templates of the engine in order, then those of presets and examples, then the names of settings."""
    found: dict[str, None] = dict.fromkeys(ONE_WORD)
    for path in sorted(ENGINE.rglob("*.py")):
        if not path.relative_to(ENGINE).as_posix().startswith(NOT_ON_THE_PAGE):
            found |= dict.fromkeys(filter(_is_sentence, _texts(ast.parse(path.read_text("utf-8")))))
    for path in sorted((ROOT / "presets").glob("*.json")):
        preset = json.loads(path.read_text("utf-8"))
        found |= dict.fromkeys((preset["name"], preset["description"]))
    examples = json.loads((ROOT / "assets" / "examples" / "examples.json").read_text("utf-8"))
    found |= dict.fromkeys(example["title"] for example in examples)
    fields = [field for kind in (TrainingConfig, SampleRequest) for field in dataclasses.fields(kind)]
    return [*(found | dict.fromkeys(label_of(field) for field in fields))]


def _is_sentence(text: str) -> bool:
    is_prose = bool(WORD.search(text)) and " " in text.strip() and not PROMPT.fullmatch(text)
    return is_prose or bool(UNIT.fullmatch(text) or BEGINNING.fullmatch(text))


def _texts(tree: ast.Module) -> Iterator[str]:
    """Texts and templates outside of docstrings, assertions, annotations and patterns."""
    constants = {
        _named(node): node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
    }
    values = [part.value for part in ast.walk(tree) if isinstance(part, ast.FormattedValue)]
    written_out = {value.id for value in values if isinstance(value, ast.Name)} & constants.keys()
    left: list[ast.AST] = [tree]
    while left:
        node = left.pop(0)
        if isinstance(node, ast.Assert) or (isinstance(node, ast.Call) and ast.unparse(node.func).startswith("re.")):
            continue
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue  # a docstring
        if _is_text(node):
            yield from _forms(node, constants)
            values = [part.value for part in ast.walk(node) if isinstance(part, ast.FormattedValue)]
            left += [value for value in values if not _is_choice(value)]
            continue
        if isinstance(node, ast.Assign) and _named(node) in written_out:
            continue
        skipped = ("annotation", "returns", "slice")
        for name, value in ast.iter_fields(node):
            if name not in skipped:
                left += [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, ast.AST)]


def _named(node: ast.Assign) -> str:
    return ast.unparse(node.targets[0])


def _is_choice(node: ast.AST) -> TypeGuard[ast.IfExp]:
    return isinstance(node, ast.IfExp) and _is_text(node.body) and _is_text(node.orelse)


def _is_text(node: ast.AST) -> bool:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _is_text(node.left) or _is_text(node.right)
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _forms(node: ast.AST, constants: dict[str, str]) -> Iterator[str]:
    """All that a text can be: a choice between two texts inside it is written out, any other value is a field."""
    taken: dict[str, str] = {}
    parts = [*_parts(node, constants, taken)]
    assert len(parts) < 40
    for form in itertools.islice(itertools.product(*parts), MOST_FORMS):
        first, *others = "".join(form).split("{}")  # of a text that `format` fills in
        yield first + "".join(f"{{value{place or ''}}}{rest}" for place, rest in enumerate(others))


def _parts(node: ast.AST, constants: dict[str, str], taken: dict[str, str]) -> Iterator[list[str]]:
    """What stands in each place of a text, several where it is a choice."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield [node.value]
    elif isinstance(node, ast.BinOp) and _is_text(node):
        yield from _parts(node.left, constants, taken)
        yield from _parts(node.right, constants, taken)
    elif isinstance(node, ast.JoinedStr):
        for value in node.values:
            yield from _parts(value.value if isinstance(value, ast.FormattedValue) else value, constants, taken)
    elif _is_choice(node):
        choices = [
            ["".join(form) for form in itertools.product(*_parts(side, constants, taken))]
            for side in (node.body, node.orelse)
        ]
        yield [*choices[0], *choices[1]]
    elif isinstance(node, ast.Name) and node.id in constants:
        yield [constants[node.id]]
    else:
        yield [f"{{{_field(node, taken)}}}"]


def _field(node: ast.AST, taken: dict[str, str]) -> str:
    """A name for a value: the last word of what stands there, numbered where another value has it already."""
    code = ast.unparse(node)
    words = [
        word for word in re.findall(r"[a-z_]{3,}", re.sub(r"'[^']*'", "", code)) if word not in ("self", "len", "str")
    ]
    name = (words[-1] if words else "value").strip("_") or "value"
    for number in itertools.count(1):
        numbered = name if number == 1 else f"{name}{number}"
        if taken.setdefault(numbered, code) == code:
            return numbered
    raise AssertionError


def read(tag: str) -> dict[str, Any]:
    """A language file; empty where there is none."""
    path = FOLDER / f"{tag}.json"
    return json.loads(path.read_text("utf-8")) if path.exists() else {"page": {}, "engine": {}}


def updated(language: dict[str, Any]) -> dict[str, Any]:
    """The same with an entry for each sentence, and for none else."""
    blank = {"words": "", "machine": True}
    page = {
        many: language["page"].get(many, {**blank, "words": {"one": "", "other": ""} if one else ""})
        for many, one in page_sentences().items()
    }
    engine = {sentence: language["engine"].get(sentence, blank) for sentence in engine_sentences()}
    return {"page": page, "engine": engine}


def write(tag: str, language: dict[str, Any]) -> None:
    """Write a language file, an entry a line."""
    parts = []
    for part, entries in language.items():
        lines = ",\n".join(
            f"  {json.dumps(english, ensure_ascii=False)}: {json.dumps(entry, ensure_ascii=False)}"
            for english, entry in entries.items()
        )
        parts.append(f'"{part}": {{\n{lines}\n}}')
    (FOLDER / f"{tag}.json").write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")


def main() -> None:
    """Say how many sentences each language has, and with --write bring its file up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="add and take out entries")
    options = parser.parse_args()
    for tag in LANGUAGES:
        if tag == ENGLISH:
            continue
        before = read(tag)
        now = updated(before)
        entries = [entry for part in now.values() for entry in part.values()]
        empty = sum(
            not (all(words.values()) if isinstance(words := entry["words"], dict) else words) for entry in entries
        )
        machine = sum(entry["machine"] for entry in entries)
        print(f"{tag}: {len(entries)} sentences, {empty} not translated, {machine} by a machine")
        if options.write:
            write(tag, now)


if __name__ == "__main__":
    main()
