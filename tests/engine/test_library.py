"""Titles, the bin, packing, and the pictures made so far; and what a training would take."""

import json
import zipfile
from pathlib import Path

import pytest
from diffusers import UNet2DConditionModel
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from apt_engine.errors import ConfigError, RunError
from apt_engine.jobs.estimate import NEEDS, estimate
from apt_engine.lora import adapter
from apt_engine.runs import library
from apt_engine.runs.events import StepFinished
from apt_engine.runs.run import Run, RunStore
from apt_engine.settings.presets import POCKET_DIR
from apt_engine.settings.sampling import SampleRequest
from apt_engine.settings.training import TrainingConfig


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


def test_a_packed_run_leaves_the_photos_out_unless_asked(run: Run, tmp_path: Path) -> None:
    for name in ("exports/bear.safetensors", "samples/000000-0.png", "views/000010-0.png", "checkpoints/000050/x"):
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).write_bytes(b"x")
    names = _names(library.pack(run, tmp_path / "bear.zip"))
    assert names == {"config.json", "events.jsonl", "exports/bear.safetensors", "samples/000000-0.png"}
    assert _names(library.pack(run, tmp_path / "all.zip", with_photos=True)) - names == {"photos/01.png"}
    assert sorted(path.name for path in tmp_path.glob("*.zip")) == ["all.zip", "bear.zip"]


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


def test_time_is_told_from_an_earlier_run_of_the_same_kind(store: RunStore) -> None:
    config = TrainingConfig(subject="bear", base="some/model", resolution=512)
    assert estimate(config, 5, store).seconds is None
    run = store.create(config, lambda folder: None)
    for step in range(1, 8):
        run.append(StepFinished(step=step, loss=1.0, gradient_norm=1.0, learning_rate=1e-4, seconds=2.0))
    assert estimate(config, 5, store).seconds == 2.0 * 500
    other = TrainingConfig(subject="bear", base="some/model", resolution=768)
    assert estimate(other, 5, store).seconds is None


def test_the_disk_told_is_what_a_lora_of_the_pocket_model_takes() -> None:
    sizes = []
    for kinds in (adapter.ATTENTION_LAYERS, *adapter.OPTIONAL_LAYERS):
        unet = UNet2DConditionModel.from_pretrained(POCKET_DIR, subfolder="unet")
        adapter.attach(unet, 16, 16.0, kinds, seed=0)
        sizes.append(sum(4 * parameter.numel() for parameter in adapter.trainable_parameters(unet).values()))
    assert NEEDS["base-pocket"].lora == pytest.approx(sizes, rel=0.05)


def test_the_pocket_model_needs_no_download_and_a_hub_model_only_once(
    store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    pocket = estimate(TrainingConfig(subject="bear"), 5, store)
    assert (pocket.download, pocket.seconds is not None) == (0, True)
    hub = TrainingConfig(subject="bear", base="some/model")
    assert estimate(hub, 5, store).download > 1e9
    snapshot = tmp_path / "models--some--model" / "snapshots" / "abc"
    (snapshot / "unet").mkdir(parents=True)
    (snapshot / "model_index.json").write_text('{"unet": ["diffusers", "UNet2DConditionModel"]}')
    assert estimate(hub, 5, store).download > 1e9  # the weights are not there yet
    (snapshot / "unet" / "weights.safetensors").touch()
    assert estimate(hub, 5, store).download == 0


def test_a_larger_rank_and_more_steps_take_more_disk(store: RunStore) -> None:
    small = estimate(TrainingConfig(subject="bear", steps=100), 5, store).disk
    assert estimate(TrainingConfig(subject="bear", steps=100, rank=32), 5, store).disk == 2 * small
    assert estimate(TrainingConfig(subject="bear", steps=1000), 5, store).disk > small


def _names(path: Path) -> set[str]:
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2] for name in archive.namelist()}
