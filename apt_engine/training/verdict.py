"""The pass that judges a run: the same pictures by the untrained model and by some checkpoints, looked at by the untrained model.

An untrained LoRA gets the untrained model's own numbers to the bit: prompts, seeds and noises are the same.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from apt_engine.bases.base import BaseModel
from apt_engine.bases.registry import load_base_of
from apt_engine.errors import RunError
from apt_engine.lora import files
from apt_engine.runs import verdict
from apt_engine.runs.events import Event, PhotosJudged, PicturesJudged, PicturesSeen, VerdictReached
from apt_engine.runs.history import summarize
from apt_engine.runs.run import Run
from apt_engine.sampling.sampler import Picture, Sampler, batch_of, save_picture
from apt_engine.settings.training import TrainingConfig
from apt_engine.training import encoders
from apt_engine.training.captions import class_caption
from apt_engine.training.drift import PriorDrift
from apt_engine.training.encoders import Encoder, among
from apt_engine.training.judge import Judge
from apt_engine.training.latents import encode_view, read_picture, read_pixels

Tell = Callable[[str, float | None], None]


def judge_run(run: Run, tell: Tell) -> list[Event]:
    """The events of a verdict on a run that is not trained now; its pictures by the caption lie in the run's folder then.

    Args:
        run: with checkpoints.
        tell: told what is done and how far it is (0 to 1); what it raises ends the work.

    Raises:
        RunError: there is no intact checkpoint, or the photos are gone.
        EngineError: the base model cannot be loaded, or the disk is full.
    """
    started = time.monotonic()
    config, kept = run.config, summarize(run).kept_step
    checkpoints = [run.checkpoint(str(step)) for step in verdict.chosen_steps(_steps(run), kept)]
    if not checkpoints:
        raise RunError(f"Run {run.id} has no checkpoint to judge yet; let it train a little longer, or resume it.")
    if not run.photo_paths:
        raise RunError(f"Run {run.id} has no photos any more to be held against; train it anew to judge it.")
    tell(f"Loading the base model {config.base}", None)
    base = load_base_of(config)
    base.prepare_training(config.resolution, gradient_checkpointing=False)
    judging = Judging(run, base, others=encoders.in_cache(base.device))
    pictures, seen = list[PicturesJudged](), list[PicturesSeen]()
    for number, checkpoint in enumerate([None, *checkpoints]):
        told = f"Judging step {checkpoint.step:,}" if checkpoint else "Judging the untrained model"
        if checkpoint:
            files.load(base, checkpoint.lora_path)
        tell_part = partial(_tell_part, tell, told, number, 1 + len(checkpoints))
        pictures.append(judging.look(checkpoint.step if checkpoint else 0, tell_part))
        seen += judging.seen
    message = verdict.describe(judging.photos, pictures, kept, config.subject)
    return [judging.photos, *pictures, *seen, VerdictReached(message=message, seconds=time.monotonic() - started)]


class Judging:
    """Draws and judges the pictures of one run: first those of the bare base model, then with one LoRA after the other.

    Args:
        run: whose photos and settings.
        base: bare.
        keep: whether pictures by the caption are kept in the run's folder.
        others: networks that look at the pictures too.

    Attributes:
        seen: what they saw at the newest look.
    """

    def __init__(self, run: Run, base: BaseModel, *, keep: bool = True, others: Sequence[Encoder] = ()) -> None:
        self._others = others
        self.seen: list[PicturesSeen] = []
        self._run, self._base, self._config, self._keep = run, base, run.config, keep
        self._pictures = pictures_of(self._config)
        self._latents = torch.stack([encode_view(base, self._squared(path)).mean for path in run.photo_paths])
        self._asked = [class_caption(self._config, prompt) for prompt in verdict.PROMPTS]

    def _squared(self, path: Path) -> Tensor:
        """The middle of a photo (3, H, H), of the size of the pictures it is held against."""
        pixels, side = read_pixels(path), self._config.resolution
        if pixels.shape[1:] == (side, side):
            return pixels
        shorter = min(pixels.shape[1:])
        top, left = ((length - shorter) // 2 for length in pixels.shape[1:])
        middle = pixels[None, :, top : top + shorter, left : left + shorter]
        return F.interpolate(middle, size=(side, side), mode="bilinear", antialias=True, align_corners=False)[0]

    def look(self, step: int, told: Callable[[float], None] = lambda fraction: None) -> PicturesJudged:
        """Judge the model as it is now; `told` how far that is (0 to 1). The first look is at the bare base model, step 0."""
        latents = torch.cat(list(Sampler(self._base).latents(self._pictures, told)))  # (N, C, h, w)
        if step == 0:
            self._usual = latents
        captioned, placed = latents[: verdict.CAPTIONED], latents[verdict.CAPTIONED :]
        self.seen = self._see(step, placed)
        alike = self._judge.alike(captioned)  # (n, photos)
        return PicturesJudged(
            step=step,
            likeness=_numbers(self._judge.likeness(placed[: len(verdict.PLACES) * verdict.SEEDS])),
            copies=_numbers(alike.amax(dim=1)),
            nearest=tuple(alike.argmax(dim=1).tolist()),
            follows=_numbers(
                self._judge.follows(placed, [asked for asked in self._asked for _ in range(verdict.SEEDS)])
            ),
            drift=self._drift.measure() if step else 0.0,
            paths=self._save(step, captioned),
        )

    @functools.cached_property
    def photos(self) -> PhotosJudged:
        """How the photos compare to each other, and fit the prompts that the pictures are drawn with."""
        asked = [asked for asked in self._asked for _ in self._latents]
        return PhotosJudged(
            likeness=_numbers(self._judge.likeness_of_photos()),
            copies=_numbers(self._judge.copies_of_photos()),
            follows=_numbers(self._judge.follows(self._latents.repeat(len(self._asked), 1, 1, 1), asked)),
        )

    @functools.cached_property
    def _judge(self) -> Judge:
        """Made from the pictures of the bare base model."""
        return Judge(
            self._base,
            class_caption(self._config, self._config.caption),
            self._config.subject,
            usual=self._usual,
            photos=self._latents,
            seed=self._config.seed,
            batch=batch_of(self._pictures[0]),
        )

    @functools.cached_property
    def _drift(self) -> PriorDrift:
        """Its latents are drawn once, by the model without its LoRA."""
        prompts = self._config.drift_prompts or TrainingConfig(subject=self._config.subject).drift_prompts
        return PriorDrift(self._base, self._config.replace(drift_prompts=prompts))

    def _see(self, step: int, placed: Tensor) -> list[PicturesSeen]:
        """What the other networks see in pictures of the prompts, latents (N, C, h, w)."""
        if not self._others:
            return []
        pictures = list(Sampler(self._base).images(placed))
        asked = [asked for asked in self._asked for _ in range(verdict.SEEDS)]
        in_places = len(verdict.PLACES) * verdict.SEEDS
        return [
            PicturesSeen(
                network=other.name,
                step=step,
                likeness=_numbers((other.see(pictures[:in_places]) @ self._photos_seen[other.name].T).mean(dim=1)),
                follows=_numbers((other.see(pictures) * other.read(asked)).sum(dim=1)) if other.reads else (),
                photos=_numbers(among(self._photos_seen[other.name])),
            )
            for other in self._others
        ]

    @functools.cached_property
    def _photos_seen(self) -> dict[str, Tensor]:
        """Features (photos, F) of the photos, by network."""
        photos = [read_picture(path) for path in self._run.photo_paths]
        return {other.name: other.see(photos) for other in self._others}

    def _save(self, step: int, latents: Tensor) -> tuple[str, ...]:
        if not self._keep:
            return ()
        paths = tuple(f"samples/verdict/{step:06d}-{number}.png" for number in range(len(latents)))
        for path, image in zip(paths, Sampler(self._base).images(latents), strict=True):
            save_picture(image, self._run.path / path)
        return paths


def pictures_of(config: TrainingConfig) -> list[Picture]:
    """What is drawn of each model: pictures by the caption alone, then those of each prompt."""
    asked = [config.caption] * verdict.CAPTIONED + [prompt for prompt in verdict.PROMPTS for _ in range(verdict.SEEDS)]
    seeds = [*range(verdict.CAPTIONED), *(seed for _ in verdict.PROMPTS for seed in range(verdict.SEEDS))]
    steps = min(config.sample_steps, verdict.MOST_DRAWING_STEPS)
    usual = (
        Picture.of(config, config.fill(prompt), config.seed + seed) for prompt, seed in zip(asked, seeds, strict=True)
    )
    return [dataclasses.replace(picture, steps=steps) for picture in usual]


def _steps(run: Run) -> list[int]:
    return [checkpoint.step for checkpoint in run.checkpoints() if checkpoint.is_intact()]


def _tell_part(tell: Tell, message: str, number: int, count: int, fraction: float) -> None:
    tell(message, (number + fraction) / count)


def _numbers(values: Tensor | Sequence[float]) -> tuple[float, ...]:
    return tuple(values.tolist() if isinstance(values, Tensor) else values)
