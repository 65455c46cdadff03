"""What is compared: settings by which a method differs from the profile of the pocket model."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from benchmarks.evidence.steps import AdaptedDraws, ConsistencyStep, FiveBins, OneBin, smoothing, stepping
from benchmarks.parts import OFF

STEPS = 500  # what five photos are given by default
CHECK_EVERY = 25
CHECKED_AT = range(CHECK_EVERY, STEPS + 1, CHECK_EVERY)
DRAWN_AT = (50, 100, 150, 200, 300, 400, 500)
FIXED: dict[str, Any] = {
    "steps": STEPS,
    "stop": "never",
    "check_every_steps": 0,  # all cells are measured afterwards, from the checkpoints
    "save_every_steps": CHECK_EVERY,
    "sample_every_steps": 0,
    "sample_prompts": (),
    "drift_every_steps": 0,
    "device": "cpu",
    "dtype": "fp32",
}
CHECKED: dict[str, Any] = {"check_every_steps": CHECK_EVERY}  # these methods learn from their checks
TURN: dict[str, Any] = {"indicator": "turn", **CHECKED}
METHODS: dict[str, dict[str, Any]] = {
    "plain": OFF,
    "plain, rate x 0.3": {**OFF, "learning_rate": 3e-4},  # of 1e-3; what is right for one rate is wrong for another
    "plain, rate x 3": {**OFF, "learning_rate": 3e-3},
    "prior": {**OFF, "prior_preservation": True},
    "augmentation": {"weighting": False, "stabilization": 0, "alignment": 0},
    "weighting": {"augmentation": 0, "stabilization": 0, "alignment": 0},
    "ata": {"stabilization": 0, "alignment": 0},
    "rs": {"alignment": 0},
    "apt": {},
    "apt, relative": {"indicator": "relative"},
    "apt, split": {"indicator": "split", **CHECKED},
    "held": {**OFF, "weighting": True, **TURN},
    "held, augmentation": {**TURN, "stabilization": 0, "alignment": 0},
    "held, rs, aa": {"augmentation": 0, **TURN},
    "apt, ema": {"ema_decay": 0.99},
    "apt, draws": {},
    "dco": {**OFF, "measure": True},
}
VARIATIONS: dict[
    str, dict[str, Any]
] = {  # of apt: how much its indicator's numbers matter; pocket has 10, .8, .1 and ten
    "apt, sensitivity 2.5": {"sensitivity": 2.5},
    "apt, sensitivity 40": {"sensitivity": 40},
    "apt, p_max 0.4": {"augmentation": 0.4},
    "apt, p_max 1": {"augmentation": 1.0},
    "apt, a 0.03": {},
    "apt, a 0.3": {},
    "apt, 5 bins": {},
    "apt, 1 bin": {},
}
_WITHIN: dict[str, Callable[[], AbstractContextManager[None]]] = {
    "apt, draws": partial(stepping, AdaptedDraws),
    "dco": partial(stepping, ConsistencyStep),
    "apt, a 0.03": partial(smoothing, 0.03),
    "apt, a 0.3": partial(smoothing, 0.3),
    "apt, 5 bins": partial(stepping, FiveBins),
    "apt, 1 bin": partial(stepping, OneBin),
}


def tuned_as(method: str) -> str:
    """The method on whose tuning runs a best constant for this one rests: whoever trains otherwise has no other number."""
    return method.partition(", rate")[0]


def settings_of(method: str) -> dict[str, Any]:
    """Of a method or a variation: by which settings it differs from the profile."""
    return {**METHODS, **VARIATIONS}[method]


def trained_as(method: str) -> AbstractContextManager[None]:
    """A run of the method is trained inside, in this process: what no setting says is otherwise there."""
    return _WITHIN.get(method, nullcontext)()
