"""What the tests of the page's handlers share."""

from pathlib import Path
from typing import Any

from apt_engine.jobs.worker import Worker
from apt_engine.runs.events import (
    CheckpointSaved,
    RunFinished,
    RunStarted,
    SplitMeasured,
    StepFinished,
)
from apt_engine.runs.run import Run
from apt_engine.settings.training import TrainingConfig
from ui import models, picture_view, train_view
from ui.context import AppContext, Values
from ui.photo_tiles import tiles_of


def engine(context: AppContext) -> Worker:
    """The engine's parent side."""
    assert isinstance(context.engine, Worker)
    return context.engine


def new_run(context: AppContext, subject: str = "backpack", **settings: Any) -> Run:
    config = TrainingConfig(subject=subject, **{"steps": 10, **settings})
    return context.store.create(config, lambda folder: (folder / "01.png").touch())


def begun(run: Run, steps: int) -> Run:
    run.append(RunStarted(run=run.id, base="pocket", subject="backpack", photo_count=1, first_step=0, last_step=10))
    for number in range(1, steps + 1):
        run.append(step(number))
    return run


def checked(run: Run, kept_step: int) -> Run:
    """A run after a check at its sixth step, that tells a step from the last."""
    run.append(
        SplitMeasured(step=6, cells=(), gains=(), shots=0.4, views=0.25, kept_step=kept_step, message="No better.")
    )
    return run


def ended(run: Run, reason: str, *, is_by_itself: bool = False) -> Run:
    """A run of ten steps that ended at its sixth, with checkpoints whose fourth step is kept."""
    checked(begun(run, steps=6), kept_step=4)
    for number in (2, 4, 6):
        run.save_checkpoint(number, lambda folder: (folder / "lora.safetensors").touch())
        run.append(CheckpointSaved(step=number, path=f"checkpoints/{number:06d}"))
    run.append(
        RunFinished(step=6, reason=reason, is_complete=True, is_by_itself=is_by_itself, seconds=1, peak_memory_bytes=1)
    )
    return run


def step(number: int) -> StepFinished:
    return StepFinished(step=number, loss=0.2, prior_loss=None, gradient_norm=1, learning_rate=1e-4, seconds=0.5)


def form(view: train_view.TrainView, photos: list[Path], **settings: Any) -> dict[Any, Any]:
    """What the page hands over when the form shows its first values, but for `settings`."""
    values: dict[Any, Any] = {component: getattr(component, "value", None) for component in view.settings.values()}
    values |= {view.settings[name]: value for name, value in settings.items()}
    return {**values, view.photos: tiles_of(photos)}


def drawing_form(view: picture_view.GenerateView, **changes: Any) -> Values:
    """The Generate tab's form as it stands at first, with some settings changed."""
    inputs = {**view.settings, **view.form.axes, "keep_seed": view.form.keep_seed, "compare": view.compare}
    model = {"choices": [], "chosen": changes.get("run", models.BARE)}
    shown = {component: changes.get(name, getattr(component, "value", None)) for name, component in inputs.items()}
    return {**shown, view.model: model, view.more: {"rows": changes.get("rows", [])}}
