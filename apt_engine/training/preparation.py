"""All that training needs, made ready before the first step: base model, photos, LoRA, optimizer, step."""

import contextlib
import functools
import shutil
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from apt_engine.apt.memorized import SplitIndicator
from apt_engine.bases import hub
from apt_engine.bases.base import BaseModel
from apt_engine.bases.profiles import warning_of
from apt_engine.bases.prompts import cut_prompt
from apt_engine.bases.registry import choose_device, choose_dtype, load_base_of
from apt_engine.errors import ConfigError, DiskError
from apt_engine.lora import adapter, files, start
from apt_engine.runs.events import Event, Noticed, StageChanged
from apt_engine.runs.run import KEPT_OPTIMIZER_STATES, Checkpoint, Run
from apt_engine.sampling.sampler import Stopped
from apt_engine.settings.presets import at_home
from apt_engine.settings.training import FROM_CHECKS, TrainingConfig
from apt_engine.training import state as training_state
from apt_engine.training.averaging import Average
from apt_engine.training.captions import Captions
from apt_engine.training.checks import Checks, prepare_checks
from apt_engine.training.compiled import Compiled, compile_blocks
from apt_engine.training.drift import PriorDrift
from apt_engine.training.ending import StopSignal
from apt_engine.training.latents import LatentSource, encode_photos, encode_with_warps, read_pixels
from apt_engine.training.pictures import RecentViews, draw_prior_pictures
from apt_engine.training.processes import Processes, processes_of
from apt_engine.training.step import AdaptiveStep


@dataclass(frozen=True, kw_only=True, eq=False)
class Loaded:
    """The bare base model on its device, and who works with it."""

    config: TrainingConfig
    accelerator: Accelerator
    processes: Processes
    stop: StopSignal
    base: BaseModel

    @functools.cached_property
    def drift(self) -> PriorDrift:
        """Its latents are drawn when it is first asked for: a resumed session may have nothing to measure."""
        return PriorDrift(self.base, self.config, self.stop.obey_alone)

    def worn(self) -> contextlib.AbstractContextManager[None]:
        """The model as its checkpoints have it inside: for pictures and measurements."""
        return contextlib.nullcontext()


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared(Loaded):
    """A base model with its LoRA, and all that trains it.

    Attributes:
        parameters: the LoRA's, by name.
        average: of them over the steps, if wished.
        compiled: what of the base model runs compiled in a step.
        views: of the re-framed photos just trained on.
        checks: of what is learnt and what is memorized; None where they are switched off.
    """

    parameters: dict[str, nn.Parameter]
    average: Average
    optimizer: torch.optim.Optimizer
    step: AdaptiveStep
    compiled: Compiled
    views: RecentViews
    checks: Checks | None

    def worn(self) -> contextlib.AbstractContextManager[None]:
        return self.average.worn()

    def write(self, folder: Path) -> None:
        """The files of a checkpoint."""
        with self.worn():
            files.save(self.base, folder / "lora.safetensors")
        state = self.step.state_dict() | self.average.state_dict()
        training_state.write(
            folder / "optimizer.safetensors", self.parameters, self.optimizer, state, self.accelerator.scaler
        )

    def clip_gradients(self) -> Tensor:
        """Gradients over all processes, unscaled and clipped; their norm () before that, on the device."""
        parameters = list(self.parameters.values())
        self.processes.average_gradients(parameters)
        norm = self.accelerator.clip_grad_norm_(parameters, self.config.max_grad_norm)
        assert norm is not None
        return norm

    def restore(self, checkpoint: Checkpoint) -> None:
        """LoRA, optimizer and the step's own state exactly as they were."""
        files.load_weights(self.base, checkpoint.lora_path)
        path, scaler = checkpoint.optimizer_path, self.accelerator.scaler
        state = training_state.read(path, self.parameters, self.optimizer, scaler)
        self.step.load_state_dict(state)
        self.average.load_state_dict(state)


