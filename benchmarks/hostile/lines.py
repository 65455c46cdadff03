"""Lines that do not belong into a run's events, each by a name."""

import dataclasses
import json
from typing import Any

from apt_engine.runs.events import (
    Calibrated,
    CheckpointSaved,
    DriftMeasured,
    Event,
    ExportReady,
    Noticed,
    RunFailed,
    RunFinished,
    RunStarted,
    SampleReady,
    StageChanged,
    StepFinished,
    ViewsShown,
)

WHOLE: tuple[Event, ...] = (
    RunStarted(run="r", base="pocket", subject="cat", photo_count=3, first_step=0, last_step=10),
    StageChanged(stage="training", message="Training.", fraction=0.5),
    StepFinished(step=1, loss=0.5, gradient_norm=1.0, learning_rate=1e-4, seconds=0.1, gamma=(0.1,) * 10),
    Calibrated(step=1, stabilization_lambda=0.1, alignment_lambda=0.1),
    DriftMeasured(step=1, drift=0.1),
    ViewsShown(step=1, paths=("views/000001-0.png",)),
    SampleReady(step=1, index=0, prompt="a cat", seed=0, path="samples/000001-0.png"),
    CheckpointSaved(step=1, path="checkpoints/000001"),
    ExportReady(step=1, layout="kohya", path="exports/a.safetensors", keys=1, difference=0.0),
    Noticed(message="Look."),
    RunFailed(message="It broke.", detail="here"),
    RunFinished(step=10, reason="Done.", is_complete=True, seconds=1.0, peak_memory_bytes=1),
)
ODD: dict[str, Any] = {
    "null": None,
    "a truth value": True,
    "text": "one",
    "nothing": "",
    "half a surrogate": "\ud800",
    "a NUL": "a\0b",
    "a script": "<script>alert(1)</script>",
    "20,000 letters": "x" * 20_000,
    "a path out": "../../../../etc/passwd",
    "a root path": "/etc/passwd",
    "negative": -1,
    "huge": 10**400,
    "large": 2**63,
    "of no calendar": 1e300,
    "NaN": float("nan"),
    "infinite": float("inf"),
    "a list": [1, "a", None],
    "an empty list": [],
    "20,000 numbers": [0.5] * 20_000,
    "infinities": [float("inf"), float("-inf"), float("nan")],
    "nested lists": [[[0]]],
    "an object": {"a": 1},
}
GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "spaces": b"   ",
    "NULs": b"\0" * 1000,
    "no UTF-8": b"\xff\xfe\x80",
    "a byte order mark": b"\xef\xbb\xbf{}",
    "half a line": b'{"kind": "StepFi',
    "a number": b"3",
    "a number of 10,000 digits": b"9" * 10_000,
    "NaN": b"NaN",
    "null": b"null",
    "text": b'"RunFailed"',
    "a list": b"[]",
    "an empty object": b"{}",
    "a kind that is a list": b'{"kind": []}',
    "a kind that is half a surrogate": b'{"kind": "\\ud800"}',
    "an unknown kind": b'{"kind": "RunDreamt"}',
    "the class of all events": b'{"kind": "Event", "time": 1}',
    "an event and more": b'{"kind": "Noticed", "message": "a"} {"kind": "Noticed", "message": "b"}',
    "a key twice": b'{"kind": "Noticed", "kind": "RunFailed", "message": "a", "message": "b"}',
    "lists 100,000 deep": b"[" * 100_000,
    "objects 100,000 deep": b'{"a":' * 100_000,
    "two million letters": b"x" * 2_000_000,
    "another file": b"\x89PNG\r\n\x1a\n" * 10,
    "a carriage return in between": b'{"kind": "Noticed",\r"message": "a"}',
    "a dunder": b'{"kind": "Noticed", "message": "a", "__class__": "os"}',
    "a vertical tab": b'\x0b{"kind": "Noticed", "message": "a"}\x0c',
}


def lines() -> dict[str, bytes]:
    """Garbage, and each kind of event with each of its values replaced by each odd one or left out."""
    found = {f"garbage: {name}": line for name, line in GARBAGE.items()}
    for event in WHOLE:
        kind, values = type(event).__name__, dataclasses.asdict(event)
        for field in values:
            rest = {name: value for name, value in values.items() if name != field}
            found[f"{kind} without {field}"] = _line(kind, rest)
            found |= {f"{kind}: {field} is {name}": _line(kind, values | {field: odd}) for name, odd in ODD.items()}
    return found


def _line(kind: str, values: dict[str, Any]) -> bytes:
    return json.dumps({"kind": kind, **values}).encode()
