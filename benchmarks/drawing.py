"""Drawing against diffusers' own pipeline: `python -m benchmarks.drawing`.

The pocket model, the same prompts, seeds, steps and guidance on both sides, turn by turn so that another program slows both
alike. Of each sampler: the largest difference of a pixel (0 to 255), and the ratio of CPU seconds, the median over the turns but
the first, in which prompts are encoded. Ours is as the app draws, LoRAs fused; theirs has them beside the weights, as
`set_adapters` leaves them, where a sum rounds otherwise. So the difference is told for both, and for ours with LoRAs beside too.
"""

import argparse
import contextlib
import statistics
import tempfile
import time
import warnings
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
from apt_engine.lora import adapter, files, stack
from apt_engine.sampling.sampler import Picture, Sampler
from apt_engine.settings.presets import POCKET_DIR

SAMPLERS = ("DPM++ 2M", "Euler", "DDIM")
PROMPT, NEGATIVE = "a photo of a teapot on the beach", "blurry"
STEPS, GUIDANCE, SIDE = 20, 5.0, 64
STRENGTHS = (1.0, 0.6)  # of the LoRAs


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Speed and equality of drawing.")
    parser.add_argument("--turns", type=int, default=8)
    options = parser.parse_args()
    base, stock = load_base("pocket", device="cpu", attention="plain"), stock_pipeline()
    choose_threads(base.denoiser)
    print("| sampler | LoRAs | largest difference, beside | fused, as drawn | CPU time, ours / diffusers' |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for count in (0, 1, 2):
        give_loras(base, stock, count)
        for sampler in SAMPLERS:
            beside = difference(ours(base, sampler, is_fused=False), theirs(stock, sampler, noise_of(base)))
            fused, ratio = compare(base, stock, sampler, options.turns)
            print(f"| {sampler} | {count} | {beside} | {fused} | {ratio:.3f} |", flush=True)


def stock_pipeline() -> Any:
    """Diffusers' own, with the attention that is fastest at this size, as ours has it."""
    from diffusers.models.attention_processor import AttnProcessor

    pipeline = StableDiffusionPipeline.from_pretrained(
        POCKET_DIR, dtype=torch.float32, safety_checker=None, requires_safety_checker=False
    )
    pipeline.unet.set_attn_processor(AttnProcessor())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def ours(base: BaseModel, sampler: str, steps: int = STEPS, *, is_fused: bool = True) -> Image.Image:
    """A picture by the app, which fuses LoRAs except in bf16."""
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
    with adapter.fused(base.denoiser) if is_fused else contextlib.nullcontext():
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
    return difference(*pictures[:2]), statistics.median(pairs[1:])


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest of a pixel."""
    first, second = (numpy.asarray(picture, dtype=int) for picture in (one, other))
    return int(numpy.abs(first - second).max())


def give_loras(base: BaseModel, pipeline: Any, count: int) -> None:
    """The same LoRAs, which do something, at the same strengths on both."""
    pipeline.unload_lora_weights()
    names, strengths = [f"lora{number}" for number in range(count)], list(STRENGTHS[:count])
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{name}.safetensors" for name in names]
        for number, path in enumerate(paths):
            _write_lora(base, path, seed=number + 1)
        with warnings.catch_warnings(action="ignore"):  # PEFT's, that there are two
            for name, path in zip(names, paths, strict=True):
                pipeline.load_lora_weights(folder, weight_name=path.name, adapter_name=name)
        stack.put_on(base, list(zip(paths, strengths, strict=True)))
    if count:
        pipeline.set_adapters(names, strengths)


def _write_lora(base: BaseModel, path: Path, seed: int) -> None:
    adapter.detach(base.denoiser)
    adapter.attach(base.denoiser, 16, 16.0, base.lora.chosen(feed_forward=True, convolutions=True), seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    for parameter in adapter.trainable_parameters(base.denoiser).values():
        parameter.data += torch.randn(parameter.shape, generator=generator) * 0.003
    files.save(base, path)


if __name__ == "__main__":
    main()
