"""Events: one JSON line each, and back."""

import dataclasses
import json
from typing import Any

import pytest

from apt_engine.runs import events
from apt_engine.runs.events import Event, StepFinished, from_json, to_json

EXAMPLES: dict[type, Any] = {str: "a “quoted”\nword", int: 3, float: 0.25, bool: True}


def _example(kind: type[Event]) -> Event:
    hints = {field.name: field.type for field in dataclasses.fields(kind)}
    by_name = {"str": str, "int": int, "float": float, "bool": bool, "float | None": float}
    return kind(
        **{
            name: EXAMPLES[hint if isinstance(hint, type) else by_name.get(str(hint), float)]
            for name, hint in hints.items()
        }
    )


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
    with pytest.raises(ValueError, match="not an event"):
        from_json('{"kind": "Nonsense"}')
