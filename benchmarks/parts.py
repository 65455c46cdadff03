"""Each part of APT on the pocket model: `python -m benchmarks.parts`.

For each subject the same photos, seed and steps: plain DreamBooth LoRA, + ATA, + RS, + AA (= APT). Draws one grid a subject,
the indicator of all ten bins over the steps, and counts pictures with a dark frame for both kinds of border. Runs are kept
in `--work` and taken up again; the pictures go to `docs/`.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
from PIL import Image, ImageDraw

from apt_engine.runs.events import StepFinished
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig
from benchmarks.runs import SIDE, draw, finished_run

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "assets" / "examples"
DOCS = ROOT / "docs"
OFF: dict[str, Any] = {"augmentation": 0, "weighting": False, "stabilization": 0, "alignment": 0}
METHODS: dict[str, dict[str, Any]] = {
    "plain": OFF,
    "+ ATA": {"stabilization": 0, "alignment": 0},
    "+ RS": {"alignment": 0},
    "+ AA": {},
}
PAPER_BORDER = {"border": "paper", "augmentation": 1.0}
MASKED_BORDER = {"border": "masked", "augmentation": 1.0}
PROMPTS = (
    "a photo of a {subject} on the beach",
    "a photo of a {subject} in the snow",
    "a pencil sketch of a {subject}",
    "a watercolor painting of a {subject} in the forest",
    "a photo of a cat in the snow",
)
SEEDS = (1, 2)
FRAMED_PICTURES = 64
DARK = 40  # mean of 255 over the outer 3 px of a side
COLORS = ("#0f766e", "#149a8f", "#5fae8b", "#9db86a", "#e4b34a", "#e0914a", "#cf6a43", "#a8453a", "#7a1f2b", "#4a1220")


def trained(store: RunStore, subject: str, name: str, settings: dict[str, Any], steps: int) -> Run:
    """The finished run of a subject and method, trained now unless it is there."""
    examples = json.loads((EXAMPLES / "examples.json").read_text(encoding="utf-8"))
    word = next(entry["subject"] for entry in examples if entry["folder"] == subject)
    fixed = {"subject": word, "steps": steps, "sample_every_steps": 0, "save_every_steps": 100, "identifier": "zwx"}
    run = finished_run(store, f"{subject}-{name}".replace(" ", ""), EXAMPLES / subject, {**fixed, **settings})
    print(f"{subject}, {name}: done", flush=True)
    return run


def newest_lora(run: Run | None) -> Path | None:
    """The file of a run's last checkpoint; none for the base."""
    return run.checkpoint().lora_path if run else None


