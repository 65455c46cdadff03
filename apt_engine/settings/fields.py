"""Fields that document and check themselves: what a record of settings is made of."""

import dataclasses
import functools
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, Self

from apt_engine.errors import ConfigError

LONGEST_TEXT = 10_000


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a person may know about one field: `minimum` and `maximum` are inclusive, `choices` is empty when any value goes."""

    help: str
    group: str
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""
    choices: tuple[str, ...] = ()


def setting(
    default: Any,
    help: str,
    *,
    group: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    unit: str = "",
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field that carries its own documentation; leave `default` as `dataclasses.MISSING` for a required one."""
    about = Setting(help=help, group=group, minimum=minimum, maximum=maximum, unit=unit, choices=choices)
    return dataclasses.field(default=default, metadata={"setting": about})


REQUIRED: Any = dataclasses.MISSING


def setting_of(field: dataclasses.Field[Any]) -> Setting:
    """The documentation that `setting` attached to a field."""
    return field.metadata["setting"]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A record of settings that refuses values out of range and keys it does not know."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check(field, getattr(self, field.name))

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Build from plain JSON values.

        Raises:
            ConfigError: a key is unknown, a required one is missing, or a value has the wrong type or is out of range.
        """
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                raise ConfigError(f"There is no setting called {key!r}; the settings are {', '.join(sorted(fields))}.")
        missing = [name for name, field in fields.items() if field.default is REQUIRED and name not in values]
        if missing:
            raise ConfigError(f"The setting {missing[0]!r} has no value; give it one.")
        types_of = _types_of(cls)
        return cls(**{key: _coerce(key, types_of[key], value) for key, value in values.items()})

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict(to_dict())` is the same record."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()
        }

    def replace(self, **changes: Any) -> Self:
        """A copy with some settings changed, checked again."""
        return type(self).from_dict({**self.to_dict(), **changes})


def _check(field: dataclasses.Field[Any], value: Any) -> None:
    about = setting_of(field)
    if about.choices and value not in about.choices:
        raise ConfigError(f"{field.name} cannot be {value!r:.80}; choose one of {', '.join(about.choices)}.")
    _check_text(field.name, value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    below = about.minimum is not None and value < about.minimum
    above = about.maximum is not None and value > about.maximum
    if below or above or not math.isfinite(value):
        unit = f" {about.unit}" if about.unit else ""
        raise ConfigError(
            f"{field.name} cannot be {value}; it must lie between {about.minimum} and {about.maximum}{unit}."
        )


def _check_text(name: str, value: Any) -> None:
    text = "".join(value) if isinstance(value, tuple) else value
    if not isinstance(text, str):
        return
    if len(text) > LONGEST_TEXT:
        raise ConfigError(f"{name} has {len(text):,} characters; shorten it to {LONGEST_TEXT:,}.")
    if any("\ud800" <= letter <= "\udfff" or letter == "\0" for letter in text):
        raise ConfigError(f"{name} holds a character that cannot be written; type it anew.")


@functools.cache
def _types_of(cls: type) -> dict[str, Any]:
    """By a field's name. To work them out takes 0.1 ms, and each run that is read asks for thirty."""
    return typing.get_type_hints(cls)


def _coerce(name: str, wanted: Any, value: Any) -> Any:
    """JSON and command-line values brought to the field's type: strings to numbers, lists to tuples."""
    if isinstance(wanted, types.GenericAlias):
        if isinstance(value, str):
            value = [line for line in value.split("\n") if line.strip()]
        return tuple(str(item) for item in value)
    if wanted is bool:
        return _to_bool(name, value)
    if wanted is str:
        return str(value).strip() if name in ("subject", "identifier", "base", "start_from") else str(value)
    try:
        number = float(value)
        if isinstance(value, bool) or (wanted is int and number != int(number)):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        kind = "a whole number" if wanted is int else "a number"
        raise ConfigError(f"{name} must be {kind}, not {value!r:.80}.") from None
    return int(number) if wanted is int else number


def _to_bool(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
    try:
        return words[str(value).strip().lower()]
    except KeyError:
        raise ConfigError(f"{name} must be true or false, not {value!r:.80}.") from None
