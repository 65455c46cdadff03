"""What is compared: settings by which a method differs from the profile of the pocket model."""

from typing import Any

from benchmarks.parts import OFF

STEPS = 500  # what five photos are given by default
CHECK_EVERY = 25
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
}
