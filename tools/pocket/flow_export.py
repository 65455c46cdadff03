"""Puts the trained parts together as a plain Flux2KleinPipeline folder with fp16 weights, and draws its grid."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import Flux2KleinPipeline
from PIL import Image

from tools.pocket.export import publish
from tools.pocket.flow import load_averaged
from tools.pocket.flow_model import build_scheduler
from tools.pocket.flow_tokenizer import TEXT_LENGTH, load_flow_tokenizer
from tools.pocket.flow_vae import load_flow_vae
from tools.pocket.grid import GUIDANCE_SCALE, STEPS, draw_prompts, write_grid
from tools.pocket.settings import IMAGE_SIZE, SEED, Workplace


def assemble_flow_pipeline(workplace: Workplace) -> Flux2KleinPipeline:
    """The pipeline in memory, in float32, from the last checkpoint."""
    model, _ = load_averaged(workplace)
    pipeline = Flux2KleinPipeline(
        scheduler=build_scheduler(),
        vae=load_flow_vae(workplace),
        text_encoder=model.text_encoder,
        tokenizer=load_flow_tokenizer(workplace.flow_tokenizer),
        transformer=model.transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def export_flow_pipeline(workplace: Workplace) -> Path:
    """Writes the pipeline into its assets folder, file by file, each atomically."""
    staging = workplace.root / "flow_export"
    shutil.rmtree(staging, ignore_errors=True)
    assemble_flow_pipeline(workplace).to(dtype=torch.float16).save_pretrained(staging, safe_serialization=True)
    publish(staging, workplace.flow_assets)
    return workplace.flow_assets


def sample_flow(pipeline: Flux2KleinPipeline, prompts: Sequence[str], seed: int = SEED) -> list[Image.Image]:
    """One picture a prompt, 20 steps."""
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), 12):
        part = list(prompts[start : start + 12])
        generators = [torch.Generator().manual_seed(seed + start + index) for index in range(len(part))]
        pictures += pipeline(
            prompt=part,
            height=IMAGE_SIZE,
            width=IMAGE_SIZE,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE_SCALE,
            generator=generators,
            max_sequence_length=TEXT_LENGTH,
        ).images
    return pictures


def draw_flow_grid(workplace: Workplace) -> Path:
    """Draws the same prompts as the pocket model's grid, from the last checkpoint."""
    prompts = draw_prompts(36)
    path = workplace.root / "flow_grid.png"
    write_grid(path, sample_flow(assemble_flow_pipeline(workplace), prompts), prompts)
    return path
