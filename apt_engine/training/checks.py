"""The checks of a run in training: how much holds for new views of the photos, and where the run stands by that."""

import dataclasses
import functools
import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from pathlib import Path

import torch

from apt_engine.apt import stopping
from apt_engine.apt.memorized import turned
from apt_engine.apt.split import SHOT, VIEWS_OF, Cell, all_cells, phases
from apt_engine.apt.stopping import Check, Standing
from apt_engine.bases.base import BaseModel
from apt_engine.runs.events import SplitMeasured, StageChanged
from apt_engine.settings.training import FROM_CHECKS, TrainingConfig
from apt_engine.training.captions import Captions
from apt_engine.training.latents import LatentSource
from apt_engine.training.processes import Processes
from apt_engine.training.split import SplitProbe, count_different, encode_framings, new_views


class Checks:
    """The checks of a run so far. Process 0 measures, and all processes know what it found.

    Args:
        probe: measures.
        phases: the cells of checks that follow each other, again and again.
        judge: where a run stands by its checks.
        processes: all that train.

    Attributes:
        made: all checks so far, oldest first.
    """

    def __init__(
        self,
        probe: SplitProbe,
        phases: Sequence[Sequence[Cell]],
        judge: Callable[[Sequence[Check]], Standing],
        processes: Processes,
    ) -> None:
        self._probe = probe
        self._phases = phases
        self._judge = judge
        self._processes = processes
        self.made: list[Check] = []

    @property
    def standing(self) -> Standing:
        """After the newest check."""
        return self._judge(self.made)

    @property
    def choosable(self) -> list[int]:
        """Steps that may be kept at a later check; see `stopping.choosable`."""
        return stopping.choosable(self.made)

    def take_up(self, earlier: Iterable[SplitMeasured], drifts: Mapping[int, float]) -> None:
        """Go on after the checks that earlier sessions made, with the drifts they measured by step."""
        self.made = [check_of(event, drifts.get(event.step)) for event in earlier]

    def measure(self, step: int, drift: float | None = None) -> SplitMeasured:
        """Make the check of a step, where the drift may have been measured. All processes call it together."""
        cells = self._phases[len(self.made) % len(self._phases)]
        gains = torch.zeros(len(cells), dtype=torch.float64)
        if self._processes.is_first:
            measured = self._probe.measure(cells)
            gains = torch.tensor([measured[cell] for cell in cells], dtype=torch.float64)
        found = tuple(self._processes.add_up(gains).tolist())
        event = SplitMeasured(step=step, cells=tuple(cell.code for cell in cells), gains=found)
        self.made.append(check_of(event, drift))
        standing = self.standing
        return dataclasses.replace(
            event,
            shots=standing.shots[-1],
            views=standing.views[-1],
            kept_step=standing.kept,
            message=standing.message,
        )


def check_of(event: SplitMeasured, drift: float | None) -> Check:
    """What a check found, as the rule wants it; a drift that is no number counts as not measured."""
    gains = dict(zip(event.cells, event.gains, strict=True))
    shots = {code: gain for code, gain in gains.items() if Cell.of(code).framing == SHOT}
    views = {code: gain for code, gain in gains.items() if code not in shots}
    return Check(event.step, shots, views, drift if drift is not None and math.isfinite(drift) else None)


def end_when_all_turned(judge: Callable[[Sequence[Check]], Standing], checks: Sequence[Check]) -> Standing:
    """What a rule says, or that the run is over: were all bins held, AdamW would learn from them as if none was."""
    standing = judge(checks)
    if not all(turned(checks)):
        return standing
    message = (
        "At every noise level new views of your photos are fitted no better any more: there is nothing left to learn."
    )
    return dataclasses.replace(standing, is_over=True, message=message)


def prepare_checks(
    base: BaseModel,
    config: TrainingConfig,
    photos: LatentSource,
    *,
    paths: Sequence[Path],
    captions: Captions,
    processes: Processes,
    last_step: int,
    obey_stop: Callable[[], None],
) -> Generator[StageChanged, None, Checks | None]:
    """The checks of a run before the first of them; None where it has none."""
    framings = VIEWS_OF[config.new_views]
    if not framings or not 0 < config.check_steps(last_step) <= last_step:
        return None
    latents = yield from encode_framings(base, paths, photos, framings, obey_stop)
    views = new_views(latents)
    obstacle = "" if views else _views_alike(config.new_views)
    views = views or [key for key in latents if key[1] != SHOT]
    every = cells_of(config, len(photos), views)
    judge = functools.partial(stopping.stand, last_step=last_step, photos=count_different(photos), obstacle=obstacle)
    if config.indicator == "turn":
        judge = functools.partial(end_when_all_turned, judge)
    return Checks(SplitProbe(base, latents, captions, config.seed), every, judge, processes)


def _views_alike(new_views: str) -> str:
    if new_views == "both":
        return "new views of your photos look like the photos themselves; take photos that show more"
    return "new views of your photos look like the photos themselves; set new_views to both"


def cells_of(config: TrainingConfig, photos: int, views: Sequence[tuple[int, int]]) -> list[list[Cell]]:
    """Of each check of a round; of finer noise than the rule asks for only where an indicator does."""
    if config.thorough_checks:
        return [all_cells(photos, views)]
    first_bin = 0 if config.indicator in FROM_CHECKS else stopping.RULE.first_bin
    return phases(photos, views, config.batch_size, first_bin)
