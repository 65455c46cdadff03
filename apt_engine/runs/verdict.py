"""The verdict of a run: what the untrained model sees in its checkpoints' pictures, and what that amounts to in a sentence.

Each measure stands beside two others: that of the untrained model's own pictures, and that of the photos among each other. None
is good or bad by itself, and nothing is added up to a score.
"""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from apt_engine.runs.events import PhotosJudged, PicturesJudged, PicturesSeen

PLACES = (
    "a photo of a {subject} on the beach",
    "a photo of a {subject} in the snow",
    "a photo of a {subject} in the forest",
    "a photo of a {subject} in the city",
)
PROMPTS = (*PLACES, "a watercolor painting of a {subject}", "a pencil sketch of a {subject}")
SEEDS = 2  # pictures of each prompt
CAPTIONED = 4  # pictures by the caption alone
PICTURES = len(PROMPTS) * SEEDS + CAPTIONED
MOST_DRAWING_STEPS = 10  # where a run's samples have more: a judge sees the same in these, in half the time
BETWEEN = (0.25, 0.5, 0.75)  # shares of the way at which a checkpoint is judged beside the kept one and the last
MUCH_LESS = 0.95  # of the last step's drift: above this the two are alike
CLEAR = 2  # standard errors from which on a difference is told
MEASURES = ("likeness", "follows", "copies")


@dataclass(frozen=True)
class Verdict:
    """A whole verdict: the photos, then the pictures of step 0, which is the untrained model, and of some checkpoints."""

    photos: PhotosJudged
    pictures: tuple[PicturesJudged, ...]
    message: str
    seconds: float
    seen: tuple[PicturesSeen, ...] = ()

    @property
    def networks(self) -> list[str]:
        """Which other networks looked at the pictures too, by their hub ids."""
        return list(dict.fromkeys(one.network for one in self.seen))

    def seen_by(self, network: str) -> list[PicturesSeen]:
        """What one of them saw, in the order of steps."""
        return [one for one in self.seen if one.network == network]

    def curve(self, measure: str) -> list[tuple[int, float, float]]:
        """Step, mean and standard error of one of MEASURES, in the order of steps."""
        return [(one.step, *mean_of(getattr(one, measure))) for one in self.pictures]

    def of_photos(self, measure: str) -> float:
        """The mean of the photos' own; not a number where a single photo has none."""
        return mean_of(getattr(self.photos, measure))[0]

    def lines(self) -> list[str]:
        """As a table: a line a model, and the photos' own."""
        curves = [self.curve(measure) for measure in MEASURES]
        found = ["".join([f"{'step':<10}", *(f"{measure:<16}" for measure in MEASURES), "drift"])]
        for number, one in enumerate(self.pictures):
            cells = "".join(f"{mean:<6.3f} ± {error:<7.3f}" for _, mean, error in (curve[number] for curve in curves))
            found.append(f"{one.step or 'untrained':<10}{cells}{one.drift:.4f}")
        found.append(f"{'photos':<10}" + "".join(f"{self.of_photos(measure):<16.3f}" for measure in MEASURES))
        for network in self.networks:
            found += ["", *_lines_of(network, self.seen_by(network))]
        return [*found, "", measured_by(self.networks)]


def chosen_steps(steps: Sequence[int], kept: int) -> list[int]:
    """Which checkpoints are judged: the kept one, the last, and a few that lie evenly between; in order."""
    if not steps:
        return []
    between = (min(steps, key=lambda step: abs(step - share * max(steps))) for share in BETWEEN)
    return sorted({*between, max(steps), *({kept} & {*steps})})


def passes(checkpoints: int, drawing_steps: int, photos: int) -> int:
    """How often the model is asked about one picture in a verdict on so many checkpoints."""
    drawn = 2 * min(drawing_steps, MOST_DRAWING_STEPS)  # each step asks with the prompt and without
    seen = 1 + 2 * 4  # features once; the loss at four noise levels, with and without what the prompt adds
    return (checkpoints + 1) * PICTURES * (drawn + seen) + photos * (1 + 4 * (1 + len(PROMPTS)))


