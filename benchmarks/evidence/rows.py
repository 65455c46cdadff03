"""What was measured, a line of JSON each, appended as it is found: what stands there is never computed again."""

import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Key = tuple[str, str, str, int, int]
DIGITS = 4


@dataclass(frozen=True, kw_only=True)
class Row:
    """A measurement of a subject's run: by a method, with a seed, at a step. What belongs to no run has the method `base`."""

    subject: str
    method: str
    seed: int
    step: int

    @property
    def key(self) -> Key:
        """What it is a measurement of; two rows with one key say the same."""
        return (type(self).__name__, self.subject, self.method, self.seed, self.step)


@dataclass(frozen=True, kw_only=True)
class Split(Row):
    """All cells of the split: gains 1 - L_tuned / L_ref by framing (shot, mirrored, enlarged), photo and bin."""

    gains: list[list[list[float]]]


@dataclass(frozen=True, kw_only=True)
class Drift(Row):
    """The drift as a run measures it, a noise level a prompt; see `apt_engine.training.drift`."""

    drift: float


@dataclass(frozen=True, kw_only=True)
class Pictures(Row):
    """What was seen in the pictures of a checkpoint, each number one picture; the same prompts and seeds for all.

    Attributes:
        likeness: mean cosine to held-out photos, in places that no photo shows.
        follows: how likely the judge calls it that they show the place and the treatment that were asked for, from 0 to 1;
            of the same pictures, then of sketches and the like in some of the places.
        captioned: mean cosine to held-out photos of pictures by the caption alone.
        copies: of the same pictures the cosine to the nearest photo trained on.
        moved: of pictures without the subject 1 - cosine to the base's own.
        drift: as in `Drift`, but of all noise levels for each prompt.
    """

    likeness: list[float]
    follows: list[float]
    captioned: list[float]
    copies: list[float]
    moved: list[float]
    drift: float


@dataclass(frozen=True, kw_only=True)
class Photos(Row):
    """Reference lines of a subject.

    Attributes:
        two_views: mean cosine of photos to held-out photos.
        nearest: of each photo the cosine to the nearest other.
    """

    two_views: float
    nearest: list[float]


@dataclass(frozen=True, kw_only=True)
class Finished(Row):
    """A run that is trained and measured: how long training took, with all settings, by which version of the program."""

    seconds: float
    photos: int
    settings: dict[str, Any]
    version: str


@dataclass(frozen=True, kw_only=True)
class Judged(Row):
    """What the untouched model sees in a checkpoint's pictures; see `apt_engine.runs.events.PicturesJudged`.

    Attributes:
        photos: its means for the photos.
    """

    likeness: list[float]
    follows: list[float]
    copies: list[float]
    drift: float
    photos: dict[str, float]


KINDS: dict[str, type[Row]] = {kind.__name__: kind for kind in (Split, Drift, Pictures, Photos, Finished, Judged)}


class Rows:
    """The rows of a file, which need not be there yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows = {row.key: row for row in read(path)}

    def has(self, kind: type[Row], subject: str, method: str, seed: int = 0, step: int = 0) -> bool:
        """Whether this was measured."""
        return (kind.__name__, subject, method, seed, step) in self._rows

    def add(self, row: Row) -> None:
        """Append a row, on disk when this returns; a line torn by a kill is closed first."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"kind": row.key[0], **_rounded(dataclasses.asdict(row))}, separators=(",", ":"))
        with self._path.open("ab+") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else f"\n{line}"
            file.write(f"{line}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        self._rows[row.key] = row


def read(path: Path) -> Iterator[Row]:
    """All whole rows of a file."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            fields = json.loads(line)
        except ValueError:  # torn by a kill; it was measured again since
            continue
        yield KINDS[fields.pop("kind")](**fields)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DIGITS)
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, dict):
        return {key: item if key in ("drift", "settings") else _rounded(item) for key, item in value.items()}
    return value
