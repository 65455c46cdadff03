"""The command line on a toy, and what it said."""

from pathlib import Path

import numpy
import pytest
from PIL import Image

from apt_engine.cli.main import main

FAST = [
    "--set",
    "sample_steps=2",
    "--set",
    "sample_every_steps=0",
    "--set",
    "drift_every_steps=0",
    "--set",
    "resolution=32",
    "--set",
    "sample_prompts=a {subject}",
    "--set",
    "warped_views=2",
]


def train(photos: Path, base: Path, data_dir: Path, *more: str, subject: str = "car") -> int:
    return main(
        [
            "train",
            "--photos",
            str(photos),
            "--subject",
            subject,
            "--base",
            str(base),
            "--data-dir",
            str(data_dir),
            "--steps",
            "4",
            *FAST,
            *more,
        ]
    )


def generate(data_dir: Path, out: Path, *more: str, prompt: str = "a photo of a {subject}") -> int:
    return main(
        [
            "generate",
            "--data-dir",
            str(data_dir),
            "--prompt",
            prompt,
            "--count",
            "1",
            "--out",
            str(out),
            "--set",
            "steps=2",
            "--set",
            "width=32",
            "--set",
            "height=32",
            *more,
        ]
    )


def only_picture(folder: Path) -> numpy.ndarray:
    (path,) = folder.glob("*.png")
    return numpy.asarray(Image.open(path), dtype=float)


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line
