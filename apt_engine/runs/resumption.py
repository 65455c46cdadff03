"""Where a run goes on: the checkpoint that its next session starts from."""

from apt_engine.runs.run import Checkpoint, Run


def starting_checkpoint(run: Run, last_step: int) -> Checkpoint | None:
    """The newest intact checkpoint to go on from, or None to begin at the beginning.

    Training on needs the optimizer's state; a run that has reached `last_step` is finished from its LoRA alone.
    """
    usable = (item for item in reversed(run.checkpoints()) if item.can_resume or item.step >= last_step)
    return next((item for item in usable if item.is_intact()), None)