def measured_by(networks: Sequence[str]) -> str:
    """Which networks a verdict rests on, in a sentence."""
    if not networks:
        return (
            "Measured by the untrained model itself; neither CLIP nor DINOv2 lies in the hub's cache of this computer."
        )
    return f"Measured by the untrained model itself, and beside it by {' and '.join(networks)} from the hub's cache."


def _lines_of(network: str, seen: Sequence[PicturesSeen]) -> list[str]:
    """As a table: a line a model, and the photos' own."""
    lines = [network, f"{'step':<10}{'likeness':<16}{'follows':<16}".rstrip()]
    for one in seen:
        both = "".join(_cell(values) for values in (one.likeness, one.follows))
        lines.append(f"{one.step or 'untrained':<10}{both}".rstrip())
    return [*lines, f"{'photos':<10}{mean_of(seen[0].photos)[0]:.3f}"]


def _cell(values: Sequence[float]) -> str:
    mean, error = mean_of(values)
    return f"{mean:<6.3f} ± {error:<7.3f}" if values else f"{'-':<16}"


def mean_of(values: Iterable[float]) -> tuple[float, float]:
    """Mean and standard error of what is finite; the error is 0 where one value alone says nothing of it."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return math.nan, math.nan
    error = statistics.stdev(finite) / len(finite) ** 0.5 if len(finite) > 1 else 0.0
    return statistics.fmean(finite), error


def describe(photos: PhotosJudged, pictures: Sequence[PicturesJudged], kept: int, subject: str) -> str:
    """What a verdict amounts to for the kept checkpoint, or the last one, in one sentence.

    Args:
        photos: judged themselves.
        pictures: the untrained model's first, the last checkpoint's last.
        kept: a step; 0 for the last.
        subject: what the thing is called.
    """
    before, last = pictures[0], pictures[-1]
    chosen = next((one for one in pictures if one.step == kept), last) if kept else last
    parts = [_likeness(photos, before, chosen, subject), _follows(before, chosen), _copies(photos, chosen)]
    if chosen.drift < MUCH_LESS * last.drift:
        parts.append(
            f"everything else has changed {100 * chosen.drift / last.drift:.0f} % as much as at step {last.step:,}"
        )
    return f"Step {chosen.step:,}: {'; '.join(parts)}."


def _likeness(photos: PhotosJudged, before: PicturesJudged, chosen: PicturesJudged, subject: str) -> str:
    start, now, goal = (mean_of(one.likeness)[0] for one in (before, chosen, photos))
    if math.isnan(now):
        return "its pictures hold numbers that are not finite, so nothing can be told of them"
    if not is_clear(before.likeness, chosen.likeness):
        return f"its pictures are no more like your {subject} than the untrained model's"
    if now < start:
        return f"its pictures are less like your {subject} than the untrained model's"
    if math.isnan(goal) or goal <= start:
        return f"its pictures are more like your {subject} than the untrained model's"
    share = (now - start) / (goal - start)
    if share >= 1:
        return "its pictures are as like your photos as these are like each other"
    return f"its pictures have come {100 * share:.0f} % of the way from the untrained model's to your photos"


def _follows(before: PicturesJudged, chosen: PicturesJudged) -> str:
    start, now = mean_of(before.follows)[0], mean_of(chosen.follows)[0]
    if start < 0 or not is_clear([0.0] * len(before.follows), before.follows):
        return "the untrained model itself does not follow the prompts asked, so that cannot be told"
    if not is_clear(before.follows, chosen.follows):
        return "they follow prompts as the untrained model's do"
    return f"they follow prompts {'less' if now < start else 'more'} than the untrained model's"


def _copies(photos: PhotosJudged, chosen: PicturesJudged) -> str:
    if not photos.copies:
        return "with one photo nothing tells a copy"
    near = sum(value > max(photos.copies) for value in chosen.copies)
    if not near:
        return "none repeats a photo"
    return f"{near} of {len(chosen.copies)} are nearer to a photo than any two of your photos to each other"


def is_clear(before: Sequence[float], now: Sequence[float]) -> bool:
    """Whether pictures of the same prompts and seeds, one to one, differ by more than chance."""
    mean, error = mean_of([one - other for one, other in zip(now, before, strict=False)])
    return abs(mean) > CLEAR * error
