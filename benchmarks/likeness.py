"""Does a plain LoRA learn a new instance, its shape and its color, and overfit when it runs long?

For each subject a plain DreamBooth LoRA is trained on its five photos; at several checkpoints its pictures by the caption
alone, and in places the photos do not show, are compared with held-out views. Two reference lines: the base model's pictures
of the class, and two views of the one subject. Runs are kept in `--work` and taken up again.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from apt_engine.bases.registry import load_base_of
from apt_engine.photos.photo_set import photos_in
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig
from benchmarks.features import embed, likeness
from benchmarks.parts import OFF
from benchmarks.runs import SIDE, draw, finished_run
from tools.pocket.autoencoder import pictures_to_tensor
from tools.pocket.grid import write_grid

ROOT = Path(__file__).resolve().parent.parent
SUBJECTS = ROOT / "benchmarks" / "subjects"
INDICES = ("subjects.json", "drawings.json")  # photographed by tools/pocket, drawn by benchmarks/drawings.py
PROMPTS = (
    "a photo of a {subject} on the beach",
    "a photo of a {subject} on a wooden table",
    "a photo of a {subject} in the snow",
    "a photo of a {subject} on a white background",
)
SEEDS = (1, 2, 3)
CAPTION_SEEDS = range(1, 13)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A subject of the benchmarks: its class word and its photos."""

    key: str
    name: str
    role: str
    training: Path
    held_out: Path


def list_subjects(*roles: str) -> list[Subject]:
    """The subjects of some roles: "example", "evidence", "tuning"; "drawing" for what is no photograph."""
    rows = [row for name in INDICES for row in json.loads((SUBJECTS / name).read_text(encoding="utf-8"))]
    return [
        Subject(
            key=row["key"],
            name=row["name"],
            role=row["role"],
            training=ROOT / row["training"],
            held_out=ROOT / row["held_out"],
        )
        for row in rows
        if row["role"] in roles
    ]


def open_photos(folder: Path) -> list[Image.Image]:
    """The photos of a folder, in the order of their names."""
    return [Image.open(path).convert("RGB") for path in photos_in(folder)]


def drawn(config: TrainingConfig, lora_path: Path | None) -> tuple[list[Image.Image], list[Image.Image]]:
    """Pictures by the caption and in the places of PROMPTS, by a checkpoint or by the base, at the same seeds."""
    wanted = [(config.caption, seed) for seed in CAPTION_SEEDS]
    wanted += [(prompt, seed) for prompt in PROMPTS for seed in SEEDS]
    images = list(draw(config, lora_path, wanted))
    return images[: len(CAPTION_SEEDS)], images[len(CAPTION_SEEDS) :]


@torch.no_grad()
def ceiling(photos: list[Image.Image], config: TrainingConfig) -> list[Image.Image]:
    """Photos as the autoencoder gives them back: no picture of this model can be more alike."""
    base = load_base_of(config)
    small = np.stack([np.asarray(photo.resize((SIDE, SIDE), Image.Resampling.BOX)) for photo in photos])
    pixels = base.decode(base.encode_images(pictures_to_tensor(small))[0])
    return [Image.fromarray((one.permute(1, 2, 0) * 255).round().byte().numpy()) for one in pixels]


def measure(subject: Subject, run: Run, out: Path) -> Iterator[dict[str, Any]]:
    """One row a checkpoint, the base first; draws a grid of the photos, the base and the checkpoints."""
    held_out, training = open_photos(subject.held_out), open_photos(subject.training)
    references = embed(held_out)
    two_views = likeness(embed(training), references)
    reachable = likeness(embed(ceiling(training, run.config)), references)
    sheet, words = training + held_out[:1], ["photo"] * len(training) + ["held out"]
    models = [(0, None), *((checkpoint.step, checkpoint.lora_path) for checkpoint in run.checkpoints())]
    for step, lora_path in models:
        captioned, pictures = drawn(run.config, lora_path)
        sheet += pictures[:: len(SEEDS)] + pictures[1 : 1 + 2 * len(SEEDS) : len(SEEDS)]
        words += [f"{step} steps, {run.config.fill(prompt)}" for prompt in (*PROMPTS, *PROMPTS[:2])]
        yield {
            "subject": subject.key,
            "step": step,
            "captioned": likeness(embed(captioned), references),
            "elsewhere": likeness(embed(pictures), references),
            "to_training": likeness(embed(captioned), embed(training)),
            "two_views": two_views,
            "reachable": reachable,
        }
    write_grid(out / f"likeness-{subject.key}.png", sheet, words)


def main() -> None:
    """Trains what is missing, measures, and prints a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.likeness", description=__doc__)
    parser.add_argument(
        "--work", type=Path, default=ROOT / ".bench" / "likeness", help="where runs are kept (%(default)s)"
    )
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--every", type=int, default=200)
    parser.add_argument("--roles", nargs="+", default=["tuning"])
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    heads = "subject | step | by the caption | in new places | caption to the training photos | two views | reachable"
    print(f"| {heads} |\n| --- |" + " ---: |" * 6)
    for subject in list_subjects(*options.roles):
        fixed = {"sample_every_steps": 0, "steps": options.steps, "save_every_steps": options.every}
        settings = {"subject": subject.name, **fixed, **OFF}
        run = finished_run(RunStore(options.work), subject.key, subject.training, settings)
        for row in measure(subject, run, options.work):
            rows.append(row)
            figures = [row[name] for name in ("captioned", "elsewhere", "to_training", "two_views", "reachable")]
            print(
                f"| {row['subject']} | {row['step']} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |",
                flush=True,
            )
    for step in sorted({row["step"] for row in rows}):
        for kind in ("captioned", "elsewhere"):
            shares = [share_of_gap(rows, row, kind) for row in rows if row["step"] == step]
            mean = f"{np.mean(shares):.2f} ({min(shares):.2f} to {max(shares):.2f})"
            print(f"step {step}, {kind}: share of the gap from base to two views {mean}, n = {len(shares)}")


def share_of_gap(rows: list[dict[str, Any]], row: dict[str, Any], kind: str) -> float:
    """How much of the way from the base to two views of the subject a checkpoint has come."""
    base = next(other[kind] for other in rows if other["subject"] == row["subject"] and other["step"] == 0)
    return (row[kind] - base) / (row["two_views"] - base)


if __name__ == "__main__":
    main()
