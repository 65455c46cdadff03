"""The pictures by which a checkpoint is judged: what is asked for, and what is seen in them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from apt_engine.bases.base import BaseModel
from apt_engine.lora.adapter import fused, reference_pass
from apt_engine.sampling.sampler import Picture, Sampler
from apt_engine.settings.training import TrainingConfig
from benchmarks.features import embed
from benchmarks.judge import Judge
from benchmarks.likeness import Subject, open_photos
from benchmarks.runs import SIDE
from tools.pocket.grid import GUIDANCE_SCALE
from tools.pocket.vocabulary import PLACES, TREATMENTS, article_of

DRAWING_STEPS = 8  # of DPM++ 2M; with 20 the judge says the same, and likeness is within its error
SEEDS = range(1, 8)
PLACES_ASKED = ("beach", "snow", "desert", "mountains", "blue background", "white background")  # no photo shows them
TREATED_PLACES = PLACES_ASKED[:4]  # in a sketch nobody can tell a blue background from a red one
TREATMENTS_ASKED = ("pencil sketch", "pixel art", "watercolor", "black and white")
CAPTION_SEEDS = range(1, 9)
OTHERS_SEEDS = (1,)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is seen in the pictures of a checkpoint; see `rows.Pictures`."""

    likeness: list[float]
    follows: list[float]
    captioned: list[float]
    copies: list[float]
    moved: list[float]


class Observer:
    """Draws a subject's pictures by a model and looks at them.

    Args:
        subject: its photos are what pictures are held against.
        config: its caption and its prompts without the subject are used.
    """

    def __init__(self, subject: Subject, config: TrainingConfig) -> None:
        self._config = config
        self._judge = Judge()
        self._photos = embed(open_photos(subject.training))
        self._held_out = embed(open_photos(subject.held_out))
        self._unmoved: Tensor | None = None

    @property
    def two_views(self) -> float:
        """Mean cosine of photos to held-out photos."""
        return float((self._photos @ self._held_out.T).mean())

    @property
    def nearest(self) -> list[float]:
        """Of each photo the cosine to the nearest other one."""
        alike = self._photos @ self._photos.T - 2 * torch.eye(len(self._photos))
        return alike.max(dim=1).values.tolist()

    def observe(self, base: BaseModel) -> Seen:
        """Looks at a base model with whatever LoRA is attached to it."""
        asked = [(place, "photo") for place in PLACES_ASKED for _ in SEEDS]
        treated = [(place, treatment) for treatment in TREATMENTS_ASKED for place in TREATED_PLACES]
        others_before = self._others_before(base)
        with fused(base.denoiser):
            placed = self._draw(base, [_prompt(place, "photo") for place in PLACES_ASKED], SEEDS)
            drawn = self._draw(base, [_prompt(*both) for both in treated], SEEDS[:1])
            captioned = embed(self._draw(base, [self._config.caption], CAPTION_SEEDS))
            others = self._others(base)
        return Seen(
            likeness=(embed(placed) @ self._held_out.T).mean(dim=1).tolist(),
            follows=self._judge.chances([*placed, *drawn], [*asked, *treated]),
            captioned=(captioned @ self._held_out.T).mean(dim=1).tolist(),
            copies=(captioned @ self._photos.T).max(dim=1).values.tolist(),
            moved=(1 - (others * others_before).sum(dim=1)).tolist(),
        )

    def _others(self, base: BaseModel) -> Tensor:
        """Features of pictures without the subject."""
        return embed(self._draw(base, self._config.drift_prompts, OTHERS_SEEDS))

    def _others_before(self, base: BaseModel) -> Tensor:
        """The same of the untrained model, drawn once."""
        if self._unmoved is None:
            with reference_pass(base.denoiser):
                self._unmoved = self._others(base)
        return self._unmoved

    def _draw(self, base: BaseModel, prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        """Pictures of each prompt with each seed, prompt by prompt."""
        pictures = [
            Picture(
                prompt=self._config.fill(prompt),
                seed=seed,
                steps=DRAWING_STEPS,
                guidance_scale=GUIDANCE_SCALE,
                width=SIDE,
                height=SIDE,
            )
            for prompt in prompts
            for seed in seeds
        ]
        return list(Sampler(base).generate(pictures))


def _prompt(place: str, treatment: str) -> str:
    where = PLACES[place][0] if place in PLACES else f"on {article_of(place)} {place}"
    return f"{TREATMENTS[treatment][0].format('a {subject}')} {where}"
