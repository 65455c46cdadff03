"""Titles, the bin, packing, and the pictures made so far; and what a training would take."""

import dataclasses
import errno
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from apt_engine.bases.profiles import NEEDS
from apt_engine.bases.registry import load_base
from apt_engine.errors import BusyError, ConfigError, DiskError, RunError
from apt_engine.jobs.estimate import Estimate, estimate
from apt_engine.lora import adapter
from apt_engine.runs import library
from apt_engine.runs.events import Noticed, RunFailed, RunStarted, StageChanged, StepFinished
from apt_engine.runs.history import summarize
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.runs.training_lock import training_lock
from apt_engine.settings.presets import Preset, load_presets
from apt_engine.settings.sampling import SampleRequest
from apt_engine.settings.training import TrainingConfig
from tests.holding import held


@pytest.fixture
def store(data_dir: Path) -> RunStore:
    return RunStore(data_dir)


@pytest.fixture
def run(store: RunStore) -> Run:
    return store.create(TrainingConfig(subject="teddy bear"), lambda folder: (folder / "01.png").touch())


def test_a_title_is_kept_shortened_and_taken_away(run: Run) -> None:
    assert library.title_of(run) == ""
    library.rename(run, "  my\n bear ")
    assert library.title_of(run) == "my bear"
    library.rename(run, "x" * 500)
    assert len(library.title_of(run)) == library.LONGEST_TITLE
    library.rename(run, "")
    assert library.title_of(run) == ""


def test_what_goes_to_the_bin_comes_back_whole(store: RunStore, run: Run) -> None:
    library.discard(store, run)
    assert store.list() == []
    assert [old.id for old in library.discarded(store)] == [run.id]
    assert library.restore(store, run.id).config == TrainingConfig(subject="teddy bear")
    assert [back.id for back in store.list()] == [run.id]
    library.discard(store, store.open(run.id))
    assert library.empty_bin(store) == 1
    with pytest.raises(RunError, match="not in the bin any more"):
        library.restore(store, run.id)


def test_a_run_that_is_trained_is_not_binned_and_another_one_is(store: RunStore, run: Run) -> None:
    other = store.create(TrainingConfig(subject="car"), lambda folder: None)
    with held(store, run.id):
        with pytest.raises(BusyError, match="This run is training; stop it first"):
            library.discard(store, run)
        library.discard(store, other)
    with held(store), pytest.raises(BusyError, match="Another run is training"):  # who says not yet which one
        library.discard(store, run)
    assert [kept.id for kept in store.list()] == [run.id]
    library.discard(store, run)


