"""A grid of pictures as a person asks for one: its axes typed, its requests with captions."""

from apt_engine.errors import ConfigError
from apt_engine.runs.grid import Axes
from apt_engine.settings.sampling import SampleRequest
from ui.words import say

MOST_PICTURES = 200


def read_axes(checkpoints: str, strengths: str, prompts: str, first: SampleRequest) -> Axes:
    """The axes that a person typed: lists with commas, prompts one a line. An empty one stays at what the form says.

    Raises:
        ConfigError: a strength is no number, or the grid is far too large; says which.
    """
    axes = Axes(
        _listed(checkpoints.lower().replace("step", "")) or (first.checkpoint,),
        tuple(_number(one) for one in _listed(strengths)) or (first.strength,),
        tuple(filter(None, (line.strip() for line in prompts.splitlines()))) or (first.prompt,),
    )
    count = axes.requests * first.count
    if count > MOST_PICTURES:
        raise ConfigError(
            say(
                "This grid would be {count:,} pictures; {most} are the most. Take fewer values or pictures.",
                count=count,
                most=MOST_PICTURES,
            )
        )
    return axes


def _listed(words: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(filter(None, (one.strip() for one in words.split(",")))))


def _number(words: str) -> float:
    try:
        return float(words)
    except ValueError as error:
        said = say('The strength "{words}" is not a number; write some like 0.5, 1.', words=words[:40])
        raise ConfigError(said) from error


def requests_of(first: SampleRequest, axes: Axes, beside: str = "") -> list[tuple[str, SampleRequest]]:
    """The requests of a grid with their captions, block by block, row by row. All have the same seeds.

    Args:
        first: what they have in common.
        axes: what they differ in.
        beside: what is said of other LoRAs that all have.

    Raises:
        ConfigError: a value is not allowed.
    """
    return [
        (
            say("{checkpoint}, strength {strength:g}", checkpoint=_caption(checkpoint), strength=strength)
            + (f" + {beside}" if beside else ""),
            first.replace(checkpoint=checkpoint, strength=strength, prompt=prompt),
        )
        for prompt in axes.prompts
        for strength in axes.strengths
        for checkpoint in axes.checkpoints
    ]


def _caption(checkpoint: str) -> str:
    return say("step {step:,}", step=int(checkpoint)) if checkpoint.isdecimal() else checkpoint