def load(config: TrainingConfig, should_stop: Callable[[], bool]) -> Generator[Event, None, Loaded]:
    """The bare base model on its device, downloaded first where it is not there yet.

    Raises:
        Stopped: a wish to stop was heard before it was there.
        EngineError: it cannot be had, or does not suit the settings.
    """
    device = choose_device(config.device)
    is_fp16 = choose_dtype(config.dtype, device) == torch.float16
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="fp16" if is_fp16 else "no")
    processes = processes_of(accelerator)
    is_half = choose_dtype(config.dtype, device) != torch.float32
    for done, total in hub.fetch(config.base, is_half=is_half, should_stop=should_stop):
        yield StageChanged(stage="downloading", message=hub.described(config.base, done, total), fraction=done / total)
    if should_stop():
        raise Stopped("Stopped, as asked.")
    yield StageChanged(stage="loading", message=f"Loading the base model {config.base}.")
    base = load_base_of(config)
    if config.resolution % base.size_multiple:
        raise ConfigError(
            f"resolution cannot be {config.resolution}; {base.name} needs a multiple of {base.size_multiple}."
        )
    base.prepare_training(config.resolution, gradient_checkpointing=config.gradient_checkpointing)
    if warning := warning_of(config.base):
        yield Noticed(message=warning)
    if not base.lora.kohya and base.lora.is_known_elsewhere:
        yield Noticed(
            message=f"Kohya's layout has no names for the layers of {base.name}; its LoRA is exported for diffusers alone, "
            "which ComfyUI reads as well."
        )
    stop = StopSignal(should_stop, processes)
    return Loaded(config=config, accelerator=accelerator, processes=processes, stop=stop, base=base)


def prepare(
    run: Run, loaded: Loaded, checkpoint: Checkpoint | None, last_step: int
) -> Generator[Event, None, Prepared]:
    """Photos, LoRA, optimizer and step, as the checkpoint has them, or new.

    Raises:
        Stopped: a wish to stop was heard.
        EngineError: a photo, a setting or the disk does not do.
    """
    config, base = loaded.config, loaded.base
    is_begun = bool(config.start_from) and not checkpoint
    begun_with = start.read(base, at_home(config.start_from)) if is_begun else None
    photos = yield from _encode_photos(run, loaded)
    prior = (yield from _prior_of(run, loaded)) if config.prior_preservation else None
    captions = Captions(base, config, run.captions)
    yield from (Noticed(message=cut_prompt(caption)) for caption in captions.cut)
    checks = yield from prepare_checks(
        base,
        config,
        photos,
        paths=run.photo_paths,
        captions=captions,
        processes=loaded.processes,
        last_step=last_step,
        obey_stop=loaded.stop.obey,
    )
    parameters = yield from _attach_lora(base, config, begun_with)
    compiled = (yield from _compile(base, config)) if config.compile else Compiled()
    _check_disk(run, parameters, last_step - (checkpoint.step if checkpoint else 0))
    optimizer = torch.optim.AdamW(parameters.values(), lr=config.learning_rate, weight_decay=config.weight_decay)
    scaler = loaded.accelerator.scaler
    step = AdaptiveStep(
        config,
        base,
        photos,
        prior,
        captions=run.captions,
        processes=loaded.processes,
        indicator=_indicator_from(checks, config),
        scale=scaler.scale if scaler else lambda loss: loss,
    )
    prepared = Prepared(
        config=config,
        accelerator=loaded.accelerator,
        processes=loaded.processes,
        stop=loaded.stop,
        base=base,
        parameters=parameters,
        average=Average(parameters, config.ema_decay),
        optimizer=loaded.accelerator.prepare(optimizer),
        step=step,
        compiled=compiled,
        views=RecentViews(run),
        checks=checks,
    )
    if notice := step.loss_weights.notice:
        yield Noticed(message=notice)
    if checkpoint:
        prepared.restore(checkpoint)
    return prepared