def test_nobody_can_begin_to_train_a_run_while_it_is_binned(
    store: RunStore, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def rename(path: Path, target: Path) -> Path:
        with pytest.raises(BusyError), training_lock(store, run.id):
            pass
        tried.append(path.name)
        return target

    monkeypatch.setattr(Path, "rename", rename)
    library.discard(store, run)
    assert tried == [run.id]


def test_a_packed_run_leaves_the_photos_out_unless_asked(run: Run, tmp_path: Path) -> None:
    for name in ("exports/bear.safetensors", "samples/000000-0.png", "views/000010-0.png", "checkpoints/000050/x"):
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_bytes(b"x")
    names = _names(library.pack(run, tmp_path / "bear.zip"))
    assert names == {"config.json", "events.jsonl", "exports/bear.safetensors", "samples/000000-0.png"}
    assert _names(library.pack(run, tmp_path / "all.zip", with_photos=True)) - names == {"photos/01.png"}
    assert sorted(path.name for path in tmp_path.glob("*.zip")) == ["all.zip", "bear.zip"]


ADAS = ("/home/ada lovelace/models/pocket", r"C:\Users\ada\owner\sd15", r"\\server\ada\sd15", "~/ada/sd15", "/ada")


@pytest.mark.parametrize("base", ADAS)
def test_a_packed_run_names_no_folder_of_this_computer_and_opens_elsewhere(
    store: RunStore, tmp_path: Path, base: str
) -> None:
    run = store.create(TrainingConfig(subject="bear", base=base), lambda folder: (folder / "01.png").touch())
    run.append(RunStarted(run=run.id, base=base, subject="bear", photo_count=1, first_step=0, last_step=9))
    run.append(StageChanged(stage="loading", message=f"Loading the base model {base}."))
    run.append(Noticed(message="Step 3 was skipped."))
    run.append(Noticed(message=f"{base} is slow."))
    run.append(StepFinished(step=3, loss=1.0, gradient_norm=1.0, learning_rate=1e-4, seconds=2.0))
    run.append(RunFailed(message=f"Cannot write {base}; free some disk space.", detail=f'File "{base}/x.py", line 1'))
    library.rename(run, "bear")
    (run.path / "samples").mkdir()
    (run.path / "samples" / ".000003-0.png.part").touch()  # about to be written
    packed = library.pack(run, tmp_path / "bear.zip", with_photos=True)
    with zipfile.ZipFile(packed) as archive:
        assert all(not name.startswith(("/", "\\")) and ":" not in name for name in archive.namelist())
        content = "\n".join(archive.read(name).decode() for name in archive.namelist())
        archive.extractall(tmp_path / "elsewhere" / "runs")
    assert not {"/", "\\"} & set(content)
    assert ".part" not in str(_names(packed))
    opened = RunStore(tmp_path / "elsewhere").open(run.id)
    summary = summarize(opened)
    assert (summary.state, summary.step, summary.last_step) == ("failed", 3, 9)
    assert summary.message == library.FAILED_ELSEWHERE
    assert summary.base == opened.config.base != "pocket"
    assert [event.message for event in opened.events()[0] if isinstance(event, Noticed)] == ["Step 3 was skipped."]


@pytest.mark.parametrize("base", ["pocket", "owner/model"])
def test_a_packed_run_keeps_a_base_that_others_have_too_and_a_sentence_without_a_path(
    store: RunStore, tmp_path: Path, base: str
) -> None:
    run = store.create(TrainingConfig(subject="bear", base=base), lambda folder: None)
    run.append(RunFailed(message="The memory ran out.", detail="line 1"))
    with zipfile.ZipFile(library.pack(run, tmp_path / "bear.zip")) as archive:
        archive.extractall(tmp_path)
    opened = Run(tmp_path / run.id)
    assert opened.config == run.config
    (failed,) = opened.events()[0]
    assert isinstance(failed, RunFailed)
    assert (failed.message, failed.detail) == ("The memory ran out.", "")


def test_a_zip_that_cannot_be_written_leaves_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: Any, **_options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(zipfile.ZipFile, "write", full)
    with pytest.raises(DiskError, match="No space left on device"):
        library.pack(run, tmp_path / "packed" / "bear.zip", with_photos=True)
    assert list((tmp_path / "packed").iterdir()) == []


def test_settings_come_back_out_of_a_picture(store: RunStore) -> None:
    request = SampleRequest(prompt="an owl", run="", seed=7)
    info = PngInfo()
    info.add_itxt("apt_studio", json.dumps(request.to_dict()))
    for folder, numbers in (("20260101-000000", (1, 2)), ("20260102-000000", (1,))):
        (store.data_dir / "generated" / folder).mkdir(parents=True)
        for number in numbers:
            Image.new("RGB", (8, 8)).save(store.data_dir / "generated" / folder / f"0{number}.png", pnginfo=info)
    newest = library.recent_pictures(store, 2)
    assert [path.parent.name for path in newest] == ["20260102-000000", "20260101-000000"]
    assert library.settings_inside(newest[0]) == request
    plain = store.data_dir / "plain.png"
    Image.new("RGB", (8, 8)).save(plain)
    with pytest.raises(ConfigError, match="holds no settings"):
        library.settings_inside(plain)
    with pytest.raises(ConfigError, match="holds no settings"):
        library.settings_inside(store.data_dir / "gone.png")


def test_a_picture_of_another_program_tells_its_settings(store: RunStore) -> None:
    path, info = store.data_dir / "a1111.png", PngInfo()
    path.parent.mkdir(parents=True, exist_ok=True)
    info.add_text("parameters", "an owl\nSteps: 7, Sampler: Euler, Seed: 41")
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    request = library.settings_inside(path)
    assert (request.prompt, request.steps, request.sampler, request.seed) == ("an owl", 7, "Euler", 41)
    info.add_text("parameters", "an owl\nSteps: some")
    Image.new("RGB", (8, 8)).save(path, pnginfo=info)
    with pytest.raises(ConfigError, match="holds no settings; choose one made here"):
        library.settings_inside(path)


def test_time_is_told_from_an_earlier_run_of_the_same_kind(store: RunStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apt_engine.jobs.estimate.has_gpu", lambda: True)
    config = TrainingConfig(subject="bear", base="some/model", resolution=512)
    assert estimate(config, 5, store).seconds is None
    run = store.create(config, lambda folder: None)
    for step in range(1, 8):
        run.append(StepFinished(step=step, loss=1.0, gradient_norm=1.0, learning_rate=1e-4, seconds=2.0))
    assert estimate(config, 5, store).seconds == 2.0 * 500
    assert estimate(dataclasses.replace(config, accumulate=3), 5, store).seconds == 3 * 2.0 * 500
    other = TrainingConfig(subject="bear", base="some/model", resolution=768)
    assert estimate(other, 5, store).seconds is None


def test_the_disk_told_is_what_a_lora_of_the_pocket_model_takes() -> None:
    sizes = []
    base = load_base("pocket", device="cpu")
    for endings in (base.lora.attention, base.lora.feed_forward, base.lora.convolutions):
        adapter.attach(base.denoiser, 16, 16.0, endings, seed=0)
        sizes.append(sum(4 * parameter.numel() for parameter in adapter.trainable_parameters(base.denoiser).values()))
        adapter.detach(base.denoiser)
    assert NEEDS["base-pocket"].lora == pytest.approx(sizes, rel=0.05)


def test_the_pocket_model_needs_no_download_and_a_hub_model_only_once(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    pocket = estimate(TrainingConfig(subject="bear"), 5, store)
    assert (pocket.download, pocket.seconds is not None) == (0, True)
    assert estimate(TrainingConfig(subject="bear", accumulate=2), 5, store).seconds == 2 * (pocket.seconds or 0)
    hub = TrainingConfig(subject="bear", base="some/model")
    assert estimate(hub, 5, store).download == NEEDS["base-sd15"].download
    snapshot = tmp_path / "models--some--model" / "snapshots" / "abc"
    (snapshot / "unet").mkdir(parents=True)
    (snapshot / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    assert estimate(hub, 5, store).download  # the weights are not there yet
    (snapshot / "unet" / "weights.safetensors").touch()
    assert estimate(hub, 5, store).download == 0


def test_a_preset_alone_is_enough_for_a_base_to_be_estimated(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    own = Preset(key="base-mine", name="Mine", kind="base", description="", bases=("me/mine",), overrides={})
    presets = {**load_presets(), own.key: own}
    monkeypatch.setattr("apt_engine.jobs.estimate.load_presets", lambda: presets)
    config = TrainingConfig(subject="bear", base="me/mine")
    assert estimate(config, 5, store) == Estimate(seconds=None, memory=None, disk=None, download=None)


def test_a_larger_rank_and_more_steps_take_more_disk(store: RunStore) -> None:
    small = estimate(TrainingConfig(subject="bear", steps=100), 5, store).disk or 0
    assert estimate(TrainingConfig(subject="bear", steps=100, rank=32), 5, store).disk == 2 * small
    assert (estimate(TrainingConfig(subject="bear", steps=1000), 5, store).disk or 0) > small > 0


def _names(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2] for name in archive.namelist()}
