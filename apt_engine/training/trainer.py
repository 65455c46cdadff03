"""Training: a run on disk in, a stream of events out.

    RunStarted
      StageChanged         loading the model, encoding the photos, making prior pictures
      SampleReady ...      step 0: what the base model draws
      StepFinished         each step; after some of them
        Calibrated         once, when the weights of RS and AA are found
        DriftMeasured      before the first step and every `drift_every_steps`
        ViewsShown         every few steps, while photos are re-framed
        CheckpointSaved    every `save_every_steps`
        SampleReady ...    every `sample_every_steps`
      CheckpointSaved      the last step
      ExportReady ...      LoRA files for other programs, reloaded and compared
    RunFinished            or an EngineError, after which the run can be resumed from its last checkpoint

The session after one that died at the last checkpoint trains no more: it makes what is missing and ends the run.

The trainer writes checkpoints and pictures; whoever consumes the events appends them to the run.
"""

import dataclasses
import math
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from PIL import Image
from torch import Tensor

from apt_engine.bases import hub
from apt_engine.bases.registry import choose_device, choose_dtype, load_base
from apt_engine.errors import ConfigError, DiskError, EngineError, RunError
from apt_engine.lora import adapter, files
from apt_engine.runs.events import (
    Calibrated,
    CheckpointSaved,
    DriftMeasured,
    Event,
    Noticed,
    RunFinished,
    RunStarted,
    SampleReady,
    StageChanged,
    StepFinished,
    ViewsShown,
)
from apt_engine.runs.history import RunSummary
from apt_engine.runs.resumption import starting_checkpoint
from apt_engine.runs.run import KEPT_OPTIMIZER_STATES, Checkpoint, Run
from apt_engine.sampling.sampler import Picture, Sampler, save_picture
from apt_engine.settings.training import TrainingConfig
from apt_engine.training import exports
from apt_engine.training import state as training_state
from apt_engine.training.captions import class_caption
from apt_engine.training.drift import PriorDrift
from apt_engine.training.latents import encode_photos, encode_with_warps
from apt_engine.training.memory import peak_memory_bytes
from apt_engine.training.process_rank import process_count
from apt_engine.training.processes import processes_of
from apt_engine.training.step import AdaptiveStep, StepResult

ShouldStop = Callable[[], bool]
NON_FINITE_STEPS_ALLOWED = 3
SHOW_VIEWS_EVERY_STEPS = 10
VIEWS_SHOWN = 5


