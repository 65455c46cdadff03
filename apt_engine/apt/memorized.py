"""Indicators read off the split [ours]: gamma of a timestep bin from what its checks say, in place of running mean losses.

    split   gamma_b = M_b = 1 - U_b / shots_b       the memorized share of the gain: grows with memorizing, not with learning
    turn    gamma_b = 0.99 from the bin's own turn  the weight 1 - gamma falls to .01, the bin is held; 0 before

A bin's turn: new views of the photos were not fitted better than ever before at two of its checks running. None of it needs the
untrained model in each step. Mind AdamW: it undoes a scale common to all bins, so where all are held nothing is; the run ends.
"""

import statistics
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from apt_engine.apt.bins import BINS
from apt_engine.apt.indicator import GAMMA_MAX
from apt_engine.apt.split import Cell
from apt_engine.apt.stopping import RULE, Check, is_finite

CHECKS_BEHIND = 2


def memorized_share(shots: float, views: float) -> float:
    """M = 1 - U / shots, of mean gains; 0 where too little was learnt to tell."""
    return 1 - views / shots if shots >= RULE.least_gain else 0.0


def has_turned(gains: Sequence[float]) -> bool:
    """Whether gains on new views, oldest first, ever stayed behind their best two times running."""
    behind = 0
    for count, gain in enumerate(gains):
        behind = behind + 1 if gain <= max(gains[:count], default=-torch.inf) else 0
        if behind == CHECKS_BEHIND:
            return True
    return False


def shares(checks: Sequence[Check]) -> list[float]:
    """The memorized share of each bin (N,), by its newest check that saw shots and views of it."""
    found = [0.0] * BINS
    for check in filter(is_finite, checks):
        shots, views = _by_bin(check.shots), _by_bin(check.views)
        for index in shots.keys() & views.keys():
            found[index] = memorized_share(shots[index], views[index])
    return found


def turned(checks: Sequence[Check]) -> list[bool]:
    """Of each bin (N,) whether it is past its turn."""
    seen = [_by_bin(check.views) for check in filter(is_finite, checks)]
    return [has_turned([views[index] for views in seen if index in views]) for index in range(BINS)]


class SplitIndicator:
    """The indicator of a run whose checks tell it; the state it needs is in them.

    Args:
        form: split or turn.
        checks: asked for all so far.

    Attributes:
        visits: samples seen in each bin (N,).
    """

    def __init__(self, form: str, checks: Callable[[], Sequence[Check]]) -> None:
        self._form = form
        self._checks = checks
        self._told: tuple[int, Tensor] = 0, torch.zeros(BINS, dtype=torch.float64)  # by how many checks, and what
        self.visits = torch.zeros(BINS, dtype=torch.float64)

    def update(self, sums: Tensor, counts: Tensor) -> None:  # noqa: ARG002  # the losses do not matter here
        """Take in one step; see `OverfittingIndicator`."""
        self.visits = self.visits + counts

    def on(self, device: torch.device) -> "SplitIndicator":
        """A copy on a device, in fp32."""
        copy = SplitIndicator(self._form, self._checks)
        copy._told = len(self._checks()), self.raw_gamma().float().to(device)
        copy.visits = self.visits.float().to(device)
        return copy

    def raw_gamma(self) -> Tensor:
        """Gamma of every bin (N,) before clamping; 0 before its first check."""
        checks = self._checks()
        if self._told[0] != len(checks):
            found = [GAMMA_MAX * is_past for is_past in turned(checks)] if self._form == "turn" else shares(checks)
            self._told = len(checks), torch.tensor(found, dtype=torch.float64)
        return self._told[1]

    def gamma(self) -> Tensor:
        """Gamma of every bin (N,) in 0 .. 0.99."""
        return self.raw_gamma().clamp(0, GAMMA_MAX)

    def state_dict(self) -> dict[str, Tensor]:
        """What must survive a resume besides the checks."""
        return {"visits": self.visits}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a saved state, exactly."""
        self.visits = state["visits"].clone()


def _by_bin(gains: Mapping[int, float]) -> dict[int, float]:
    """The mean gain in each bin that was measured, from gains by the codes of cells."""
    found: dict[int, list[float]] = {}
    for code, gain in gains.items():
        found.setdefault(Cell.of(code).bin, []).append(gain)
    return {index: statistics.fmean(values) for index, values in found.items()}
