"""A grid of pictures: checkpoints across, strengths down, a block a prompt; one labelled PNG that knows its settings."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from apt_engine.errors import DiskError
from apt_engine.reading.regular import open_regular
from apt_engine.settings.sampling import SampleRequest

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

    @classmethod
    def of(cls, told: dict[str, Any]) -> "Axes":
        """The axes that JSON told.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        return cls(
            tuple(map(str, told["checkpoints"])),
            tuple(map(float, told["strengths"])),
            tuple(map(str, told["prompts"])),
        )

    @property
    def requests(self) -> int:
        """How many combinations there are."""
        return len(self.checkpoints) * len(self.strengths) * len(self.prompts)


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
    info.add_itxt("apt_studio", json.dumps(first.without_folders().to_dict()))
    info.add_itxt(KEY, json.dumps(vars(axes)))
    path = folder / "grid.png"
    try:
        _drawn(axes, first.count, pictures).save(path, pnginfo=info)
    except OSError as error:
        raise DiskError(f"The grid cannot be kept ({error.strerror}); free some disk space.") from error
    return path


def axes_inside(path: Path) -> Axes | None:
    """The axes that a grid's PNG tells; None for any other picture."""
    try:
        with open_regular(path) as file, Image.open(file, formats=["PNG"]) as image:
            return Axes.of(json.loads(image.info[KEY]))
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


def _words(checkpoint: str) -> str:
    """What stands on the grid itself, in English as all that is written into files."""
    return f"step {checkpoint}" if checkpoint.isdecimal() else checkpoint
