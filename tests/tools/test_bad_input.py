"""What docs/reliability.md says of each bad input is shown by tests and commands that exist, in sentences that are said."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
ROWS = re.findall(
    r"^\| (.+?) \| (.+?) \| (.+?) \| (.*?) ?\| (.+?) \|$", PAGE.partition("## Each bad input")[2], re.MULTILINE
)[2:]


def said() -> str:
    """All text of the code, with its literals joined and `...` in place of each value."""
    code = "\n".join(
        path.read_text(encoding="utf-8") for folder in ("apt_engine", "ui") for path in (ROOT / folder).rglob("*.py")
    )
    joined = re.sub(r'"\s*\n\s*f?"', "", code)
    return re.sub(r"\{[^{}]*\}", "...", joined)


SAID = said()


def test_the_page_has_a_row_for_each_kind() -> None:
    assert len(ROWS) >= 35
    assert len({given for given, *_ in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_row_is_shown_by_what_exists(row: tuple[str, str, str, str, str]) -> None:
    *_, shown = row
    found = re.findall(r"`([^`]+)`", shown)
    assert found
    for name in found:
        path, _, test = name.partition("::")
        if test:
            assert re.search(rf"^def {test}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), name
        else:
            assert importlib.util.find_spec(f"{name.split(' ')[0]}.__main__"), name


@pytest.mark.parametrize("row", [row for row in ROWS if row[3]], ids=lambda row: row[0])
def test_its_sentence_is_said(row: tuple[str, str, str, str, str]) -> None:
    assert row[3].strip('"') in SAID


def test_a_sentence_that_nobody_says_would_be_noticed() -> None:
    assert "Photo ... is far too beautiful; bring another one." not in SAID