class Trainer:
    """Trains one run, from its beginning or from its newest intact checkpoint."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._config: TrainingConfig = run.config
        self._photos = run.photo_paths
        wanted = self._config.steps_for(len(self._photos))
        self._checkpoint = starting_checkpoint(run, wanted)
        self._step = self._checkpoint.step if self._checkpoint else 0
        self._last_step = max(wanted, self._step)
        self._started = time.monotonic()
        self._drift: PriorDrift | None = None
        self._shown: deque[Image.Image] = deque(maxlen=VIEWS_SHOWN)

    def run(self, should_stop: ShouldStop = lambda: False, should_pause: ShouldStop = lambda: False) -> Iterator[Event]:
        """Train to the last step, or until `should_stop()`; what was learnt by then is saved and exported.

        `should_pause()` ends it too, after one step at least, but as a run that goes on elsewhere: saved, with neither exports
        nor an end.

        Raises:
            EngineError: the run cannot go on; its checkpoints are kept.
        """
        if self._step >= self._last_step and RunSummary.of(self._run).state == "finished":
            raise RunError(f"Run {self._run.id} is already at step {self._step}; give it more steps to go on.")
        yield self._start_event()
        try:
            yield from self._load()
            if self._step < self._last_step:
                yield from self._prepare(should_stop)
                first = self._step
                yield from self._loop(lambda: should_stop() or (self._step > first and should_pause()))
            else:
                yield from self._take_up()
            if self._step < self._last_step and not should_stop():
                yield from self._pause()
                return
            yield from self._finish()
        finally:
            if process_count() == 1:  # the next run may need another device or format
                AcceleratorState._reset_state(reset_partial_state=True)

    def _start_event(self) -> RunStarted:
        config = self._config
        return RunStarted(
            run=self._run.id,
            base=config.base,
            subject=config.subject,
            photo_count=len(self._photos),
            first_step=self._step,
            last_step=self._last_step,
        )

    def _load(self) -> Iterator[Event]:
        """The device and the bare base model."""
        config = self._config
        device = choose_device(config.device)
        is_fp16 = choose_dtype(config.dtype, device) == torch.float16
        self._accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="fp16" if is_fp16 else "no")
        self._processes = processes_of(self._accelerator)
        for done, total in hub.fetch(config.base):
            yield StageChanged(
                stage="downloading", message=hub.described(config.base, done, total), fraction=done / total
            )
        yield StageChanged(stage="loading", message=f"Loading the base model {config.base}.")
        base = load_base(config.base, device=config.device, dtype=config.dtype, attention=config.attention)
        if config.resolution % base.size_multiple:
            raise ConfigError(
                f"resolution cannot be {config.resolution}; {base.name} needs a multiple of {base.size_multiple}."
            )
        base.prepare_training(config.resolution, gradient_checkpointing=config.gradient_checkpointing)
        if not base.lora.kohya:
            message = (
                f"Other programs have no names for the layers of {base.name}; its LoRA is exported for diffusers alone."
            )
            yield Noticed(message=message)
        self._base = base

    def _prepare(self, should_stop: ShouldStop) -> Iterator[Event]:
        """All that training needs: photos, LoRA, optimizer and step, as the checkpoint has them; or else the first samples."""
        config, base = self._config, self._base
        photos = yield from self._encode()
        prior = (yield from self._prior(should_stop)) if config.prior_preservation else None
        layers = base.lora.chosen(feed_forward=config.feed_forward, convolutions=config.convolutions)
        adapter.attach(base.denoiser, config.rank, config.lora_alpha, layers, config.seed)
        self._parameters = adapter.trainable_parameters(base.denoiser)
        self._check_disk()
        optimizer = torch.optim.AdamW(
            self._parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self._optimizer = self._accelerator.prepare(optimizer)
        self._train_step = AdaptiveStep(
            config, base, photos, prior, captions=self._run.captions, processes=self._processes
        )
        if self._checkpoint:
            self._restore(self._checkpoint)
        else:
            yield from self._sample(0)
            yield from self._measure_drift()

    def _take_up(self) -> Iterator[Event]:
        """Where no step is left: the LoRA of the last one, and its drift if the session before died too soon to measure it."""
        assert self._checkpoint
        files.load(self._base, self._checkpoint.lora_path)
        if not RunSummary.of(self._run).has_drift(self._step):
            yield from self._measure_drift()

    def _check_disk(self) -> None:
        """Refuse before the first step what could not be saved: all LoRAs, and AdamW's two moments of two checkpoints."""
        size = sum(parameter.numel() * parameter.element_size() for parameter in self._parameters.values())
        needed = size * (
            2 + (self._last_step - self._step) // self._config.save_every_steps + 2 * KEPT_OPTIMIZER_STATES
        )
        free = shutil.disk_usage(self._run.path).free
        if free < needed:
            raise DiskError(
                f"This run needs about {needed / 1e6:,.0f} MB on the disk of {self._run.path}, which has {free / 1e6:,.0f} MB "
                "free; free some, choose another --data-dir, or raise save_every_steps."
            )

    def _encode(self) -> Iterator[Event]:
        """Plain views of the photos, and warped ones where augmentation may ask for them; returns the source."""
        message = f"Encoding {len(self._photos)} photos."
        yield StageChanged(stage="encoding", message=message)
        if not self._config.augmentation:
            return encode_photos(self._base, self._photos)
        return encode_with_warps(self._base, self._photos, self._config)

    def _calibrated(self) -> Calibrated:
        values = self._train_step.loss_weights.values
        return Calibrated(
            step=self._step,
            stabilization_lambda=values["stabilization"],
            alignment_lambda=values["alignment"],
        )

    def _loop(self, should_stop: ShouldStop) -> Iterator[Event]:
        config = self._config
        yield StageChanged(stage="training", message="Learning the photos.")
        broken = 0
        while self._step < self._last_step and not self._processes.any(should_stop()):
            unknown = self._train_step.loss_weights.unknown
            event = self._one_step(self._step + 1)
            self._step += 1
            yield event
            broken = broken + 1 if event.was_skipped else 0
            yield from self._notice_broken(broken)
            if unknown and not self._train_step.loss_weights.unknown:
                yield self._calibrated()
            if self._step % config.save_every_steps == 0 and self._step < self._last_step:
                yield self._save()
            yield from self._show_views()
            yield from self._measure_drift()
            if (
                config.sample_every_steps
                and self._step % config.sample_every_steps == 0
                and self._step < self._last_step
            ):
                yield from self._sample(self._step)

    def _notice_broken(self, broken: int) -> Iterator[Event]:
        """Say that a step was skipped; several in a row mean that training is lost. A loss scaler needs a few to settle."""
        if broken == 1:
            yield Noticed(message=f"Step {self._step} gave numbers that are not finite and was skipped.")
        allowed = NON_FINITE_STEPS_ALLOWED * (10 if self._accelerator.scaler is not None else 1)
        if broken >= allowed:
            raise EngineError(
                f"Training broke at step {self._step}: {broken} steps in a row gave numbers that are not finite; "
                "lower learning_rate, or set dtype to fp32."
            )

    def _pause(self) -> Iterator[Event]:
        yield self._save()
        yield StageChanged(stage="waiting", message=f"Step {self._step} is saved; waiting for the next turn.")

    def _finish(self) -> Iterator[Event]:
        is_complete = self._step >= self._last_step
        yield self._save()
        if is_complete:
            yield from self._sample(self._step)
        if self._processes.is_first:
            message = "Writing the LoRA files and checking that they draw the same picture."
            yield StageChanged(stage="exporting", message=message)
            yield from exports.export_and_verify(self._run, self._base, self._step)
        reason = (
            f"All {self._step} steps are done."
            if is_complete
            else f"Stopped at step {self._step} of {self._last_step}, as asked."
        )
        yield RunFinished(
            step=self._step,
            reason=reason,
            is_complete=is_complete,
            seconds=time.monotonic() - self._started,
            peak_memory_bytes=peak_memory_bytes(),
        )

    def _one_step(self, step: int) -> StepFinished:
        """Both passes, backward, and an optimizer step unless a number is not finite."""
        started = time.monotonic()
        config = self._config
        learning_rate = config.learning_rate * min(1.0, step / max(1, config.warmup_steps))
        for group in self._optimizer.param_groups:
            group["lr"] = learning_rate
        result = self._train_step(step, self._accelerator.backward)
        self._shown.extend(result.batch.shown)
        self._processes.average_gradients(list(self._parameters.values()))
        norm = self._accelerator.clip_grad_norm_(self._parameters.values(), config.max_grad_norm)
        assert norm is not None
        event = self._describe(step, result, norm, learning_rate)
        # With a loss scaler the optimizer itself skips gradients that overflowed, and lowers the scale.
        if not event.was_skipped or self._accelerator.scaler is not None:
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return dataclasses.replace(event, seconds=time.monotonic() - started)

    def _describe(self, step: int, result: StepResult, norm: Tensor, learning_rate: float) -> StepFinished:
        """The event of a step; all its numbers come off the device at once."""
        names = ("loss", "reference_loss", "stabilization", "alignment", "prior_loss")
        measured = {name: value for name in names if (value := getattr(result, name)) is not None}
        means = self._processes.mean(torch.stack([value.float() for value in (norm, *measured.values())]))
        gradient_norm, *values = means.tolist()
        numbers = dict(zip(measured, values, strict=True))
        samples = self._processes.join(result.per_sample()).T.tolist()
        indicator = self._train_step.indicator
        is_finite = all(math.isfinite(number) for number in (gradient_norm, *values))
        return StepFinished(
            step=step,
            loss=numbers["loss"],
            reference_loss=numbers.get("reference_loss"),
            gap=numbers["reference_loss"] - numbers["loss"] if "reference_loss" in numbers else None,
            prior_loss=numbers.get("prior_loss"),
            stabilization=numbers.get("stabilization"),
            alignment=numbers.get("alignment"),
            gradient_norm=gradient_norm,
            learning_rate=learning_rate,
            seconds=0.0,
            timesteps=tuple(int(timestep) for timestep in samples[0]),
            chances=tuple(samples[1]),
            warped=tuple(bool(was) for was in samples[2]),
            weights=tuple(samples[3]),
            gamma=tuple(indicator.gamma().tolist()) if self._config.needs_reference else (),
            raw_gamma=tuple(indicator.raw_gamma().tolist()) if self._config.needs_reference else (),
            visits=tuple(indicator.visits.int().tolist()) if self._config.needs_reference else (),
            was_skipped=not is_finite,
            memory_bytes=peak_memory_bytes(),
        )

    def _measure_drift(self) -> Iterator[Event]:
        """The drift, at the steps where the settings ask for it."""
        every = self._config.drift_every_steps
        if every and self._step % every == 0 and self._processes.is_first:
            self._drift = self._drift or PriorDrift(self._base, self._config)
            yield DriftMeasured(step=self._step, drift=self._drift.measure())

    def _show_views(self) -> Iterator[Event]:
        """Keep pictures of the re-framed photos just trained on; those before the last are dropped."""
        if self._step % SHOW_VIEWS_EVERY_STEPS or not self._shown or not self._processes.is_first:
            return
        folder = self._run.path / "views"
        old = sorted(folder.glob("*.png"))
        for number, image in enumerate(self._shown):
            save_picture(image, folder / f"{self._step:06d}-{number}.png")
        paths = tuple(f"views/{self._step:06d}-{number}.png" for number in range(len(self._shown)))
        for path in old[: -len(paths)] if len(old) > len(paths) else ():
            path.unlink(missing_ok=True)
        self._shown.clear()
        yield ViewsShown(step=self._step, paths=paths)

    def _prior(self, should_stop: ShouldStop) -> Iterator[Event]:
        """Pictures of the class by the base model itself, made once a run by the first process; returns their latents."""
        config = self._config
        folder = self._run.path / "prior"
        paths = [folder / f"{number:04d}.png" for number in range(config.prior_images)]
        missing = [path for path in paths if not path.exists()] if self._processes.is_first else []
        for done, path in enumerate(missing):
            if should_stop():
                raise RunError(f"Run {self._run.id} was stopped before its first step; resume it to go on.")
            message = f"Drawing {config.subject} {done + 1} of {len(missing)}, to remember what that looks like."
            yield StageChanged(stage="prior", message=message, fraction=done / len(missing))
            picture = Picture.of(config, class_caption(config, config.caption), config.seed + int(path.stem))
            save_picture(next(Sampler(self._base).generate([picture])), path)
        self._accelerator.wait_for_everyone()
        return encode_photos(self._base, paths)

    def _sample(self, step: int) -> Iterator[Event]:
        """The sample grid: each prompt with its own fixed seed, the same at every step. What is there already stays."""
        config = self._config
        kept = RunSummary.of(self._run).drawn_samples(step) if self._is_at_checkpoint else set()
        pictures = {
            index: Picture.of(config, config.fill(prompt), config.seed + index)
            for index, prompt in enumerate(config.sample_prompts)
            if index not in kept
        }
        if not pictures or not self._processes.is_first:
            return
        yield StageChanged(stage="sampling", message=f"Drawing the samples of step {step}.")
        images = Sampler(self._base).generate(list(pictures.values()))
        for (index, picture), image in zip(pictures.items(), images, strict=True):
            path = f"samples/{step:06d}-{index}.png"
            save_picture(image, self._run.path / path)
            yield SampleReady(step=step, index=index, prompt=picture.prompt, seed=picture.seed, path=path)
        yield StageChanged(stage="training", message="Learning the photos.")

    @property
    def _is_at_checkpoint(self) -> bool:
        """Whether nothing was trained since the checkpoint this session started from."""
        return self._checkpoint is not None and self._checkpoint.step == self._step

    def _save(self) -> CheckpointSaved:
        def write(folder: Path) -> None:
            files.save(self._base, folder / "lora.safetensors")
            training_state.write(
                folder / "optimizer.safetensors",
                self._parameters,
                self._optimizer,
                self._train_step.state_dict(),
                self._accelerator.scaler,
            )

        if self._processes.is_first and not self._is_at_checkpoint:
            self._run.save_checkpoint(self._step, write)
        return CheckpointSaved(step=self._step, path=f"checkpoints/{self._step:06d}")

    def _restore(self, checkpoint: Checkpoint) -> None:
        """LoRA, optimizer and the step's own state exactly as they were."""
        files.load_weights(self._base, checkpoint.lora_path)
        scaler = self._accelerator.scaler
        state = training_state.read(checkpoint.optimizer_path, self._parameters, self._optimizer, scaler)
        self._train_step.load_state_dict(state)
