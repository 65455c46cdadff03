"""The bank of re-framed views at toy size: pictures of 32 px, 8 x 8 latent cells."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from apt_engine.bases import random
from apt_engine.runs.events import StageChanged
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.latents import LatentSource, View, encode_with_warps
from tests.engine.test_bases import stable_diffusion

PHOTOS = 2


def encode(folder: Path, **settings: object) -> tuple[LatentSource, list[StageChanged]]:
    paths = [folder / f"{number}.png" for number in range(PHOTOS)]
    for number, path in enumerate(paths):
        Image.new("RGB", (32, 32), ("crimson", "khaki")[number]).save(path)
    config = TrainingConfig.from_dict({"subject": "car", **settings})
    told: list[StageChanged] = []
    encoding = encode_with_warps(stable_diffusion(), paths, config, "Encoding.", lambda: None)
    while True:
        try:
            told.append(next(encoding))
        except StopIteration as end:
            return end.value, told


def drawn(source: LatentSource) -> list[View]:
    return [
        source.warped(photo, random.generator(0, step, photo, "warp")) for photo in range(PHOTOS) for step in range(40)
    ]


@pytest.mark.parametrize("views", [0, 24])
def test_a_warp_that_leaves_no_cell_is_drawn_again(tmp_path: Path, views: int) -> None:
    """Shrunk to a third, a photo covers 2 or 3 cells a side; the erosion takes one on each."""
    masked, told = encode(tmp_path, warped_views=views, border="masked")
    fractions = [event.fraction or 0.0 for event in told]
    assert fractions == sorted(fractions)
    assert all(view.mask.any() and view.shown for view in drawn(masked))
    paper, _ = encode(tmp_path, warped_views=views, border="paper")
    assert any(not view.mask.any() for view in drawn(paper))


def test_where_no_warp_leaves_a_cell_the_photo_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apt_engine.training.latents.TRIES", 0)
    source, _ = encode(tmp_path, warped_views=1)
    for view, photo in zip(drawn(source), [0] * 40 + [1] * 40, strict=True):
        assert torch.equal(view.mean, source.plain[photo].mean)
        assert view.mask.all()
