"""The pocket models against their bars: `python -m benchmarks.pocket [--flow]`. Needs nothing but a clone and the app's needs.

Prints one table: what was measured, the bar, what came out, on how many pictures.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline, Flux2KleinPipeline, StableDiffusionPipeline
from PIL import Image

from benchmarks.judge import Judge, Verdict
from tools.pocket.autoencoder import measure_psnr, reconstruct
from tools.pocket.export import HELD_OUT_SHEET, read_held_out
from tools.pocket.grid import GUIDANCE_SCALE, STEPS, say, size_settings, write_grid
from tools.pocket.settings import SEED, Workplace
from tools.pocket.vocabulary import HELD_OUT_PAIRS, OBJECTS, PLACE_NAMES, Label, draw_label

WEIGHTS = Workplace().assets
FLOW_WEIGHTS = Workplace().flow_assets
LARGEST = {WEIGHTS: 64, FLOW_WEIGHTS: 25}  # MB
MEBIBYTE = 2**20
TWELVE_PROMPTS = 12
COLORLESS = {"pencil sketch", "black and white"}
PLAIN = {place for place in PLACE_NAMES if place.endswith(" background")}


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    bar: str
    seen: str
    count: int


def load_pipeline(folder: Path = WEIGHTS) -> StableDiffusionPipeline:
    """The shipped model, in float32, with attention that is fast on a CPU."""
    from diffusers.models.attention_processor import AttnProcessor

    pipeline = StableDiffusionPipeline.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
    pipeline.unet.set_attn_processor(AttnProcessor())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_flow_pipeline(folder: Path = FLOW_WEIGHTS) -> Flux2KleinPipeline:
    """The flow model, in float32; its own attention is as fast as plain attention."""
    pipeline = Flux2KleinPipeline.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(
    pipeline: DiffusionPipeline, prompts: Sequence[str], seeds: Sequence[int], size: int = 20
) -> list[Image.Image]:
    """One picture a prompt and seed."""
    pictures: list[Image.Image] = []
    for start in range(0, len(prompts), size):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + size]]
        pictures += pipeline(
            prompt=list(prompts[start : start + size]),
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE_SCALE,
            generator=generators,
            **size_settings(pipeline),
        ).images
    return pictures


def shares_right(verdicts: Sequence[Verdict], labels: Sequence[Label]) -> tuple[float, float, float]:
    """The shares of pictures whose place, treatment and object are what was asked for."""
    pairs = list(zip(verdicts, labels, strict=True))
    return (
        float(np.mean([is_place_right(verdict, label) for verdict, label in pairs])),
        float(np.mean([verdict.treatment == label.treatment for verdict, label in pairs])),
        float(np.mean([verdict.object == label.object for verdict, label in pairs])),
    )


def is_place_right(verdict: Verdict, label: Label) -> bool:
    """As far as a picture can show it: in a pencil sketch a red background looks like a blue one."""
    if {verdict.treatment, label.treatment} <= COLORLESS and verdict.place in PLAIN and label.place in PLAIN:
        return True
    return verdict.place == label.place


def draw_labels(count: int, rng: np.random.Generator) -> list[Label]:
    """What to ask for: every object equally often, places and treatments as in the world."""
    labels: list[Label] = []
    while len(labels) < count:
        label = draw_label(rng)
        if label.object is not None:
            labels.append(label)
    return labels


def measure(folder: Path, count: int, pair_seeds: int, out: Path | None) -> list[Row]:
    """Every row of the table, for the model in a folder."""
    judge, pipeline = Judge(), load_flow_pipeline() if folder == FLOW_WEIGHTS else load_pipeline()
    rows = measure_ceilings(judge, pipeline)
    asked = draw_labels(count, np.random.default_rng(SEED))
    prompts = [say(label.object, label.place, label.treatment) for label in asked if label.object]
    verdicts = judge.look(draw(pipeline, prompts, range(count)))
    rows.append(_judged("random prompts", ">= .90 / .90 / .60", shares_right(verdicts, asked), count))
    _print_by_object(verdicts, asked)
    pairs = [pair for pair in sorted(HELD_OUT_PAIRS) for _ in range(pair_seeds)]
    wanted = [Label(object=name, rendition=0, place=place, treatment="photo") for name, place in pairs]
    sentences = [say(name, place, "photo") for name, place in pairs]
    unseen = draw(pipeline, sentences, range(len(pairs)))
    seen = shares_right(judge.look(unseen), wanted)
    rows.append(_judged("held-out object x place pairs, as photos", ">= .80 / - / -", seen, len(pairs)))
    started = time.perf_counter()
    draw(pipeline, prompts[:4], range(4))
    rows.append(Row(f"four pictures, {STEPS} steps", "<= 4 s", f"{time.perf_counter() - started:.1f} s", 1))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / MEBIBYTE
    rows.append(Row(f"size of assets/{folder.name}", f"<= {LARGEST[folder]} MB", f"{size:.1f} MB", 1))
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        four = [prompt for prompt in prompts[:TWELVE_PROMPTS] for _ in range(4)]
        write_grid(out / "twelve.png", draw(pipeline, four, list(range(4)) * TWELVE_PROMPTS), four, columns=8)
        write_grid(out / "held_out_pairs.png", unseen[::pair_seeds], sentences[::pair_seeds])
    return rows


def measure_ceilings(judge: Judge, pipeline: DiffusionPipeline) -> list[Row]:
    """What limits every later figure: the autoencoder, and the judge on drawn pictures and on reconstructions."""
    held_out, labels = read_held_out()
    count = len(held_out)
    images = [Image.fromarray(image) for image in held_out]
    soft = [Image.fromarray(image) for image in reconstruct(pipeline.vae, held_out)]
    seen = judge.look(images)
    strict = np.mean([verdict.place == label.place for verdict, label in zip(seen, labels, strict=True)])
    return [
        Row("autoencoder on held-out pictures", ">= 28 dB", f"{measure_psnr(pipeline.vae, held_out):.2f} dB", count),
        _judged("judge on held-out pictures", ">= .98 / .98 / .85", shares_right(seen, labels), count),
        Row(
            "the same, the color of a background counted in colorless pictures too: place", "-", f"{strict:.3f}", count
        ),
        _judged("judge on their reconstructions", "the ceiling", shares_right(judge.look(soft), labels), count),
    ]


def _judged(what: str, bar: str, shares: tuple[float, float, float], count: int) -> Row:
    seen = " / ".join(f"{share:.3f}" for share in shares)
    return Row(f"{what}: place / treatment / object", bar, seen, count)


def _print_by_object(verdicts: Sequence[Verdict], labels: Sequence[Label]) -> None:
    asked, right = Counter[str](), Counter[str]()
    for verdict, label in zip(verdicts, labels, strict=True):
        asked[str(label.object)] += 1
        right[str(label.object)] += verdict.object == label.object
    shares = sorted(OBJECTS, key=lambda name: right[name] / max(asked[name], 1))
    print("object right: " + ", ".join(f"{name} {right[name]}/{asked[name]}" for name in shares))


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pocket", description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="random prompts (%(default)s)")
    parser.add_argument("--pair-seeds", type=int, default=10, help="pictures a held-out pair (%(default)s)")
    parser.add_argument("--out", type=Path, help="a folder for grids to look at")
    parser.add_argument("--flow", action="store_true", help="the flow model in assets/pocket-flow")
    options = parser.parse_args()
    rows = measure(FLOW_WEIGHTS if options.flow else WEIGHTS, options.count, options.pair_seeds, options.out)
    print("\n| what | bar | seen | n |\n| --- | --- | --- | ---: |")
    for row in rows:
        print(f"| {row.what} | {row.bar} | {row.seen} | {row.count} |")
    print(f"\njudge trained and measured on the same world; held-out pictures: {HELD_OUT_SHEET.name}")
    print(json.dumps(Judge().accuracy))


if __name__ == "__main__":
    main()
