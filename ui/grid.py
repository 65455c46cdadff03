"""A grid of pictures: checkpoints across, strengths down, a block a prompt; one labelled PNG that knows its settings."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from apt_engine.errors import ConfigError, DiskError
from apt_engine.reading.regular import open_regular
from apt_engine.settings.sampling import SampleRequest
from ui.words import say

MOST_PICTURES = 200
LABEL = 26  # px above columns and blocks
SIDE_LABEL = 90  # px before rows
GAP = 6
LEAST_CELL = 128  # px; smaller pictures are enlarged
INK, PAPER, QUIET = "#1c1917", "#ffffff", "#57534e"
KEY = "apt_studio_grid"


@dataclass(frozen=True)
class Axes:
    """What a grid goes through; each has at least one value."""

    checkpoints: tuple[str, ...]
    strengths: tuple[float, ...]
    prompts: tuple[str, ...]

    @property
    def requests(self) -> int:
        """How many combinations there are."""
        return len(self.checkpoints) * len(self.strengths) * len(self.prompts)


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
        said = say('The strength "{words}" is no number; write some like 0.5, 1.', words=words[:40])
        raise ConfigError(said) from error


def requests_of(first: SampleRequest, axes: Axes) -> list[tuple[str, SampleRequest]]:
    """The requests of a grid with their captions, block by block, row by row. All have the same seeds.

    Raises:
        ConfigError: a value is not allowed.
    """
    return [
        (
            say("{checkpoint}, strength {strength:g}", checkpoint=_caption(checkpoint), strength=strength),
            first.replace(checkpoint=checkpoint, strength=strength, prompt=prompt),
        )
        for prompt in axes.prompts
        for strength in axes.strengths
        for checkpoint in axes.checkpoints
    ]


def _caption(checkpoint: str) -> str:
    return say("step {step:,}", step=int(checkpoint)) if checkpoint.isdecimal() else checkpoint


def _words(checkpoint: str) -> str:
    """What stands on the grid itself, in English as all that is written into files."""
    return f"step {checkpoint}" if checkpoint.isdecimal() else checkpoint


def save_grid(folder: Path, first: SampleRequest, axes: Axes, pictures: Sequence[Path]) -> Path:
    """Put the pictures of a grid together as `folder`/grid.png, with labels outside and settings inside.

    Args:
        folder: is there.
        first: the request whose other settings all share.
        axes: of the grid.
        pictures: those of `requests_of`, `first.count` each, in order.

    Raises:
        DiskError: it cannot be written.
    """
    assert len(pictures) == axes.requests * first.count
    info = PngInfo()
    info.add_itxt("apt_studio", json.dumps(first.to_dict()))
    info.add_itxt(KEY, json.dumps(vars(axes)))
    path = folder / "grid.png"
    try:
        _drawn(axes, first.count, pictures).save(path, pnginfo=info)
    except OSError as error:
        said = say("The grid cannot be kept ({reason}); free some disk space.", reason=error.strerror)
        raise DiskError(said) from error
    return path


def axes_inside(path: Path) -> Axes | None:
    """The axes that a grid's PNG tells; None for any other picture."""
    try:
        with open_regular(path) as file, Image.open(file, formats=["PNG"]) as image:
            told: dict[str, Any] = json.loads(image.info[KEY])
            return Axes(
                tuple(map(str, told["checkpoints"])),
                tuple(map(float, told["strengths"])),
                tuple(map(str, told["prompts"])),
            )
    except (OSError, KeyError, ValueError, TypeError, SyntaxError, RecursionError, Image.DecompressionBombError):
        return None


def _drawn(axes: Axes, count: int, pictures: Sequence[Path]) -> Image.Image:
    with Image.open(pictures[0]) as one:
        times = max(1, -(-LEAST_CELL // one.width))
        width, height = one.width * times, one.height * times
    column, row = count * (width + GAP), height + GAP
    block = LABEL + len(axes.strengths) * row
    sheet = Image.new("RGB", (SIDE_LABEL + len(axes.checkpoints) * column, LABEL + len(axes.prompts) * block), PAPER)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for x, checkpoint in enumerate(axes.checkpoints):
        pen.text((SIDE_LABEL + x * column, 4), _words(checkpoint), INK, font)
    paths = iter(pictures)
    for y, prompt in enumerate(axes.prompts):
        top = LABEL + y * block
        pen.text((4, top + 4), prompt, INK, font)
        for line, strength in enumerate(axes.strengths):
            pen.text((4, top + LABEL + line * row + height // 2 - 8), f"{strength:g}", QUIET, font)
            for x in range(len(axes.checkpoints) * count):
                with Image.open(next(paths)) as picture:
                    place = (SIDE_LABEL + x * (width + GAP), top + LABEL + line * row)
                    sheet.paste(picture.convert("RGB").resize((width, height), Image.Resampling.BICUBIC), place)
    return sheet
