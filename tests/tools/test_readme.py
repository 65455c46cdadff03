"""What the README says of settings and files is so."""

import dataclasses
import re
from pathlib import Path

import pytest

from apt_engine.settings.fields import REQUIRED, setting_of
from apt_engine.settings.training import TrainingConfig

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def row(field: dataclasses.Field[object]) -> str:
    """The README's line about one setting."""
    about = setting_of(field)
    limits = f"{about.minimum:,.12g} to {about.maximum:,.12g} {about.unit}" if about.maximum is not None else ""
    allowed = ", ".join(about.choices) or limits.strip()
    return f"| `{field.name}` | {default_of(field)} | {allowed} | {about.help} |"


def default_of(field: dataclasses.Field[object]) -> str:
    match field.default:
        case value if value is REQUIRED:
            return "required"
        case bool(value):
            return "on" if value else "off"
        case tuple(values):
            return f"{len(values)} prompts"
        case value:
            return f"{value}"


@pytest.mark.parametrize("field", dataclasses.fields(TrainingConfig), ids=lambda field: field.name)
def test_every_setting_stands_in_the_readme_as_it_is(field: dataclasses.Field[object]) -> None:
    assert row(field) in README.splitlines()


def test_the_readme_has_no_setting_that_does_not_exist() -> None:
    table = README.partition("### Settings")[2].partition("\n## ")[0]
    names = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert names == [field.name for field in dataclasses.fields(TrainingConfig)]
