"""Where a run goes on: the checkpoint that its next session starts from, and what is already there of that step."""

from apt_engine.runs.events import DriftMeasured, SampleReady
from apt_engine.runs.run import Checkpoint, Run


def starting_checkpoint(run: Run, last_step: int) -> Checkpoint | None:
    """The newest intact checkpoint to go on from, or None to begin at the beginning.

    Training on needs the optimizer's state; a run that has reached `last_step` is finished from its LoRA alone.
    """
    usable = (item for item in reversed(run.checkpoints()) if item.can_resume or item.step >= last_step)
    return next((item for item in usable if item.is_intact()), None)


def drawn_samples(run: Run, step: int) -> set[int]:
    """Which samples of a step were drawn and told, by their index."""
    told = (event for event in run.events()[0] if isinstance(event, SampleReady) and event.step == step)
    return {event.index for event in told if (run.path / event.path).exists()}


def has_drift(run: Run, step: int) -> bool:
    """Whether the drift of a step was measured and told."""
    return any(isinstance(event, DriftMeasured) and event.step == step for event in run.events()[0])
