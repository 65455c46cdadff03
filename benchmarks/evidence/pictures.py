"""The pictures by which a checkpoint is judged: what is asked for, and what is seen in them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from apt_engine.bases.base import BaseModel
from apt_engine.lora.adapter import reference_pass
from apt_engine.sampling.sampler import Picture, Sampler
from apt_engine.settings.training import TrainingConfig
from benchmarks.features import embed
from benchmarks.judge import Judge
from benchmarks.likeness import Subject, open_photos
from benchmarks.pocket import is_place_right
from benchmarks.runs import SIDE
from tools.pocket.grid import GUIDANCE_SCALE
from tools.pocket.vocabulary import PLACES, TREATMENTS, Label, article_of

DRAWING_STEPS = 8  # of DPM++ 2M; with 20 the judge says the same, and likeness is within its error
SEEDS = range(1, 4)
PLACES_ASKED = ("beach", "snow", "desert", "mountains", "blue background", "white background")  # no photo shows them
TREATMENTS_ASKED = ("pencil sketch", "watercolor")
TREATED_SEEDS = (1, 2)
CAPTION_SEEDS = range(1, 5)
OTHERS_SEEDS = (1,)


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What is seen in the pictures of a checkpoint; see `rows.Pictures`."""

    likeness: list[float]
    places: list[int]
    treatments: list[int]
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
        in_places = [f"a photo of a {{subject}} {_where(place)}" for place in PLACES_ASKED]
        treated = [TREATMENTS[treatment][0].format("a {subject}") for treatment in TREATMENTS_ASKED]
        placed = self._draw(base, in_places, SEEDS)
        drawn = self._draw(base, treated, TREATED_SEEDS)
        captioned = self._draw(base, [self._config.caption], CAPTION_SEEDS)
        features, by_caption = embed(placed), embed(captioned)
        return Seen(
            likeness=(features @ self._held_out.T).mean(dim=1).tolist(),
            places=_places_right(placed, self._judge),
            treatments=_treatments_right(drawn, self._judge),
            captioned=(by_caption @ self._held_out.T).mean(dim=1).tolist(),
            copies=(by_caption @ self._photos.T).max(dim=1).values.tolist(),
            moved=(1 - (self._others(base) * self._others_before(base)).sum(dim=1)).tolist(),
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


def _where(place: str) -> str:
    return PLACES[place][0] if place in PLACES else f"on {article_of(place)} {place}"


def _label(place: str, treatment: str) -> Label:
    return Label(object=None, rendition=0, place=place, treatment=treatment)


def _places_right(pictures: Sequence[Image.Image], judge: Judge) -> list[int]:
    asked = [_label(place, "photo") for place in PLACES_ASKED for _ in SEEDS]
    return [int(is_place_right(*pair)) for pair in zip(judge.look(pictures), asked, strict=True)]


def _treatments_right(pictures: Sequence[Image.Image], judge: Judge) -> list[int]:
    asked = [treatment for treatment in TREATMENTS_ASKED for _ in TREATED_SEEDS]
    return [int(seen.treatment == wish) for seen, wish in zip(judge.look(pictures), asked, strict=True)]
