"""The untouched model as judge: its laws on toys of every family, its numbers rebuilt from their definitions."""

from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

from apt_engine.bases import random
from apt_engine.bases.registry import load_base
from apt_engine.lora import adapter
from apt_engine.photos.photo_set import photos_in, read_photos
from apt_engine.runs import verdict
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.sampling.sampler import Picture, Sampler
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.judge import ASKED_AT, LEVELS, Judge
from apt_engine.training.verdict import Judging
from tests.laws import BASES, Base, bare_base, perturb

CAPTION, PROMPT = "a photo of a car", "a photo of a car on the beach"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, photo_dir: Path) -> Run:
    config = TrainingConfig(subject="car", resolution=32, sample_steps=2, drift_prompts=("a cat",), seed=3)
    photos = read_photos(photos_in(photo_dir))
    return RunStore(tmp_path_factory.mktemp("data")).create(config, lambda folder: photos.save(folder, 32))


def latents(base: Base, count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *base.latent_shape(32, 32), generator=generator)


def judge_of(base: Base, photos: Tensor) -> Judge:
    return Judge(base, CAPTION, "car", usual=latents(base, 5, 1), photos=photos, seed=0, batch=2)


@BASES
def test_an_untrained_lora_gets_the_numbers_of_the_untrained_model_to_the_bit(
    kind: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict, "CAPTIONED", 2)
    monkeypatch.setattr(verdict, "SEEDS", 1)
    monkeypatch.setattr(verdict, "PLACES", verdict.PLACES[:1])
    monkeypatch.setattr(verdict, "PROMPTS", verdict.PROMPTS[3:5])
    base = bare_base(kind)
    judging = Judging(run, base)
    before, photos = judging.look(0), judging.photos
    adapter.attach(base.denoiser, 4, 4.0, base.lora.attention, 0)
    after = judging.look(10)
    for measure in ("likeness", "copies", "follows", "nearest"):
        assert getattr(after, measure) == getattr(before, measure)
    assert after.drift == before.drift == 0
    assert [len(one) for one in (before.likeness, before.copies, before.follows)] == [1, 2, 2]
    assert [len(one) for one in (photos.likeness, photos.copies, photos.follows)] == [4, 4, 8]
    perturb(base)
    moved = judging.look(20)
    assert moved.likeness != before.likeness
    assert moved.follows != before.follows
    assert moved.drift > 0
    assert len({*before.paths, *moved.paths}) == 4
    assert all((run.path / path).exists() for path in (*before.paths, *moved.paths))


@BASES
def test_a_lora_takes_no_part_in_judging(kind: str) -> None:
    base = bare_base(kind)
    photos, pictures = latents(base, 3, 2), latents(base, 3, 3)
    judge = judge_of(base, photos)
    before = judge.likeness(pictures), judge.alike(pictures), judge.follows(pictures, [PROMPT] * 3)
    adapter.attach(base.denoiser, 4, 4.0, base.lora.attention, 0)
    perturb(base)
    after = judge.likeness(pictures), judge.alike(pictures), judge.follows(pictures, [PROMPT] * 3)
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))


@BASES
def test_a_picture_that_is_a_photo_is_a_copy_of_that_photo(kind: str) -> None:
    base = bare_base(kind)
    photos = latents(base, 3, 2)
    judge = judge_of(base, photos)
    alike = judge.alike(photos[[2, 0]])
    assert alike.argmax(dim=1).tolist() == [2, 0]
    assert alike.amax(dim=1).tolist() == pytest.approx([1, 1], abs=1e-5)
    whole = judge.alike(photos)
    assert judge.copies_of_photos().tolist() == pytest.approx((whole - 2 * torch.eye(3)).amax(dim=1).tolist())
    to_others = (3 * judge.likeness(photos) - 1) / 2  # without the photo itself, to which it is like 1
    assert judge.likeness_of_photos().tolist() == pytest.approx(to_others.tolist(), abs=1e-5)
    assert len(judge_of(base, photos[:1]).copies_of_photos()) == 0


@BASES
def test_following_is_the_share_of_the_loss_that_the_prompt_saves(kind: str) -> None:
    base = bare_base(kind)
    pictures = latents(base, 3, 4)
    prompts = [PROMPT, "a photo of a cat", CAPTION]
    expected = []
    with torch.no_grad():
        for picture, prompt in zip(pictures, prompts, strict=True):
            shares = []
            for level in ASKED_AT:
                timesteps = torch.tensor([base.levels(LEVELS)[level]])
                noise = torch.randn(1, *picture.shape, generator=random.generator(0, level, 0, "verdict"))
                target = base.target(picture[None], noise, timesteps)
                noisy = base.add_noise(picture[None], noise, timesteps)
                told, bare = (
                    (base.predict(noisy, timesteps, base.encode_prompts([words])) - target).square().mean()
                    for words in (prompt, CAPTION)
                )
                shares.append(float(1 - told / bare))
            expected.append(sum(shares) / len(shares))
    assert judge_of(base, latents(base, 2, 2)).follows(pictures, prompts).tolist() == pytest.approx(expected, abs=1e-4)
    assert expected[2] == 0
    assert abs(expected[0]) > 1e-4


def test_likeness_looks_where_the_subject_is_attended_to() -> None:
    """Of two words the subject's own states are asked for, and no other."""
    base = bare_base("epsilon")
    judge = judge_of(base, latents(base, 2, 2))
    own = [base.caption_tokens(CAPTION).ids[column] for column in judge._columns.tolist()]
    assert own == [base.caption_tokens("car").ids[1]]


@BASES
def test_what_the_bases_pictures_have_in_common_counts_for_nothing(kind: str) -> None:
    base = bare_base(kind)
    usual = latents(base, 1, 1)
    judge = Judge(base, CAPTION, "car", usual=usual, photos=latents(base, 3, 2), seed=0)
    assert judge.likeness(usual).tolist() == pytest.approx([0], abs=1e-3)
    assert judge.alike(usual).abs().max() < 1e-3
    assert judge.likeness(latents(base, 1, 3)).abs().max() > 1e-2


def test_a_model_that_draws_its_photos_whatever_it_is_asked_follows_no_prompt() -> None:
    """What overfitting ends in, by the pocket model's own eyes; and its own pictures do follow."""
    base = load_base("pocket", device="cpu", dtype="fp32", attention="plain")
    prompts = ["a photo of a teddy bear on the beach", "a photo of a teddy bear in the snow"]
    drawn = [Picture(prompt=prompt, seed=1, steps=6, width=64, height=64) for prompt in prompts]
    own = torch.cat(list(Sampler(base).latents(drawn)))
    folder = Path(__file__).resolve().parents[2] / "assets" / "examples" / "teddy_bear"
    pixels = [torch.from_numpy(numpy.asarray(photo.resize((64, 64)), dtype=numpy.float32)) for photo in opened(folder)]
    photos = torch.cat([base.encode_images(one.permute(2, 0, 1)[None] / 127.5 - 1)[0] for one in pixels])
    judge = Judge(base, "a photo of a teddy bear", "teddy bear", usual=own, photos=photos, seed=0)
    follows, overfitted = judge.follows(own, prompts), judge.follows(photos, prompts)
    assert follows.min() > 0.1
    assert overfitted.max() < 0.5 * follows.min()
    assert judge.likeness(own).max() < judge.likeness_of_photos().min()


def opened(folder: Path) -> list[Image.Image]:
    """Two photos."""
    return [Image.open(path).convert("RGB") for path in sorted(folder.glob("*.jpg"))[:2]]
