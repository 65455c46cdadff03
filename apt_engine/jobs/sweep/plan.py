"""What a sweep trains: a TOML file becomes rows, each checked before anything starts. See docs/sweep.md."""

import itertools
import json
import math
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apt_engine.bases.profiles import build_config
from apt_engine.errors import ConfigError, EngineError
from apt_engine.settings.presets import Preset, at_home
from apt_engine.settings.training import TrainingConfig

MOST_ROWS = 10_000
KEYS = ("name", "presets", "seeds", "set", "settings", "subjects")
PRESET = "preset"  # an axis whose values are names of presets
SUBJECT, SEED = "subject", "seed"  # what an axis cannot be called: Optuna keeps these beside the axes
Value = str | int | float | bool


@dataclass(frozen=True)
class Row:
    """One run of a sweep.

    Attributes:
        number: its place in the plan, from 0.
        photos: folder of the subject.
        choices: the subject's folder as the plan writes it, the value of each axis, the seed.
        config: all settings.
    """

    number: int
    photos: Path
    choices: dict[str, Value]
    config: TrainingConfig

    @property
    def setting(self) -> str:
        """What tells its settings from those of other rows."""
        axes = {name: value for name, value in self.choices.items() if name not in (SUBJECT, SEED)}
        return ", ".join(f"{name} {value}" for name, value in axes.items()) or "as set"

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"{self.photos.name}, {self.setting}, seed {self.choices[SEED]}"


@dataclass(frozen=True)
class Plan:
    """A sweep.

    Attributes:
        path: the file that says it.
        name: of the study and of its folder.
        content: what the file says, its name left out, as JSON; two sweeps with the same content are one sweep.
        axes: the values of each choice, as Optuna wants to know them.
        rows: all runs, in the order of doing: one seed of everything before the next seed.
    """

    path: Path
    name: str
    content: str
    axes: dict[str, tuple[Value, ...]]
    rows: tuple[Row, ...]


def read_plan(path: Path, presets: dict[str, Preset]) -> Plan:
    """Read a plan and check every setting in it. Whether the photos are there shows when their row begins.

    Raises:
        ConfigError: it is no plan, or a setting is not allowed; says which and in which file.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"The plan {path} cannot be read ({error}); see docs/sweep.md for what it holds.") from error
    try:
        return _plan(path, content, presets)
    except EngineError as error:
        raise ConfigError(f"In the plan {path}: {error}") from error


def _plan(path: Path, content: dict[str, Any], presets: dict[str, Preset]) -> Plan:
    if unknown := [key for key in content if key not in KEYS]:
        raise ConfigError(f"There is no part called {unknown[0]!r}; the parts are {', '.join(KEYS)}.")
    name = str(content.pop("name", path.stem))
    if not re.fullmatch(r"\w[\w.-]{0,60}", name):
        raise ConfigError(f"The name {name!r:.80} cannot be that of a folder; use letters, digits, dots and dashes.")
    subjects, settings = _subjects(content.get("subjects")), _table(content, "settings")
    if clash := {SUBJECT, SEED} & settings.keys():
        raise ConfigError(f"{clash.pop()} is no part of settings; write subjects and seeds beside it.")
    axes = {
        SEED: _values("seeds", content.get("seeds", [0])),
        SUBJECT: tuple(subjects),
        **{name: _values(name, values) for name, values in settings.items()},
    }
    if (count := math.prod(map(len, axes.values()))) > MOST_ROWS:
        raise ConfigError(f"That makes {count:,} runs; leave out values until there are at most {MOST_ROWS:,}.")
    rows = []
    for number, combination in enumerate(itertools.product(*axes.values())):
        choices = dict(zip(axes, combination, strict=True))
        config = _config(path, content, subjects[str(choices[SUBJECT])], choices, presets)
        rows.append(Row(number, path.parent / at_home(str(choices[SUBJECT])), choices, config))
    return Plan(path, name, json.dumps(content, sort_keys=True, default=str), axes, tuple(rows))


def _config(
    path: Path, content: dict[str, Any], subject: dict[str, Any], choices: dict[str, Value], presets: dict[str, Preset]
) -> TrainingConfig:
    """The settings of a row, in rising precedence: presets, `set`, the subject's own, the choices."""
    values = {**_table(content, "set"), **subject, **choices, SUBJECT: subject[SUBJECT]}
    chosen = [*_names(content.get("presets", [])), *_names(str(values.pop(PRESET, "")).split("+"))]
    base = str(values.get("base", ""))
    if base and (path.parent / base).exists():  # a folder of models beside the plan, wherever the sweep is started
        values["base"] = str((path.parent / base).resolve())
    return build_config(presets, chosen, values)


def _subjects(tables: Any) -> dict[str, dict[str, Any]]:
    """Folder to what else is said of each subject."""
    if not isinstance(tables, list) or not tables:
        raise ConfigError("There are no subjects; write [[subjects]] with photos and subject for each.")
    found: dict[str, dict[str, Any]] = {}
    for table in tables:
        values = dict(table) if isinstance(table, dict) else {}
        folder = str(values.pop("photos", ""))
        if not folder or SUBJECT not in values:
            raise ConfigError('A subject needs photos = "its folder" and subject = "what it is".')
        if folder in found:
            raise ConfigError(f"The folder {folder} stands there twice; one subject is one folder.")
        found[folder] = values
    return found


def _values(name: str, values: Any) -> tuple[Value, ...]:
    if not isinstance(values, list) or not values or not all(isinstance(value, Value) for value in values):
        raise ConfigError(f"{name} needs a list of numbers, words or true and false, such as [4, 16].")
    return tuple(dict.fromkeys(values))


def _table(content: dict[str, Any], key: str) -> dict[str, Any]:
    table = content.get(key, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{key} is a table; write [{key}] and under it a line for each setting.")
    return table


def _names(texts: Sequence[Any]) -> list[str]:
    return [str(text).strip() for text in texts if str(text).strip()]


def differing(before: str, content: str) -> list[str]:
    """The parts in which the contents of two plans differ."""
    old, new = json.loads(before), json.loads(content)
    return [key for key in KEYS if old.get(key) != new.get(key)]
