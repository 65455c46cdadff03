"""Puts the trained parts together as a plain Flux2KleinPipeline folder with fp16 weights, and draws its grid."""

import shutil
from pathlib import Path

import torch
from diffusers import Flux2KleinPipeline

from tools.pocket.export import publish
from tools.pocket.flow import load_averaged
from tools.pocket.flow_model import build_scheduler, spread
from tools.pocket.flow_tokenizer import load_flow_tokenizer
from tools.pocket.flow_vae import load_flow_vae
from tools.pocket.grid import draw_prompts, sample, write_grid
from tools.pocket.settings import Workplace


def assemble_flow_pipeline(workplace: Workplace) -> Flux2KleinPipeline:
    """The pipeline in memory, in float32, from the last checkpoint."""
    model, _ = load_averaged(workplace)
    pipeline = Flux2KleinPipeline(
        scheduler=build_scheduler(),
        vae=load_flow_vae(workplace),
        text_encoder=spread(model.text_encoder),
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


def draw_flow_grid(workplace: Workplace) -> Path:
    """Draws the same prompts as the pocket model's grid, from the last checkpoint."""
    prompts = draw_prompts(36)
    path = workplace.root / "flow_grid.png"
    write_grid(path, sample(assemble_flow_pipeline(workplace), prompts), prompts)
    return path
