"""Models of the hub: what of a repository is fetched, and each way a download can end. The hub is a server on this computer."""

import errno
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apt_engine.bases import download, hub, registry, variants
from apt_engine.bases.download import chosen_files
from apt_engine.errors import BaseModelError
from apt_engine.runs.store import RunStore
from apt_engine.sampling.generation import Generator
from apt_engine.sampling.sampler import Stopped
from apt_engine.settings.sampling import SampleRequest
from tests.fake_hub import NAME, FakeHub, serve

SIZES = {
    "model_index.json": 1,
    "README.md": 5,
    "v1-5-pruned.safetensors": 7000,
    "unet/config.json": 2,
    "unet/diffusion_pytorch_model.safetensors": 3000,
    "unet/diffusion_pytorch_model.fp16.safetensors": 1500,
    "unet/diffusion_pytorch_model.non_ema.safetensors": 3000,
    "unet/diffusion_pytorch_model.bin": 3000,
    "vae/diffusion_pytorch_model.safetensors": 300,
    "vae/diffusion_pytorch_model.fp16.safetensors": 150,
    "text_encoder/model-00001-of-00002.safetensors": 500,
    "text_encoder_2/model.fp16.safetensors": 40,
    "tokenizer/merges.txt": 3,
    "safety_checker/model.safetensors": 1200,
}


