"""From what broke a job to a sentence: what was being done, and what to change. Imports no torch."""

from dataclasses import dataclass

from apt_engine.errors import EngineError, is_device_lost, is_out_of_memory
from apt_engine.settings.training import TrainingConfig


@dataclass(frozen=True)
class Phase:
    """A part of a job: what is going on, and what makes it take less memory."""

    doing: str
    remedy: str


CHECKPOINTED = (
    "The memory ran out while a training step was computed; going on from the last checkpoint with gradient_checkpointing, "
    "which learns the same, takes less memory and a third more time."
)
HALVED = (
    "The memory ran out while a training step was computed; going on from the last checkpoint with batches of {batch}, "
    "{accumulate} of which make a step: it learns the same, takes less memory and more time."
)
MOST_ACCUMULATED = 64  # of the setting
UNKNOWN = Phase("this was done", "close other programs, or choose a smaller base model")
# Packed weights are offered and not taken by themselves: every other rung learns the same, they do not.
STEP = Phase(
    "a training step was computed",
    "set base_precision to 8bit or 4bit, which learns a little otherwise, or lower batch_size or resolution",
)
# By the module that does it; the innermost counts.
PHASES = {
    "apt_engine.bases.registry": Phase(
        "the base model was loaded",
        "close other programs, set dtype to bf16, or base_precision to 8bit, or choose a smaller base",
    ),
    "apt_engine.training.preparation": Phase("training was prepared", "close other programs, or lower rank"),
    "apt_engine.training.latents": Phase("photos were encoded", "close other programs, or lower resolution"),
    "apt_engine.training.update": STEP,
    "apt_engine.training.compiled": STEP,  # a pass like those of a step, with its gradients
    "apt_engine.training.drift": Phase(
        "the drift was measured", "set drift_every_steps to 0, shorten drift_prompts, or lower resolution"
    ),
    "apt_engine.training.split": Phase("training was checked", "close other programs, or lower resolution"),
    "apt_engine.training.pictures": Phase("samples were drawn", "set sample_every_steps to 0, or lower resolution"),
    "apt_engine.training.exports": Phase(
        "the exported files were checked",
        "the trained LoRA is saved: close other programs and export it again, which takes the base model alone",
    ),
    "apt_engine.training.verdict": Phase("a run was judged", "close other programs, or judge it on a larger device"),
    "apt_engine.sampling.generation": Phase("pictures were drawn", "close other programs, or draw smaller ones"),
}


def explain(error: BaseException, where: str) -> str:
    """A sentence for the user; `where` the details are, if it is no plain error."""
    if isinstance(error, EngineError):
        return str(error)
    phase = phase_of(error)
    if is_out_of_memory(error):
        return f"The memory ran out while {phase.doing}; {phase.remedy}."
    if is_device_lost(error):
        reason = str(error).strip().splitlines()[0][:200]
        return (
            f"The GPU stopped answering while {phase.doing} ({reason}); go on from the last checkpoint, and if it happens "
            "again restart the computer or set device to cpu."
        )
    return f"Something unexpected happened; what was saved is kept, so try again. The details, for a report, are in {where}."


def phase_of(error: BaseException) -> Phase:
    """What was being done when it happened."""
    phase, trace = UNKNOWN, error.__traceback__
    while trace:
        phase = PHASES.get(trace.tb_frame.f_globals.get("__name__", ""), phase)
        trace = trace.tb_next
    return phase


def lighter(config: TrainingConfig, error: BaseException) -> tuple[TrainingConfig, str] | None:
    """Settings that learn the same and take less memory, where a step did not fit, and a sentence on them.

    First gradient checkpointing, then smaller batches of which several make a step. None where nothing is left to change.
    """
    if not is_out_of_memory(error) or phase_of(error) is not STEP:
        return None
    if not config.gradient_checkpointing:
        return config.replace(gradient_checkpointing=True), CHECKPOINTED
    batch, accumulate = smaller_batch(config)
    if batch == config.batch_size:
        return None
    return config.replace(batch_size=batch, accumulate=accumulate), HALVED.format(batch=batch, accumulate=accumulate)


def smaller_batch(config: TrainingConfig) -> tuple[int, int]:
    """The next smaller batch, and how many of them make the same step; those there are where none is smaller."""
    batch = max((size for size in range(1, config.batch_size) if config.batch_size % size == 0), default=1)
    accumulate = config.accumulate * config.batch_size // batch
    return (batch, accumulate) if accumulate <= MOST_ACCUMULATED else (config.batch_size, config.accumulate)
