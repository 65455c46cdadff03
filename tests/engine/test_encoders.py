"""CLIP and DINOv2 in a verdict, where they lie in the hub's cache: tiny random networks of the real classes, saved there."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

from apt_engine.bases.registry import load_base
from apt_engine.lora import adapter
from apt_engine.photos.photo_set import photos_in, read_photos
from apt_engine.runs import verdict
from apt_engine.runs.events import PhotosJudged, PicturesJudged, PicturesSeen, VerdictReached, from_json, to_json
from apt_engine.runs.store import RunStore
from apt_engine.runs.verdict import Verdict, measured_by
from apt_engine.settings.training import TrainingConfig
from apt_engine.training import encoders
from apt_engine.training.encoders import among, in_cache
from apt_engine.training.verdict import Judging
from tests.histories import history_of, started

CPU = torch.device("cpu")
LARGE, SMALL, DINO = encoders.CLIP[0], encoders.CLIP[-1], encoders.DINOV2[1]
WORDS = (
    "<|startoftext|>",
    "<|endoftext|>",
    *(f"{letter}{end}" for letter in "abcdefghijklmnopqrstuvwxyz" for end in ("", "</w>")),
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def folder_in(cache: Path, name: str) -> Path:
    folder = cache / f"models--{name.replace('/', '--')}" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    return folder


def save_clip(cache: Path, name: str) -> Path:
    folder = folder_in(cache, name)
    torch.manual_seed(0)
    part = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**part, "vocab_size": len(WORDS), "bos_token_id": 0, "eos_token_id": 1, "max_position_embeddings": 32}
    config = CLIPConfig(text_config=text, vision_config={**part, "image_size": 32, "patch_size": 8}, projection_dim=12)
    CLIPModel(config).save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(WORDS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 32}))
    return folder


def save_dino(cache: Path, name: str) -> Path:
    folder = folder_in(cache, name)
    torch.manual_seed(1)
    config = Dinov2Config(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(folder)
    return folder


def pictures() -> list[Image.Image]:
    generator = torch.Generator().manual_seed(2)
    values = torch.randint(0, 256, (3, 40, 40, 3), generator=generator, dtype=torch.uint8)
    return [Image.fromarray(one.numpy()) for one in values]


def test_without_them_nothing_is_used_nor_asked_for(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was asked for")

    monkeypatch.setattr(CLIPModel, "from_pretrained", refuse)
    monkeypatch.setattr(Dinov2Model, "from_pretrained", refuse)
    assert in_cache(CPU) == []
    assert "neither CLIP nor DINOv2 lies in the hub's cache" in measured_by([])


def test_both_are_found_named_and_see_what_the_real_classes_see(cache: Path) -> None:
    clip_folder, dino_folder = save_clip(cache, SMALL), save_dino(cache, DINO)
    clip, dino = in_cache(CPU)
    assert (clip.name, clip.reads, dino.name, dino.reads) == (SMALL, True, DINO, False)
    pixels = torch.stack([clip._prepared(picture) for picture in pictures()])
    assert pixels.shape == (3, 3, 32, 32)
    whole = CLIPModel.from_pretrained(clip_folder).eval()
    tokens = clip._tokenizer(["a cat", "a dog in snow", "a"], padding=True, return_tensors="pt")
    with torch.no_grad():
        said = whole(pixel_values=pixels, **tokens)
    assert torch.allclose(clip.see(pictures()), said.image_embeds, atol=1e-5)
    assert torch.allclose(clip.read(["a cat", "a dog in snow", "a"]), said.text_embeds, atol=1e-5)
    pixels = torch.stack([dino._prepared(picture) for picture in pictures()])
    with torch.no_grad():
        seen = Dinov2Model.from_pretrained(dino_folder).eval()(pixel_values=pixels).last_hidden_state[:, 0]
    assert torch.allclose(dino.see(pictures()), torch.nn.functional.normalize(seen, dim=1), atol=1e-5)


def test_gray_is_what_the_networks_were_trained_to_take_for_nothing(cache: Path) -> None:
    save_clip(cache, SMALL)
    save_dino(cache, DINO)
    clip, dino = in_cache(CPU)
    for encoder, mean in ((clip, (0.48145466, 0.4578275, 0.40821073)), (dino, (0.485, 0.456, 0.406))):
        color = tuple(round(255 * value) for value in mean)
        assert encoder._prepared(Image.new("RGB", (50, 40), color)).abs().max() < 0.02


def test_pickles_are_left_alone_and_what_is_damaged_is_passed_over(cache: Path) -> None:
    folder = save_clip(cache, LARGE)
    (folder / "model.safetensors").write_bytes(b"damaged")
    other = save_clip(cache, SMALL)
    assert [encoder.name for encoder in in_cache(CPU)] == [SMALL]
    (other / "model.safetensors").rename(other / "pytorch_model.bin")
    assert in_cache(CPU) == []


def test_photos_among_each_other() -> None:
    features = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), dim=1)
    half = 2**0.5 / 2
    assert among(features).tolist() == pytest.approx([half / 2, half / 2, half])
    assert among(features[:1]).tolist() == []


def test_an_untrained_lora_looks_to_them_as_the_untrained_model_does(
    cache: Path, toy_base: Path, photo_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("CAPTIONED", 1),
        ("SEEDS", 1),
        ("PLACES", verdict.PLACES[:1]),
        ("PROMPTS", verdict.PROMPTS[3:5]),
    ):
        monkeypatch.setattr(verdict, name, value)
    save_clip(cache, SMALL)
    save_dino(cache, DINO)
    config = TrainingConfig(subject="car", resolution=32, sample_steps=2, drift_prompts=("a cat",))
    photos = read_photos(photos_in(photo_dir))
    run = RunStore(cache / "data").create(config, lambda folder: photos.save(folder, 32))
    base = load_base(str(toy_base), device="cpu", dtype="fp32", attention="plain")
    judging = Judging(run, base, keep=False, others=in_cache(CPU))
    judging.look(0)
    before = judging.seen
    adapter.attach(base.denoiser, 4, 4.0, base.lora.attention, 0)
    judging.look(10)
    assert [dataclasses.replace(one, step=0, time=0) for one in judging.seen] == [
        dataclasses.replace(one, time=0) for one in before
    ]
    assert [(one.network, one.step) for one in judging.seen] == [(SMALL, 10), (DINO, 10)]
    assert [(len(one.likeness), len(one.follows), len(one.photos)) for one in before] == [(1, 2, 4), (1, 0, 4)]
    assert all(-1 <= value <= 1 for one in before for value in (*one.likeness, *one.follows, *one.photos))


def test_a_verdict_names_who_measured_and_a_run_remembers_it() -> None:
    judged = PicturesJudged(
        step=0, likeness=(0.1,), copies=(0.1,), follows=(0.1,), nearest=(0,), drift=0.0, paths=("samples/a.png",)
    )
    seen = [
        PicturesSeen(network=name, step=step, likeness=(0.5, 0.7), follows=follows, photos=(0.8, 0.8))
        for step in (0, 4)
        for name, follows in ((SMALL, (0.2, 0.2)), (DINO, ()))
    ]
    assert all(from_json(to_json(one)) == one for one in seen)
    photos = PhotosJudged(likeness=(0.5,), copies=(0.5,), follows=(0.0,))
    found = history_of(started(), photos, judged, *seen, VerdictReached(message="Fine.", seconds=1)).verdict
    assert isinstance(found, Verdict)
    assert found.networks == [SMALL, DINO]
    text = "\n".join(found.lines())
    assert f"by {SMALL}" in text and "0.600  ± 0.100" in text and "0.200  ± 0.000" in text
    assert found.lines()[-1] == (
        f"Measured by the untrained model itself, and beside it by {SMALL} and {DINO} from the hub's cache."
    )
