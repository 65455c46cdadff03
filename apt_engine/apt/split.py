"""The split [ours]: how much of what was learnt holds for new views of the photos, and how much for these very shots alone.

    gain of a cell = 1 - L_tuned / L_ref, both losses paired: the same latents, noise and timestep
    shots   = mean gain over cells that are photos as they are
    views U = mean gain over cells that are views which training never makes: mirrored, enlarged
    M       = 1 - U / shots, the memorized share of what was gained

Augmentation zooms out and turns, so neither view is ever trained on; no photo is held out. A cell is a photo, a framing of it and
a timestep bin, with a noise of its own. A check measures a few cells, always the same ones in turn: of each bin one view every
second check, one shot every fourth, and as many times that as a step has samples. That is thin, and yet two checks are compared
fairly, cell by cell. Bins of fine noise, which the rule does not ask for, are measured where an indicator needs them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from apt_engine.apt.bins import BINS

SHOT, MIRROR, ZOOM = range(3)
FRAMINGS = 3
# By the setting `new_views`.
VIEWS_OF = {"both": (MIRROR, ZOOM), "mirrored": (MIRROR,), "enlarged": (ZOOM,), "none": ()}
VIEW_PHASES, SHOT_PHASES = 2, 4


@dataclass(frozen=True)
class Cell:
    """One thing to measure; numbers of a photo, of its framing, and of a bin."""

    photo: int
    framing: int
    bin: int

    @property
    def code(self) -> int:
        """The three as one number."""
        return (self.photo * FRAMINGS + self.framing) * BINS + self.bin

    @classmethod
    def of(cls, code: int) -> "Cell":
        """The cell of a code."""
        rest, bin_index = divmod(code, BINS)
        return cls(*divmod(rest, FRAMINGS), bin_index)


def all_cells(photos: int, views: Sequence[tuple[int, int]]) -> list[Cell]:
    """Every photo as it is and every view (photo, framing) at every bin."""
    shown = [*views, *((photo, SHOT) for photo in range(photos))]
    return [Cell(*one, index) for one in shown for index in range(BINS)]


def phases(photos: int, views: Sequence[tuple[int, int]], rounds: int = 1, first_bin: int = 0) -> list[list[Cell]]:
    """The cells of checks that follow each other, again and again: five views, of every other bin, and two or three shots.

    Without the finer half of the bins half as many: what of the others is measured, and at which check, stays the same.

    A shot is of the photo whose view is measured in the same bin at the same check, so that the two can be compared.

    Args:
        photos: how many.
        rounds: so many times as many views, each another one, and the shots that belong to them.
        views: those there are, (photo, framing); a check takes them in turn, alternating framings.
        first_bin: finer ones are left out.
    """
    kinds = sorted({framing for _, framing in views})
    turns = [(photo, kinds[(photo + turn) % len(kinds)]) for turn in range(len(kinds)) for photo in range(photos)]
    turns = [view for view in turns if view in views]
    bins = [index for phase in range(VIEW_PHASES) for index in range(phase, BINS, VIEW_PHASES)]
    rounds = min(rounds, len(turns))
    cells = [
        Cell(*turns[(place * rounds + number) % len(turns)], index)
        for place, index in enumerate(bins)
        for number in range(rounds)
        if index >= first_bin
    ]
    shots = dict.fromkeys(Cell(cell.photo, SHOT, cell.bin) for cell in cells)
    return [
        [cell for cell in cells if cell.bin % VIEW_PHASES == phase % VIEW_PHASES]
        + [cell for cell in shots if cell.bin % SHOT_PHASES == phase]
        for phase in range(SHOT_PHASES)
    ]
