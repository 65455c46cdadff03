"""Whether a run may end before its last step, as its settings alone tell it; without torch."""

from apt_engine.settings.training import TrainingConfig


def first_end(photo_count: int) -> int:
    """The step before which no run ends by itself; as `apt.stopping` has it, which imports torch (a test compares them)."""
    return max(150, 40 * photo_count)


def is_checked(config: TrainingConfig) -> bool:
    """Whether anything is measured that could end a run, and may."""
    return config.stop != "never" and bool(config.check_every_steps) and config.new_views != "none"


def may_end_early(config: TrainingConfig, photo_count: int) -> bool:
    """Whether a run with so many photos can end by itself; one that cannot goes on to its last step."""
    return is_checked(config) and photo_count > 1 and config.steps_for(photo_count) > first_end(photo_count)
