"""Events: one JSON line each, and back."""

import json
import typing
from typing import Any

import pytest

from apt_engine.runs import events
from apt_engine.runs.events import Event, NewerEvent, StepFinished, from_json, to_json

EXAMPLES: dict[type, Any] = {str: "a “quoted”\nword", int: 3, float: 0.25, bool: True}


def _example(kind: type[Event]) -> Event:
    return kind(**{name: _value(hint) for name, hint in typing.get_type_hints(kind).items()})


def _value(hint: Any) -> Any:
    first = next(iter(typing.get_args(hint)), hint)  # of a list the type of its items, of "float | None" the float
    return (EXAMPLES[first],) * 2 if typing.get_origin(hint) is tuple else EXAMPLES[first]


@pytest.mark.parametrize("kind", events._KINDS.values(), ids=lambda kind: kind.__name__)
def test_each_round_trips_through_one_line(kind: type[Event]) -> None:
    event = _example(kind)
    line = to_json(event)
    assert "\n" not in line
    assert from_json(line) == event


def test_every_kind_is_known() -> None:
    assert set(events._KINDS.values()) == set(Event.__subclasses__())


def test_a_newer_field_is_passed_over_and_a_missing_one_refused() -> None:
    step = StepFinished(step=1, loss=0.5, prior_loss=None, gradient_norm=1.0, learning_rate=1e-4, seconds=0.1)
    values = json.loads(to_json(step))
    assert from_json(json.dumps({**values, "not_yet_known": [0.1]})) == step
    del values["loss"]
    with pytest.raises(ValueError, match="not a complete event"):
        from_json(json.dumps(values))


def test_a_kind_that_only_a_newer_version_knows_is_told_as_such() -> None:
    newer = from_json('{"kind": "RunDreamt", "dream": "of sheep", "time": 3}')
    assert isinstance(newer, NewerEvent)
    assert newer.name == "RunDreamt"


@pytest.mark.parametrize(
    "line", ["", "{", "3", "[]", '"RunFailed"', "{}", '{"kind": []}', '{"kind": null}', '{"step": 1}']
)
def test_what_is_no_event_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"not an event|Expecting"):
        from_json(line)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("step", "one"),
        ("step", 1.5),
        ("step", None),
        ("loss", [0.1]),
        ("gamma", 0.1),
        ("gamma", ["a"]),
        ("warped", [1]),
    ],
)
def test_a_value_of_another_type_is_refused(field: str, value: Any) -> None:
    values = json.loads(to_json(StepFinished(step=1, loss=0.5, gradient_norm=1.0, learning_rate=1e-4, seconds=0.1)))
    assert from_json(json.dumps({**values, "loss": 1, "gamma": [0, 0.5], "warped": [True], "memory_bytes": None}))
    with pytest.raises(ValueError, match="not a complete event"):
        from_json(json.dumps({**values, field: value}))
