"""Drawing against diffusers' own pipeline: `python -m benchmarks.drawing`.

The pocket model, the same prompts, seeds, steps and guidance on both sides, turn by turn so that another program slows both
alike. Of each sampler: the largest difference of a pixel (0 to 255), and the ratio of CPU seconds, the median over the turns but
the first, in which prompts are encoded. With a LoRA ours is fused, theirs is as `load_lora_weights` leaves it.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from apt_engine.bases import schedulers
from apt_engine.bases.base import BaseModel
from apt_engine.bases.registry import choose_threads, load_base
from apt_engine.lora import adapter, files
from apt_engine.sampling.sampler import Picture, Sampler
from apt_engine.settings.presets import POCKET_DIR

SAMPLERS = ("DPM++ 2M", "Euler", "DDIM")
PROMPT, NEGATIVE = "a photo of a teapot on the beach", "blurry"
STEPS, GUIDANCE, SIDE = 20, 5.0, 64


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Speed and equality of drawing.")
    parser.add_argument("--turns", type=int, default=8)
    options = parser.parse_args()
    base, stock = load_base("pocket", device="cpu", attention="plain"), stock_pipeline()
    choose_threads(base.denoiser)
    print("| sampler | LoRA | largest difference | CPU time, ours / diffusers' |")
    print("| --- | --- | ---: | ---: |")
    for has_lora in (False, True):
        if has_lora:
            _give_lora(base, stock)
        for sampler in SAMPLERS:
            difference, ratio = compare(base, stock, sampler, options.turns)
            print(f"| {sampler} | {'yes' if has_lora else 'no'} | {difference} | {ratio:.3f} |", flush=True)


def stock_pipeline() -> Any:
    """Diffusers' own, with the attention that is fastest at this size, as ours has it."""
    from diffusers.models.attention_processor import AttnProcessor

    pipeline = StableDiffusionPipeline.from_pretrained(
        POCKET_DIR, dtype=torch.float32, safety_checker=None, requires_safety_checker=False
    )
    pipeline.unet.set_attn_processor(AttnProcessor())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def ours(base: BaseModel, sampler: str, steps: int = STEPS) -> Image.Image:
    """A picture by the app."""
    picture = Picture(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        seed=1,
        steps=steps,
        guidance_scale=GUIDANCE,
        sampler=sampler,
        width=SIDE,
        height=SIDE,
    )
    with adapter.fused(base.denoiser):
        return next(Sampler(base).generate([picture]))


def theirs(pipeline: Any, sampler: str, noise: torch.Tensor, steps: int = STEPS) -> Image.Image:
    """The same picture by diffusers alone."""
    pipeline.scheduler = schedulers.build(sampler, pipeline.scheduler.config)
    return pipeline(
        PROMPT,
        negative_prompt=NEGATIVE,
        latents=noise,
        width=SIDE,
        height=SIDE,
        num_inference_steps=steps,
        guidance_scale=GUIDANCE,
    ).images[0]


def noise_of(base: BaseModel) -> torch.Tensor:
    """What the app's picture of this seed begins with."""
    from apt_engine.bases import random

    shape = base.latent_shape(SIDE, SIDE)
    return torch.randn(shape, generator=random.generator(1, 0, 0, "sample"))[None]


def compare(base: BaseModel, pipeline: Any, sampler: str, turns: int) -> tuple[int, float]:
    """The largest difference of a pixel, and the median ratio of CPU seconds."""
    noise, pairs = noise_of(base), []
    pictures: list[Image.Image] = []
    for turn in range(turns + 1):
        sides: list[Callable[[], Image.Image]] = [
            lambda: ours(base, sampler),
            lambda: theirs(pipeline, sampler, noise.clone()),
        ]
        seconds = [0.0, 0.0]
        for side in (0, 1) if turn % 2 else (1, 0):
            began = time.process_time()
            picture = sides[side]()
            seconds[side] = time.process_time() - began
            pictures.append(picture)
        pairs.append(seconds[0] / seconds[1])
    first, second = (numpy.asarray(picture, dtype=int) for picture in pictures[:2])
    return int(numpy.abs(first - second).max()), statistics.median(pairs[1:])


def _give_lora(base: BaseModel, pipeline: Any) -> None:
    """The same LoRA, which does something, on both."""
    adapter.attach(base.denoiser, 16, 16.0, base.lora.chosen(feed_forward=True, convolutions=True), seed=1)
    generator = torch.Generator().manual_seed(2)
    for parameter in adapter.trainable_parameters(base.denoiser).values():
        parameter.data += torch.randn(parameter.shape, generator=generator) * 0.003
    with tempfile.TemporaryDirectory() as folder:
        files.save(base, Path(folder) / "lora.safetensors")
        pipeline.load_lora_weights(folder, weight_name="lora.safetensors")


if __name__ == "__main__":
    main()
