"""One update of the LoRA: step, gradients of all processes, optimizer; and the event that tells of it."""

import dataclasses
import math
import time

from apt_engine.runs.events import StepFinished
from apt_engine.training.memory import peak_memory_bytes
from apt_engine.training.preparation import Prepared
from apt_engine.training.step import StepResult

SCALARS = ("loss", "reference_loss", "stabilization", "alignment", "prior_loss", "gradient_norm")


def take_step(prepared: Prepared, number: int) -> StepFinished:
    """Both passes, backward, and an optimizer step unless a number is not finite; the first step has number 1."""
    started = time.monotonic()
    config, accelerator, optimizer = prepared.config, prepared.accelerator, prepared.optimizer
    learning_rate = config.learning_rate * min(1.0, number / max(1, config.warmup_steps))
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    with prepared.compiled.used():
        result = prepared.step(number, accelerator.backward, prepared.clip_gradients)
    for batch in result.batches:
        prepared.views.add(batch.shown)
    event = _describe(prepared, number, result, learning_rate)
    # With a loss scaler the optimizer itself skips gradients that overflowed, and lowers the scale.
    if not event.was_skipped or accelerator.scaler is not None:
        optimizer.step()
    prepared.average.update(number)
    optimizer.zero_grad(set_to_none=True)
    return dataclasses.replace(event, seconds=time.monotonic() - started)


def _describe(prepared: Prepared, number: int, result: StepResult, learning_rate: float) -> StepFinished:
    """The event of a step."""
    numbers = {name: value.item() for name in SCALARS if (value := getattr(result, name)) is not None}
    timesteps, chances, warped, weights = result.per_sample().T.tolist()
    indicator, config = prepared.step.indicator, prepared.config
    return StepFinished(
        step=number,
        loss=numbers["loss"],
        reference_loss=numbers.get("reference_loss"),
        gap=numbers["reference_loss"] - numbers["loss"] if config.needs_reference else None,
        prior_loss=numbers.get("prior_loss"),
        stabilization=numbers.get("stabilization"),
        alignment=numbers.get("alignment"),
        gradient_norm=numbers["gradient_norm"],
        learning_rate=learning_rate,
        seconds=0.0,
        timesteps=tuple(int(timestep) for timestep in timesteps),
        chances=tuple(chances),
        warped=tuple(bool(was) for was in warped),
        weights=tuple(weights),
        gamma=tuple(indicator.gamma().tolist()) if config.has_indicator else (),
        raw_gamma=tuple(indicator.raw_gamma().tolist()) if config.has_indicator else (),
        visits=tuple(indicator.visits.int().tolist()) if config.has_indicator else (),
        was_skipped=not all(math.isfinite(number) for number in numbers.values()),
        memory_bytes=peak_memory_bytes(),
    )