@pytest.fixture
def fake(tmp_path: Path, toy_base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """Serves a copy of the toy, to an empty cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    shutil.copytree(toy_base, tmp_path / "served")
    with serve(FakeHub(tmp_path / "served")) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


def unfinished(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache").rglob("*.incomplete"))


def test_of_each_part_one_format_and_one_precision_is_fetched() -> None:
    shared = ["model_index.json", "unet/config.json", "tokenizer/merges.txt"]
    full = chosen_files(SIZES, is_half=False)
    assert list(full) == [
        *shared,
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder_2/model.fp16.safetensors",
    ]
    half = chosen_files(SIZES, is_half=True)
    assert list(half) == [
        *shared,
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model-00001-of-00002.safetensors",
        "text_encoder_2/model.fp16.safetensors",
    ]
    assert half["unet/diffusion_pytorch_model.fp16.safetensors"] == 1500


def test_the_downloader_knows_the_families_of_the_registry() -> None:
    assert set(variants.PIPELINES) == set(registry.FAMILIES)


def test_a_model_is_fetched_with_its_bytes_told_and_loads(fake: FakeHub) -> None:
    told = list(hub.fetch(NAME))
    assert told[-1][0] == told[-1][1] == sum(path.stat().st_size for path in fake.files().values())
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert registry.load_base(NAME, device="cpu").name == NAME
    asked = len(fake.asked)
    assert list(hub.fetch(NAME)) == []
    assert len(fake.asked) == asked


def test_a_cut_is_tried_again_and_what_arrived_is_not_fetched_twice(
    fake: FakeHub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fake.cut, fake.cuts = "unet/diffusion", 1
    list(hub.fetch(NAME))
    assert capfd.readouterr().err == ""
    assert hub.is_downloaded(NAME)
    sizes = {name: path.stat().st_size for name, path in fake.files().items()}
    assert all(fake.sent[name] <= sizes[name] for name in sizes if "unet" not in name)
    assert unfinished(tmp_path) == []


def test_a_stop_is_heard_within_a_second_and_leaves_nothing_running(fake: FakeHub, tmp_path: Path) -> None:
    fake.slow = 0.5  # all of it would take minutes
    started: list[float] = []

    def should_stop() -> bool:
        return bool(started) and time.monotonic() - started[0] > 0.1

    for done, _ in hub.fetch(NAME, should_stop=should_stop):
        if done and not started:
            started.append(time.monotonic())
    assert started
    assert hub.SECONDS_BETWEEN_LOOKS < 1
    assert time.monotonic() - started[0] < 15  # on a machine that does other things as well
    assert not hub.is_downloaded(NAME)
    assert unfinished(tmp_path) == []


def test_a_stop_is_heard_in_a_download_for_pictures_though_nothing_comes(
    fake: FakeHub, data_dir: Path, tmp_path: Path
) -> None:
    fake.silent = "unet"
    wish = time.monotonic() + 2
    pictures = Generator().generate(
        RunStore(data_dir),
        SampleRequest(prompt="a cat", run="", base=NAME),
        tmp_path / "out",
        lambda *_: None,
        should_stop=lambda: time.monotonic() > wish,
    )
    with pytest.raises(Stopped):
        next(pictures)
    assert time.monotonic() - wish < 15 < hub.SECONDS_OF_SILENCE
    assert unfinished(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"status": 401, "code": "RepoNotFound"}, "The hub knows no model owner/model"),
        ({"status": 403, "code": "GatedRepo"}, "accept its terms"),
        ({"status": 500}, "the hub answered 500"),
        ({"silent": "/api/models"}, "did not answer for 3 seconds"),
    ],
)
def test_what_the_hub_refuses_is_a_sentence(
    fake: FakeHub, change: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "SECONDS_OF_SILENCE", 3)
    monkeypatch.setattr(hub, "TRIES", 1)
    for name, value in change.items():
        setattr(fake, name, value)
    with pytest.raises(BaseModelError, match=words) as caught:
        list(hub.fetch(NAME))
    assert "\n" not in str(caught.value)


def without_network(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def switched_off(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def inpainting(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake.folder / "unet" / "config.json"
    path.write_text(path.read_text().replace('"in_channels": 4', '"in_channels": 9'))


def pickled(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake.folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_suffix(".bin"))


def no_layout(fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    (fake.folder / "model_index.json").unlink()


@pytest.mark.parametrize(
    ("happens", "words"),
    [
        (without_network, "the hub cannot be reached"),
        (switched_off, "switched off here"),
        (inpainting, "an inpainting model"),
        (pickled, r"no \.safetensors weights for its unet"),
        (no_layout, "not in diffusers layout"),
    ],
)
def test_what_cannot_be_used_is_told_before_its_weights_are_fetched(
    fake: FakeHub,
    happens: Callable[[FakeHub, pytest.MonkeyPatch], None],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hub, "TRIES", 1)
    happens(fake, monkeypatch)
    with pytest.raises(BaseModelError, match=words):
        registry.load_base(NAME, device="cpu")
    assert not any(name.endswith(".safetensors") for name in fake.sent)


@pytest.mark.parametrize("name", ["pocket", "./folder", "/a/b", "~/model", "C:\\models\\sd/x", "a/b/c", "owner/here"])
def test_nothing_is_fetched_that_is_here_or_no_id(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--owner--here" / "snapshots" / "1"
    (snapshot / "unet").mkdir(parents=True)
    (snapshot / "model_index.json").write_text('{"unet": []}')
    assert not hub.is_downloaded("owner/here")
    (snapshot / "unet" / "model-00001-of-00002.safetensors").touch()
    assert not hub.is_downloaded("owner/here")
    (snapshot / "unet" / "model-00002-of-00002.safetensors").touch()
    assert hub.is_downloaded("owner/here")
    monkeypatch.setattr(hub, "_started", lambda *_: pytest.fail("asked for it"))
    assert list(hub.fetch(name)) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_while_it_comes_is_told_as_such(number: int) -> None:
    kind, told = download._sentence(NAME, OSError(number, "No space left on device"))
    assert kind == "error"
    assert "is full before owner/model is all there; free some and try again" in told


def test_a_disk_needs_room_for_what_is_not_here_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / "model.safetensors").touch()
    files = {"unet/model.safetensors": 6_000_000_000, "vae/model.safetensors": 300_000_000}
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1_300_000_000))
    download._refuse_full_disk(NAME, tmp_path, files)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1_299_999_999))
    with pytest.raises(BaseModelError, match=r"owner/model needs 1\.30 GB, 1 GB of it to spare, .* has 1\.30 GB free"):
        download._refuse_full_disk(NAME, tmp_path, files)
