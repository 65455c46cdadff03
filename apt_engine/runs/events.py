"""What a run tells: frozen records, each of which round-trips through one line of JSON. Times are seconds since 1970."""

import dataclasses
import functools
import json
import time
import typing
from dataclasses import dataclass, field
from typing import Any

from apt_engine.runs.event_limits import check


@dataclass(frozen=True, kw_only=True)
class Event:
    """Anything that happened in a run, with when it happened."""

    time: float = field(default_factory=time.time)


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """A training session begins, at step 0 or, resumed, later."""

    run: str
    base: str
    subject: str
    photo_count: int
    first_step: int
    last_step: int


@dataclass(frozen=True, kw_only=True)
class StageChanged(Event):
    """What the engine does now, as a sentence; `fraction` (0 to 1) where progress within it is known."""

    stage: str
    message: str
    fraction: float | None = None


@dataclass(frozen=True, kw_only=True)
class Noticed(Event):
    """Something the user should know, and the run goes on."""

    message: str


@dataclass(frozen=True, kw_only=True)
class StepFinished(Event):
    """One optimizer step. Steps count from 1; `seconds` is its duration.

    Losses are mean squared errors of the predicted noise over this step's photos: `loss` of the tuned pass,
    `reference_loss` of the untrained model on the same noise (None when it was not asked), `gap` reference minus tuned.
    `gamma` is the indicator of all ten bins after this step, `raw_gamma` before clamping, `visits` how many samples each
    bin has seen. `timesteps`, `chances` (of a warp), `warped` and `weights` (1 - gamma) have one entry a sample;
    `stabilization` and `alignment` are RS and AA before their weights; `was_skipped` when a number was not finite;
    `memory_bytes` is the peak so far.
    """

    step: int
    loss: float
    reference_loss: float | None = None
    gap: float | None = None
    prior_loss: float | None = None
    stabilization: float | None = None
    alignment: float | None = None
    gradient_norm: float
    learning_rate: float
    seconds: float
    timesteps: tuple[int, ...] = ()
    chances: tuple[float, ...] = ()
    warped: tuple[bool, ...] = ()
    weights: tuple[float, ...] = ()
    gamma: tuple[float, ...] = ()
    raw_gamma: tuple[float, ...] = ()
    visits: tuple[int, ...] = ()
    was_skipped: bool = False
    memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Calibrated(Event):
    """The weights of RS and AA at strength 1 are fixed from here on.

    `..._spread` is the factor by which single steps would have said more or less, one standard deviation; None if not known.
    """

    step: int
    stabilization_lambda: float
    alignment_lambda: float
    stabilization_spread: float | None = None
    alignment_spread: float | None = None


@dataclass(frozen=True, kw_only=True)
class DriftMeasured(Event):
    """How far the model has moved where the subject is not asked for: mean |eps_tuned - eps_ref|^2; 0 is not at all."""

    step: int
    drift: float


@dataclass(frozen=True, kw_only=True)
class SplitMeasured(Event):
    """How much of what was learnt holds for new views of the photos, and what all checks so far say about stopping.

    `cells` are what was measured at this step, as `apt.split.Cell` numbers them, and `gains` their 1 - L_tuned / L_ref; `shots`
    and `views` the mean gains on the photos as they are and on new views of them, over all cells known so far. `kept_step` is the
    checkpoint to use, 0 for the last while no other can be told to be better; `message` says where the run stands.
    """

    step: int
    cells: tuple[int, ...]
    gains: tuple[float, ...]
    shots: float = 0.0
    views: float = 0.0
    kept_step: int = 0
    message: str = ""


@dataclass(frozen=True, kw_only=True)
class ViewsShown(Event):
    """Re-framed photos the last steps were trained on, newest last; `paths` are relative to the run's folder.

    Only those of the newest event are sure to exist.
    """

    step: int
    paths: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PromptsChanged(Event):
    """The samples of this step and of those to come have other prompts than before; `{subject}` stands for the thing in them."""

    step: int
    prompts: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SampleReady(Event):
    """One picture of the sample grid; `path` is relative to the run's folder. Step 0 is the base model."""

    step: int
    index: int
    prompt: str
    seed: int
    path: str


