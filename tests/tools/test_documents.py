"""What the documents say of the settings is so."""

import dataclasses
import re
from pathlib import Path

import pytest

from apt_engine.settings.fields import REQUIRED, setting_of
from apt_engine.settings.training import TrainingConfig

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")


def row(field: dataclasses.Field[object]) -> str:
    """The line about one setting."""
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
def test_every_setting_is_described_as_it_is(field: dataclasses.Field[object]) -> None:
    assert row(field) in SETTINGS.splitlines()


def test_no_setting_is_described_that_does_not_exist() -> None:
    names = re.findall(r"^\| `(\w+)` \|", SETTINGS, re.MULTILINE)
    assert names == [field.name for field in dataclasses.fields(TrainingConfig)]
