"""From what broke a job to a sentence: what was being done, and what to change. Imports no torch."""

from dataclasses import dataclass

from apt_engine.errors import EngineError, is_device_lost, is_out_of_memory
from apt_engine.settings.training import TrainingConfig


@dataclass(frozen=True)
class Phase:
    """A part of a job: what is going on, and what makes it take less memory."""

    doing: str
    remedy: str


UNKNOWN = Phase("this was done", "close other programs, or choose a smaller base model")
STEP = Phase("a training step was computed", "lower batch_size or resolution")
# By the module that does it; the innermost counts.
PHASES = {
    "apt_engine.bases.registry": Phase(
        "the base model was loaded", "close other programs, set dtype to bf16, or choose a smaller base model"
    ),
    "apt_engine.training.preparation": Phase("training was prepared", "close other programs, or lower rank"),
    "apt_engine.training.latents": Phase("photos were encoded", "close other programs, or lower resolution"),
    "apt_engine.training.update": STEP,
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


def lighter(config: TrainingConfig, error: BaseException) -> TrainingConfig | None:
    """Settings that learn the same and take less memory, where a step did not fit; None where there are none left."""
    if not is_out_of_memory(error) or phase_of(error) is not STEP or config.gradient_checkpointing:
        return None
    return config.replace(gradient_checkpointing=True)
