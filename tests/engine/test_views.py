"""Photos as latents: whose views the bank holds, how many, and that each is warped by itself."""

from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from PIL import Image
from torch import Tensor

from apt_engine.apt.augment import Warp, warp_pixels
from apt_engine.bases import random
from apt_engine.training.latents import LatentSource, encode_view, encode_with_warps, read_pixels
from tests.engine.test_bases import stable_diffusion
from tests.laws import config_of

Made = TypeVar("Made")
STILL = {"max_zoom": 1, "max_rotation_degrees": 0}


def returned(work: Generator[Any, None, Made]) -> Made:
    while True:
        try:
            next(work)
        except StopIteration as done:
            return done.value


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two photos that are one picture, and another one."""
    folder = tmp_path_factory.mktemp("photos")
    for number, seed in enumerate((1, 1, 2)):
        noise = torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(seed)) * 255
        Image.fromarray(noise.byte().numpy()).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


def source_of(paths: list[Path], **settings: Any) -> LatentSource:
    return returned(encode_with_warps(stable_diffusion(), paths, config_of(**settings), "Encoding.", lambda: None))


def views_of(source: LatentSource, photo: int, draws: int = 40) -> list[Tensor]:
    """The different means that are drawn of one photo."""
    drawn = [source.warped(photo, random.generator(0, step, 0, "warp")).mean for step in range(draws)]
    return [mean for number, mean in enumerate(drawn) if not any(torch.equal(mean, one) for one in drawn[:number])]


@pytest.mark.parametrize("count", [0, 3])
def test_a_view_is_one_of_its_own_photo(paths: list[Path], count: int) -> None:
    source = source_of(paths, warped_views=count, **STILL)
    assert len(source) == 3
    for photo, path in enumerate(paths):
        (only,) = views_of(source, photo)
        assert torch.equal(only, source.plain[photo].mean)
        assert torch.equal(only, encode_view(stable_diffusion(), read_pixels(path)).mean)
    assert not torch.equal(source.plain[0].mean, source.plain[2].mean)


def test_a_bank_has_so_many_views_of_each_photo_and_each_is_warped_by_itself(paths: list[Path]) -> None:
    source = source_of(paths, warped_views=3)
    of_one, of_its_twin = views_of(source, 0), views_of(source, 1)
    assert len(of_one) == len(of_its_twin) == 3
    assert not any(torch.equal(one, other) for one in of_one for other in of_its_twin)
    again, others = source_of(paths, warped_views=3), source_of(paths, warped_views=3, seed=1)
    assert all(torch.equal(one, other) for one, other in zip(of_one, views_of(again, 0), strict=True))
    assert not any(torch.equal(one, other) for one in of_one for other in views_of(others, 0))


def test_without_a_bank_each_view_is_new(paths: list[Path]) -> None:
    assert len(views_of(source_of(paths, warped_views=0), 0, draws=5)) == 5


def test_what_is_encoded_is_the_warped_picture() -> None:
    base, white, warp = stable_diffusion(), torch.ones(3, 32, 32), Warp(2, 0)
    view = encode_view(base, white, warp)
    mean, std = base.encode_images(warp_pixels(white, warp)[0][None])
    assert torch.equal(view.mean, mean[0])
    assert torch.equal(view.std, std[0])
    assert view.mask.tolist() == [[float(2 < row < 5 and 2 < column < 5) for column in range(8)] for row in range(8)]
    assert view.shown is not None
    assert (view.shown.getpixel((4, 4)), view.shown.getpixel((48, 48))) == ((0, 0, 0), (255, 255, 255))
    assert encode_view(base, white).shown is None


def test_pixels_stand_where_they_stood(tmp_path: Path) -> None:
    picture = Image.new("RGB", (4, 2), "black")
    picture.putpixel((3, 1), (255, 0, 51))
    picture.save(tmp_path / "photo.png")
    pixels = read_pixels(tmp_path / "photo.png")
    assert pixels.shape == (3, 2, 4)
    torch.testing.assert_close(pixels[:, 1, 3], torch.tensor([1.0, -1.0, -0.6]))
    assert float(pixels.sum()) == pytest.approx(-24 + 2 + 0 + 0.4)
