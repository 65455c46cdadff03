"""Models of the hub: what of a repository is needed, and a download that says how far it is. The hub itself is made up."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from apt_engine.bases import hub
from apt_engine.errors import BaseModelError

SIZES = {
    "model_index.json": 1,
    "README.md": 5,
    "v1-5-pruned.safetensors": 7000,
    "unet/config.json": 2,
    "unet/diffusion_pytorch_model.safetensors": 3000,
    "unet/diffusion_pytorch_model.fp16.safetensors": 1500,
    "unet/diffusion_pytorch_model.non_ema.safetensors": 3000,
    "unet/diffusion_pytorch_model.bin": 3000,
    "text_encoder/model-00001-of-00002.safetensors": 500,
    "tokenizer/merges.txt": 3,
    "safety_checker/model.safetensors": 1200,
}
NEEDED = [
    "model_index.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "text_encoder/model-00001-of-00002.safetensors",
    "tokenizer/merges.txt",
]
TOTAL = 3506


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub, "SECONDS_BETWEEN_LOOKS", 0.01)
    return tmp_path / "cache"


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that knows every name."""
    siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in SIZES.items()]
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: SimpleNamespace(siblings=siblings))


def test_only_what_a_pipeline_is_loaded_from_is_needed() -> None:
    assert list(hub.needed_files(SIZES)) == NEEDED


@pytest.mark.usefixtures("known")
def test_a_download_tells_its_bytes(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    seen = threading.Event()

    def download(name: str, allow_patterns: list[str]) -> None:
        asked.append((name, allow_patterns))
        blobs = cache / "models--owner--model" / "blobs"
        blobs.mkdir(parents=True)
        (blobs / "abc.incomplete").write_bytes(bytes(1500))
        assert seen.wait(20)

    monkeypatch.setattr(hub, "snapshot_download", download)
    told = []
    for done, total in hub.fetch("owner/model"):
        told.append((done, total))
        if done == 1500:
            seen.set()
    assert told[-1] == (1500, TOTAL)
    assert asked == [("owner/model", NEEDED)]


@pytest.mark.usefixtures("known")
def test_a_download_that_breaks_off_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, allow_patterns: list[str]) -> None:
        raise OSError("no\nroute to host")

    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(BaseModelError, match=r"owner/model broke off \(no route to host\); start again"):
        list(hub.fetch("owner/model"))


def test_what_the_hub_does_not_know_is_left_to_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> None:
        raise OSError("404")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unknown)
    assert list(hub.fetch("owner/model")) == []


def test_files_without_sizes_are_left_to_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    siblings = [SimpleNamespace(rfilename=name, size=None) for name in SIZES]
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: SimpleNamespace(siblings=siblings))
    assert list(hub.fetch("owner/model")) == []


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("name", ["pocket", "./folder", "/a/b", "~/model", "C:\\models\\sd/x", "a/b/c", "owner/here"])
def test_nothing_is_fetched_that_is_here_or_no_id(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = cache / "models--owner--here" / "snapshots" / "1"
    (snapshot / "unet").mkdir(parents=True)
    (snapshot / "model_index.json").write_text('{"unet": []}')
    assert not hub.is_downloaded("owner/here")
    (snapshot / "unet" / "model.safetensors").touch()
    assert hub.is_downloaded("owner/here")
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: pytest.fail("asked for it"))
    assert list(hub.fetch(name)) == []
