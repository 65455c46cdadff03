"""Puts the trained parts together as a plain StableDiffusionPipeline folder with fp16 weights."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from tools.pocket.autoencoder import load_autoencoder
from tools.pocket.files import write_atomically, write_text
from tools.pocket.settings import IMAGE_SIZE, REPOSITORY, Workplace
from tools.pocket.tokenizer import load_tokenizer
from tools.pocket.unet import build_scheduler, load_averaged
from tools.pocket.vocabulary import COLORS, OBJECTS, PLACES, TREATMENTS, Label, article_of
from tools.pocket.world import decode_label, open_world

HELD_OUT_SHEET = REPOSITORY / "benchmarks" / "held_out.png"
HELD_OUT_SHOWN = 400
SHEET_COLUMNS = 20
SAMPLE_PROMPTS = (
    "a photo of a teapot on the beach",
    "a photo of an owl in the forest",
    "a photo of an armchair in the park",
    "a photo of a vase on a wooden table",
    "a photo of a car in the city",
    "a photo of a lamp in a workshop",
    "a watercolor painting of a strawberry in the grass",
    "a pencil sketch of a chair on a white background",
    "pixel art of a mushroom at night",
    "a black and white photo of a cat in the snow",
    "a photo of a rocket in space",
    "a cartoon of a penguin on a blue background",
)


def export_pipeline(workplace: Workplace) -> Path:
    """Writes the pipeline and prompts.json into the assets folder, file by file, each atomically."""
    staging = workplace.root / "export"
    shutil.rmtree(staging, ignore_errors=True)
    assemble_pipeline(workplace).to(dtype=torch.float16).save_pretrained(staging, safe_serialization=True)
    shutil.copytree(workplace.tokenizer, staging / "tokenizer", dirs_exist_ok=True)
    _write_classic_names(staging / "text_encoder" / "model.safetensors")
    publish(staging, workplace.assets)
    write_text(workplace.assets / "prompts.json", json.dumps(list_prompts(), indent=2) + "\n")
    return workplace.assets


def publish(staging: Path, target: Path) -> None:
    """Copies every file under one folder to the same place under another, each atomically."""
    for path in sorted(staging.rglob("*")):
        if path.is_file():
            write_atomically(
                target / path.relative_to(staging), lambda temporary, source=path: _copy(source, temporary)
            )


def export_held_out(workplace: Workplace) -> None:
    """Writes pictures no part was trained on as one sheet, with their labels, for the benchmarks."""
    world = open_world(workplace)
    chosen = slice(world.training_count, world.training_count + HELD_OUT_SHOWN)
    images, labels = world.images[chosen], [decode_label(code) for code in world.codes[chosen]]
    rows = images.reshape(-1, SHEET_COLUMNS, IMAGE_SIZE, IMAGE_SIZE, 3).transpose(0, 2, 1, 3, 4)
    sheet = Image.fromarray(rows.reshape(-1, SHEET_COLUMNS * IMAGE_SIZE, 3))
    write_atomically(HELD_OUT_SHEET, lambda target: sheet.save(target, "PNG", optimize=True))
    write_text(HELD_OUT_SHEET.with_suffix(".json"), json.dumps([asdict(label) for label in labels]) + "\n")


def read_held_out() -> tuple[NDArray[np.uint8], list[Label]]:
    """The held-out pictures (count, 64, 64, 3) and what they show, from the repository."""
    sheet = np.asarray(Image.open(HELD_OUT_SHEET).convert("RGB"))
    rows = sheet.reshape(-1, IMAGE_SIZE, SHEET_COLUMNS, IMAGE_SIZE, 3).transpose(0, 2, 1, 3, 4)
    labels = [Label(**entry) for entry in json.loads(HELD_OUT_SHEET.with_suffix(".json").read_text(encoding="utf-8"))]
    return rows.reshape(-1, IMAGE_SIZE, IMAGE_SIZE, 3), labels


def assemble_pipeline(workplace: Workplace) -> StableDiffusionPipeline:
    """The pipeline in memory, in float32, from the last checkpoints."""
    unet, text_encoder, _ = load_averaged(workplace)
    pipeline = StableDiffusionPipeline(
        vae=load_autoencoder(workplace),
        text_encoder=text_encoder,
        tokenizer=load_tokenizer(workplace.tokenizer),
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def list_prompts() -> dict[str, list[str]]:
    """The words the model knows, and prompts that show it well."""
    places = [wordings[0] for wordings in PLACES.values()] + [
        f"on {article_of(color)} {color} background" for color in COLORS
    ]
    treatments = [wordings[0].removesuffix(" {}") for wordings in TREATMENTS.values()]
    return {
        "objects": list(OBJECTS),
        "places": places,
        "treatments": treatments,
        "sample_prompts": list(SAMPLE_PROMPTS),
    }


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _write_classic_names(path: Path) -> None:
    """Gives the text encoder's tensors the names every other program expects; transformers reads both."""
    prefix = "text_model."
    tensors = load_file(path)
    renamed = {key if key.startswith(prefix) else prefix + key: tensor for key, tensor in tensors.items()}
    write_atomically(path, lambda target: save_file(renamed, target, metadata={"format": "pt"}))