@dataclass(frozen=True, kw_only=True)
class PhotosJudged(Event):
    """A verdict begins: what the untrained model sees in the photos, a number a photo, to hold the pictures against.

    `likeness` is that of each photo to all others, `copies` to the nearest other (none of a single photo), `follows` how well it
    fits the prompts that the pictures are drawn with, which no photo was taken for. See `PicturesJudged`.
    """

    likeness: tuple[float, ...]
    copies: tuple[float, ...]
    follows: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class PicturesJudged(Event):
    """What the untrained model sees in the pictures of a checkpoint, a number a picture; step 0 is the untrained model's own.

    `likeness` to the photos of pictures in other places, `follows` how much better a picture fits its prompt than the bare
    caption, `copies` of pictures by the caption alone the likeness to the nearest photo, `nearest` the number of that photo,
    counted from 0. `drift` is as in `DriftMeasured`. `paths` are the pictures by the caption alone, relative to the run's folder.
    """

    step: int
    likeness: tuple[float, ...]
    copies: tuple[float, ...]
    follows: tuple[float, ...]
    nearest: tuple[int, ...]
    drift: float
    paths: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class PicturesSeen(Event):
    """What another network sees in the pictures that `PicturesJudged` tells of; `network` is its hub id.

    `likeness` to the photos of pictures in other places, a cosine each; `follows` the cosine of each picture to its prompt, empty
    where the network reads no words; `photos` the likeness of each photo to all others, empty of a single one.
    """

    network: str
    step: int
    likeness: tuple[float, ...]
    follows: tuple[float, ...]
    photos: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class VerdictReached(Event):
    """All checkpoints that were to be judged are; `message` is what that amounts to, `seconds` what it took."""

    message: str
    seconds: float


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved(Event):
    """A checkpoint is complete on disk; `path` is relative to the run's folder."""

    step: int
    path: str


@dataclass(frozen=True, kw_only=True)
class CheckpointDropped(Event):
    """A checkpoint that was saved before goes: a check's, which can no longer be the best. Told before its files go."""

    step: int


@dataclass(frozen=True, kw_only=True)
class ExportReady(Event):
    """A LoRA file for other programs was written, reloaded and compared; `path` is relative to the run's folder.

    `difference` is the largest pixel difference (0 to 1) between a picture of the reloaded file and of the model in memory.
    """

    step: int
    layout: str
    path: str
    keys: int
    difference: float


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event):
    """The session is over and all is saved; `reason` is a sentence, `is_complete` false when it was stopped on the way.

    `is_by_itself` is true when it ended before its last step because it only memorized.
    """

    step: int
    reason: str
    is_complete: bool
    seconds: float
    peak_memory_bytes: int
    is_by_itself: bool = False


@dataclass(frozen=True, kw_only=True)
class RunFailed(Event):
    """The session broke; `message` is one sentence with the remedy, `detail` what a developer needs."""

    message: str
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class NewerEvent(Event):
    """Something that only a newer version of this program knows how to tell; `name` is its kind there."""

    name: str


_KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in Event.__subclasses__()}


def to_json(event: Event) -> str:
    """One line without its newline."""
    return json.dumps({"kind": type(event).__name__, **dataclasses.asdict(event)}, ensure_ascii=False)


def from_json(line: str) -> Event:
    """The event of a line; a `NewerEvent` where its kind is not known here.

    Raises:
        ValueError: the line is not an event, lacks a field, or holds a value that it cannot have.
    """
    try:
        values: Any = json.loads(line)
    except RecursionError:
        raise ValueError(f"nested too deeply: {line[:80]}") from None
    name = values.pop("kind", None) if isinstance(values, dict) else None
    if not isinstance(name, str):
        raise ValueError(f"not an event: {line[:80]}")
    kind = _KINDS.get(name)
    if kind is None:
        return NewerEvent(name=name)
    shapes = _shapes(kind)
    try:
        return kind(**{key: check(key, shapes[key].take(value)) for key, value in values.items() if key in shapes})
    except TypeError as error:
        raise ValueError(f"not a complete event: {line[:80]}") from error


@dataclass(frozen=True)
class _Shape:
    """What JSON may hold for a field: one value of these types, or a list of such."""

    types: frozenset[type]
    is_list: bool

    def take(self, value: Any) -> Any:
        """The value as the event has it.

        Raises:
            TypeError: it is of another type.
        """
        found = set(map(type, value)) if self.is_list and isinstance(value, list) else {type(value)}
        if not found <= self.types or self.is_list is not isinstance(value, list):
            raise TypeError(f"{value!r} has another type")
        return tuple(value) if self.is_list else value


@functools.cache
def _shapes(kind: type[Event]) -> dict[str, _Shape]:
    shapes = {}
    for name, hint in typing.get_type_hints(kind).items():
        is_list = typing.get_origin(hint) is tuple
        types = {item for item in typing.get_args(hint) or (hint,) if item is not Ellipsis}
        shapes[name] = _Shape(frozenset(types | ({int} if float in types else set())), is_list)
    return shapes
