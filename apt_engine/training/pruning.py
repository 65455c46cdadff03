"""Which checkpoints of a run in training may go: each check has one, and few of them can still become the one that is kept."""

from collections.abc import Iterable, Sequence

from apt_engine.runs.events import SplitMeasured
from apt_engine.runs.run import Run


def superfluous(run: Run, splits: Sequence[SplitMeasured], choosable: Iterable[int]) -> list[int]:
    """Steps of the checkpoints that only a check asked for and nobody needs any more, oldest first.

    Those stay that the settings ask for, that have samples, that a later check may keep, that training can go on from, and that
    were kept at those: who goes on from the older one, since the newer is damaged, finds the run as it was.

    Args:
        run: with the checkpoint of the newest check saved.
        splits: all checks so far, oldest first.
        choosable: steps that may be kept at a later check.
    """
    config, saved = run.config, run.checkpoints()
    resumable = [item.step for item in saved if item.can_resume]
    kept = {_kept_at(start, splits) for start in resumable}
    intervals = [every for every in (config.save_every_steps, config.sample_every_steps) if every]
    only_checked = {split.step for split in splits if all(split.step % every for every in intervals)}
    return [item.step for item in saved if item.step in only_checked - {*choosable, *resumable, *kept, saved[-1].step}]


def _kept_at(step: int, splits: Sequence[SplitMeasured]) -> int:
    """The kept step as it was known at a step; 0 before the first check."""
    return next((split.kept_step for split in reversed(splits) if split.step <= step), 0)