def _encode_photos(run: Run, loaded: Loaded) -> Generator[Event, None, LatentSource]:
    """Plain views of the photos, and warped ones where augmentation may ask for them."""
    paths = run.photo_paths
    if loaded.config.crop == "buckets":
        _check_sizes(loaded.base, paths)
    message = f"Encoding {len(paths)} photos."
    if not loaded.config.augmentation:
        photos = yield from encode_photos(loaded.base, paths, message, loaded.stop.obey)
    else:
        photos = yield from encode_with_warps(loaded.base, paths, loaded.config, message, loaded.stop.obey)
    photos.origins = run.origins
    return photos


def _check_sizes(base: BaseModel, paths: Sequence[Path]) -> None:
    """Photos that are no squares go into no other model than one that takes them, with sides that it can halve.

    Raises:
        ConfigError: they do not fit.
    """
    sizes = [read_pixels(path).shape[1:] for path in paths]
    if all(height == width for height, width in sizes):
        return
    if not base.takes_proportions:
        raise ConfigError(f"{base.name} is trained on squares alone; set crop to square.")
    if any(side % base.size_multiple for size in sizes for side in size):
        raise ConfigError(
            f"crop cannot be buckets with {base.name} at this resolution, since it needs multiples of {base.size_multiple} px; "
            "set crop to square, or raise resolution."
        )


def _prior_of(run: Run, loaded: Loaded) -> Generator[Event, None, LatentSource]:
    """Pictures of the class by the base model itself, drawn by the first process, encoded by each."""
    paths = [run.path / "prior" / f"{number:04d}.png" for number in range(loaded.config.prior_images)]
    if loaded.processes.is_first:
        yield from draw_prior_pictures(loaded.base, loaded.config, paths, loaded.stop)
    loaded.stop.obey()  # here the others wait for the pictures
    message = f"Encoding {len(paths)} pictures of {loaded.config.subject}."
    return (yield from encode_photos(loaded.base, paths, message, loaded.stop.obey))


def _attach_lora(
    base: BaseModel, config: TrainingConfig, begun_with: start.Beginning | None
) -> Generator[Event, None, dict[str, nn.Parameter]]:
    """A new LoRA, or one that begins as a file's; what of the file could not be taken over is told. Returns what is trained."""
    layers = base.lora.chosen(feed_forward=config.feed_forward, convolutions=config.convolutions)
    adapter.attach(base.denoiser, config.rank, config.lora_alpha, layers, config.seed)
    for told in start.take_over(base, begun_with) if begun_with else ():
        yield Noticed(message=told)
    return adapter.trainable_parameters(base.denoiser)


def _compile(base: BaseModel, config: TrainingConfig) -> Generator[Event, None, Compiled]:
    """What runs compiled; that nothing can is told."""
    yield StageChanged(stage="compiling", message="Compiling the base model, which can take minutes.")
    compiled, notice = compile_blocks(base, config)
    if notice:
        yield Noticed(message=notice)
    return compiled


def _indicator_from(checks: Checks | None, config: TrainingConfig) -> SplitIndicator | None:
    """That of the checks, where it is wanted; a run too short for a check never has a gamma."""
    if config.indicator not in FROM_CHECKS:
        return None
    return SplitIndicator(config.indicator, lambda: checks.made if checks else ())


def _check_disk(run: Run, parameters: dict[str, nn.Parameter], steps: int) -> None:
    """Refuse before the first step what could not be saved: all LoRAs, and AdamW's two moments of two checkpoints."""
    size = sum(parameter.numel() * parameter.element_size() for parameter in parameters.values())
    needed = size * (1 + run.config.checkpoints_in(steps) + 2 * KEPT_OPTIMIZER_STATES)
    free = shutil.disk_usage(run.path).free
    if free < needed:
        raise DiskError(
            f"This run needs about {needed / 1e6:,.0f} MB on the disk of {run.path}, which has {free / 1e6:,.0f} MB "
            "free; free some, choose another --data-dir, or raise save_every_steps."
        )
