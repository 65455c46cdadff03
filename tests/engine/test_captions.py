"""Captions of single photos: each sample hears its own, and the maps of short and long ones are compared alike."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from apt_engine.bases.base import BaseModel, PromptStates
from apt_engine.bases.registry import load_base
from apt_engine.lora import adapter
from apt_engine.lora.adapter import reference_pass
from apt_engine.photos.photo_set import photos_in, read_photos
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.captions import Captions
from apt_engine.training.watch import Probes, TokenPairs

CONFIG = TrainingConfig(subject="car")
TEMPLATES = (CONFIG.caption, "a {subject} on the beach in the beach", "a {subject}")


@pytest.fixture(scope="module")
def tuned(toy_base: Path) -> BaseModel:
    base = load_base(str(toy_base), device="cpu")
    adapter.attach(base.denoiser, 4, 4.0, base.lora.attention, seed=0)
    with torch.no_grad():
        for parameter in adapter.trainable_parameters(base.denoiser).values():
            parameter.add_(0.05)
    return base


def alignment_of(base: BaseModel, states: PromptStates, tokens: TokenPairs, latents: Tensor) -> Tensor:
    """AA (B,) of one pass against the untrained model."""
    timesteps = torch.full((len(latents),), 500)
    probes = Probes(base, features=False, maps=True)
    with probes.watch(torch.ones(len(latents), *latents.shape[-2:]), tokens) as seen, torch.no_grad():
        with reference_pass(base.denoiser):
            base.predict(latents, timesteps, states)
        seen.is_tuned = True
        base.predict(latents, timesteps, states)
        return seen.alignment()


def test_each_photo_hears_its_own_caption_and_the_rest_the_usual_one(tuned: BaseModel) -> None:
    captions = Captions(tuned, CONFIG, TEMPLATES)
    states = captions.states([2, 0, 7])
    expected = [CONFIG.fill(TEMPLATES[2]), CONFIG.fill(CONFIG.caption), CONFIG.fill(CONFIG.caption)]
    assert torch.equal(states.hidden, torch.cat([tuned.encode_prompts([words]).hidden for words in expected]))


def test_the_untrained_model_may_be_told_the_class_alone(tuned: BaseModel) -> None:
    captions = Captions(tuned, replace(CONFIG, reference_caption="class"), TEMPLATES)
    told = captions.reference_states([1])
    assert torch.equal(told.hidden, tuned.encode_prompts(["a car on the beach in the beach"]).hidden)


def test_captions_of_different_length_are_aligned_as_each_would_be_alone(tuned: BaseModel) -> None:
    captions = Captions(tuned, CONFIG, TEMPLATES)
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    photos = [0, 1, 2]
    together = alignment_of(tuned, captions.states(photos), captions.tokens(photos), latents)
    alone = [
        alignment_of(tuned, captions.states([photo]), captions.tokens([photo]), latents[photo, None])
        for photo in photos
    ]
    assert float(together.min()) > 0
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-9)


def test_own_captions_go_with_the_photos_into_the_run(photo_dir: Path, tmp_path: Path) -> None:
    photos = read_photos(photos_in(photo_dir))
    first, *rest = photos.photos
    named = replace(photos, photos=(replace(first, caption="a {subject} on the beach"), *rest))
    run = RunStore(tmp_path).create(CONFIG, lambda folder: named.save(folder, 32))
    assert run.captions == ["a {subject} on the beach", *[CONFIG.caption] * 3]
    assert len(run.photo_paths) == 4
    (run.path / "photos" / "captions.json").write_text(json.dumps({"02.png": "a {subject}"}))
    assert run.captions[1] == "a {subject}"