def draw_grid(subject: str, runs: dict[str, Run | None], config: TrainingConfig) -> None:
    """A row a prompt and seed, a column a method."""
    wanted = [(prompt, seed) for prompt in PROMPTS for seed in SEEDS]
    size = 2 * SIDE
    sheet = Image.new("RGB", (210 + (size + 4) * len(runs), 24 + (size + 4) * len(wanted)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, (name, run) in enumerate(runs.items()):
        left = 210 + column * (size + 4)
        pen.text((left + 4, 6), name, fill="black")
        for row, image in enumerate(draw(config, newest_lora(run), wanted)):
            sheet.paste(image.resize((size, size), Image.Resampling.BICUBIC), (left, 24 + row * (size + 4)))
    for row, (prompt, seed) in enumerate(wanted):
        words = config.fill(prompt).replace(" on ", "\non ").replace(" in ", "\nin ")
        pen.text((4, 60 + row * (size + 4)), f"{words}\nseed {seed}", fill="black")
    sheet.save(DOCS / f"parts-{subject}.jpg", quality=90)


def gamma_curves(run: Run) -> list[tuple[int, tuple[float, ...]]]:
    """Step and indicator of all bins."""
    return [(event.step, event.gamma) for event in run.events()[0] if isinstance(event, StepFinished)]


def draw_gamma(runs: dict[str, Run], steps: int) -> None:
    """The indicator over the steps, a panel a subject, a line a bin."""
    panels = ""
    for number, (subject, run) in enumerate(runs.items()):
        curves, left = gamma_curves(run), 60 + 400 * number
        lines = f'<text x="{left}" y="22" font-weight="600">{subject}</text>'
        for level in (0, 0.25, 0.5, 0.75, 1):
            y = 240 - 200 * level
            lines += f'<path d="M{left} {y}h300" stroke="#ddd"/><text x="{left - 34}" y="{y + 4}">{level}</text>'
        for mark in (0, steps // 2, steps):
            lines += f'<text x="{left + 300 * mark / steps - 8:.0f}" y="258">{mark}</text>'
        for index, color in enumerate(COLORS):
            points = " ".join(
                f"{left + 300 * step / steps:.1f},{240 - 200 * gamma[index]:.1f}" for step, gamma in curves
            )
            last = 240 - 200 * curves[-1][1][index]
            lines += f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="1.5"/>'
            lines += f'<text x="{left + 304}" y="{last + 4 + 9 * (index % 2):.0f}" fill="{color}">{index}</text>'
        panels += lines
    width = 80 + 400 * len(runs)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} 270" font-family="sans-serif" font-size="11">'
    text = f'{head}<rect width="100%" height="100%" fill="white"/>{panels}</svg>\n'
    (DOCS / "gamma.svg").write_text(text, encoding="utf-8")


def share_framed(images: Iterator[Image.Image]) -> float:
    """Share of pictures of which at least three sides are dark over their outer 3 px."""
    framed = []
    for image in images:
        gray = numpy.asarray(image.convert("L"), dtype=float)
        sides = (gray[:3], gray[-3:], gray[:, :3], gray[:, -3:])
        framed.append(sum(side.mean() < DARK for side in sides) >= 3)
    return float(numpy.mean(framed))


def main() -> None:
    """Train what is missing, draw, count, and print two tables."""
    parser = argparse.ArgumentParser(description="Each part of APT on the pocket model.")
    parser.add_argument("--work", type=Path, default=ROOT / ".bench", help="where runs are kept (%(default)s)")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--subjects", nargs="+", default=["teddy_bear", "backpack_dog"])
    options = parser.parse_args()
    DOCS.mkdir(exist_ok=True)
    store = RunStore(options.work)
    apt: dict[str, Run] = {}
    for subject in options.subjects:
        runs = {name: trained(store, subject, name, settings, options.steps) for name, settings in METHODS.items()}
        apt[subject] = runs["+ AA"]
        draw_grid(subject, {"base": None, **runs}, apt[subject].config)
    draw_gamma(apt, options.steps)
    print("| gamma | step | " + " | ".join(f"bin {index}" for index in range(10)) + " |\n| --- |" + " ---: |" * 11)
    for subject, run in apt.items():
        for step, gamma in gamma_curves(run)[options.steps // 4 - 1 :: options.steps // 4]:
            print(f"| {subject} | {step} | " + " | ".join(f"{value:.2f}" for value in gamma) + " |")
    print(
        f"\n| pictures with a dark frame, n = {FRAMED_PICTURES} | base | masked | paper |\n| --- | ---: | ---: | ---: |"
    )
    wanted = [("a photo of a {subject}", seed) for seed in range(FRAMED_PICTURES)]
    for subject in options.subjects:
        borders = [
            trained(store, subject, name, settings, options.steps)
            for name, settings in (("masked", MASKED_BORDER), ("paper", PAPER_BORDER))
        ]
        shares = [share_framed(draw(apt[subject].config, newest_lora(run), wanted)) for run in (None, *borders)]
        print(f"| {subject} | " + " | ".join(f"{share:.2f}" for share in shares) + " |", flush=True)


if __name__ == "__main__":
    main()
