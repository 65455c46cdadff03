"""Sample grids, to be looked at: the only judge of this first model is a person."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline, Flux2KleinPipeline
from PIL import Image, ImageDraw

from tools.pocket.files import write_atomically
from tools.pocket.settings import IMAGE_SIZE, SEED
from tools.pocket.vocabulary import HELD_OUT_PAIRS, OBJECTS, PLACES, TREATMENTS, article_of, draw_label

GUIDANCE_SCALE = 4.0
STEPS = 20
_CELL = 128
_CAPTION_HEIGHT = 24


def draw_prompts(count: int) -> list[str]:
    """Random prompts without rare words: every object in turn, in random places and treatments."""
    rng = np.random.default_rng(SEED)
    names = [name for _ in range(count // len(OBJECTS) + 1) for name in rng.permutation(list(OBJECTS))]
    prompts: list[str] = []
    for name in names[:count]:
        label = draw_label(rng)
        place = label.place if (name, label.place) not in HELD_OUT_PAIRS else "white background"
        prompts.append(say(name, place, label.treatment))
    return prompts


def held_out_prompts() -> list[str]:
    """The pairs of object and place no training picture shows, as photos."""
    return [say(name, place, "photo") for name, place in sorted(HELD_OUT_PAIRS)]


def say(name: str, place: str, treatment: str) -> str:
    """The plainest caption of an object in a place."""
    where = PLACES[place][0] if place in PLACES else f"on {article_of(place)} {place}"
    return TREATMENTS[treatment][0].format(f"{article_of(name)} {name} {where}")


def sample(pipeline: DiffusionPipeline, prompts: Sequence[str], seed: int = SEED) -> list[Image.Image]:
    """One picture a prompt, 20 steps."""
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), 12):
        generators = [torch.Generator().manual_seed(seed + start + index) for index in range(12)]
        part = list(prompts[start : start + 12])
        pictures += pipeline(
            prompt=part,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE_SCALE,
            generator=generators[: len(part)],
            **size_settings(pipeline),
        ).images
    return pictures


def size_settings(pipeline: DiffusionPipeline) -> dict[str, int]:
    """What FLUX.2's pipeline must be told: its defaults are 1024 px and 512 tokens, whatever its parts were trained on."""
    if not isinstance(pipeline, Flux2KleinPipeline):
        return {}
    length = pipeline.tokenizer.model_max_length
    return {"height": IMAGE_SIZE, "width": IMAGE_SIZE, "max_sequence_length": length}


def write_grid(path: Path, pictures: Sequence[Image.Image], prompts: Sequence[str], columns: int = 6) -> None:
    """Writes a captioned grid, as a PNG or a JPEG by the name of the file."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (_CELL + 4), rows * (_CELL + _CAPTION_HEIGHT + 4)), (255, 255, 255))
    ink = ImageDraw.Draw(sheet)
    for index, (picture, prompt) in enumerate(zip(pictures, prompts, strict=True)):
        left, top = (index % columns) * (_CELL + 4), index // columns * (_CELL + _CAPTION_HEIGHT + 4)
        sheet.paste(picture.resize((_CELL, _CELL), Image.Resampling.BICUBIC), (left, top))
        ink.multiline_text((left + 2, top + _CELL + 1), _wrap(prompt), fill=(40, 40, 40), font_size=9, spacing=1)
    kind = Image.registered_extensions()[path.suffix]
    write_atomically(path, lambda target: sheet.save(target, kind, quality=90, optimize=True))


def _wrap(text: str, width: int = 26) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines[:2])
