"""What goes out beside the weights: headers, the model card, the merged checkpoint, the way to the hub."""

import base64
import dataclasses
import io
import re
import sys
import tempfile
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file

from apt_engine import VERSION
from apt_engine.bases.base import BaseModel
from apt_engine.bases.checkpoints import SingleFile
from apt_engine.bases.sd import StableDiffusion
from apt_engine.bases.sdxl import StableDiffusionXL
from apt_engine.errors import EngineError, LoraError
from apt_engine.jobs.push import push
from apt_engine.lora import adapter, card
from apt_engine.lora.merged import export_merged
from apt_engine.runs.events import ExportReady, SplitMeasured
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig
from apt_engine.training import exports
from tests.engine.test_bases import stable_diffusion_xl
from tests.engine.test_single_file import narrow_text_encoder
from tests.fake_hub import NAME, FakeHub, serve
from tests.loras import ABOUT, header, trained

ROOT = Path(__file__).parents[2]
REASON = "New views of your photos are fitted no better since step 4; from here it only memorizes."


@pytest.fixture
def run(tmp_path: Path, toy_base: Path) -> Run:
    """One of a base in a folder that strangers need not know."""
    values = {"subject": "car", "base": str(toy_base), "resolution": 32, "device": "cpu", "sample_steps": 2}
    config = TrainingConfig.from_dict({**values, "steps": 200, "augmentation": 0})
    run = RunStore(tmp_path / "data").create(config, lambda folder: folder.mkdir(parents=True, exist_ok=True))
    run.append(SplitMeasured(step=6, cells=(1,), gains=(0.1,), kept_step=4, message=REASON))
    return run


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with serve(FakeHub(tmp_path)) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # it speaks another protocol, in Rust
        monkeypatch.setenv("HF_TOKEN", "hf_mine")
        yield hub


def written(run: Run, base: BaseModel, step: int = 4) -> list[ExportReady]:
    return list(exports.export_and_verify(run, base, step))


def test_files_say_what_they_are_and_nothing_of_whoever_trained_them(run: Run, toy_base: Path) -> None:
    for event in written(run, trained()):
        said = header(run.path / event.path)
        assert said["modelspec.sai_model_spec"] == "1.0.1"
        assert said["modelspec.architecture"] == "stable-diffusion-v1/lora"
        assert said["modelspec.trigger_phrase"] == "zwx car"
        ours = {name.removeprefix("apt."): value for name, value in said.items() if name.startswith("apt.")}
        assert ours.pop("preset") == "augmentation-off, quick, regularization-standard"
        assert ours == {
            "version": VERSION,
            "base": "stable-diffusion-v1",
            "step": "4",
            "kept_step": "4",
            "stop_reason": REASON,
        }
        words = " ".join(value for name, value in said.items() if name != "modelspec.thumbnail")
        words += (run.path / "exports" / card.NAME).read_text(encoding="utf-8")
        for personal in (str(toy_base), str(run.path), run.id, tempfile.gettempdir()):
            assert personal not in words
        assert not re.search(r"\d\d:\d\d|20\d\d", words)  # no time, no date
    assert tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"] == VERSION


def test_the_file_for_diffusers_cannot_be_taken_for_the_other(run: Run) -> None:
    for_others, for_diffusers = (header(run.path / event.path) for event in written(run, trained()))
    assert "For ComfyUI" in for_others["modelspec.usage_hint"]
    assert "Other programs take the file beside" in for_diffusers["modelspec.usage_hint"]
    assert not [name for name in for_diffusers if name.startswith("ss_")]


def test_the_thumbnail_is_a_small_picture_of_the_subject(run: Run) -> None:
    said = header(run.path / written(run, trained())[0].path)["modelspec.thumbnail"]
    kind, _, content = said.partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert (kind, image.format, image.size, dict(image.getexif())) == (
        "data:image/jpeg;base64",
        "JPEG",
        (32, 32),
        {},
    )


def test_a_model_that_no_other_program_has_claims_to_be_none_of_theirs(run: Run) -> None:
    base = trained()
    layers = base.lora
    base.pipeline.vae.register_to_config(latent_channels=8)
    assert base.lora == dataclasses.replace(layers, kohya=None, architecture="apt-studio-pocket")
    base.pipeline.vae.register_to_config(latent_channels=4)

    pocket = dataclasses.replace(layers, kohya=None, architecture="apt-studio-pocket")
    base.__class__ = type("Pocket", (StableDiffusion,), {"lora": pocket})
    (event,) = written(run, base)
    assert event.layout == "diffusers"
    hint = header(run.path / event.path)["modelspec.usage_hint"]
    assert "ComfyUI" not in hint
    assert "Other programs" not in hint
    with pytest.raises(LoraError, match="other programs have no such model"):
        export_merged(base, run.path / "merged.safetensors", ABOUT)


def test_the_card_says_how_each_file_is_used(run: Run) -> None:
    run.replace_config(run.config.replace(base="owner/model", subject='"car": <b>|`x'))
    written(run, trained())
    text = (run.path / "exports" / card.NAME).read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    said = yaml.safe_load(front)
    assert (said["base_model"], said["instance_prompt"]) == ("owner/model", 'a photo of a zwx "car": <b>|`x')
    assert 'load_lora_weights("zwx_car_b_x-000004-diffusers.safetensors")' in body
    assert "| `zwx_car_b_x-000004.safetensors` | ComfyUI" in body
    assert f"| stop reason | {REASON} |" in body
    assert "<b>" not in body.partition("```python")[0]


def test_somebody_elses_readme_stays(run: Run) -> None:
    path = run.path / "exports" / card.NAME
    path.parent.mkdir()
    path.write_text("mine", encoding="utf-8")
    written(run, trained())
    assert path.read_text(encoding="utf-8") == "mine"


def loaded(family: type[StableDiffusion] | type[StableDiffusionXL], path: Path, name: str) -> BaseModel:
    file = SingleFile(path=path, family=name, vae=path, prediction_type="epsilon")
    how: dict[str, Any] = {"dtype": torch.float32, "attention": "fused", "precision": "full"}
    return family.load(file, name=name, device=torch.device("cpu"), **how)


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_merged_checkpoint_is_the_base_with_its_lora_inside(tmp_path: Path, toy_families: Path, family: str) -> None:
    base = trained() if family == "sd15" else stable_diffusion_xl()
    if family == "sdxl":
        base.pipeline.text_encoder_2 = narrow_text_encoder(base.pipeline.text_encoder_2)
        base.pipeline.save_pretrained(toy_families / "sdxl")
        adapter.attach(base.denoiser, 4, 8.0, base.lora.all, seed=1)
        for parameter in adapter.trainable_parameters(base.denoiser).values():
            parameter.data += torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)) * 0.2
    before = {name: value.clone() for name, value in base.denoiser.state_dict().items()}
    path = tmp_path / "merged.safetensors"
    count = export_merged(base, path, ABOUT)
    assert all(torch.equal(before[name], value) for name, value in base.denoiser.state_dict().items())
    merged = load_file(path)
    assert (len(merged), {value.dtype for value in merged.values()}) == (count, {torch.float16})
    assert header(path)["modelspec.architecture"] == base.lora.architecture
    again = loaded(StableDiffusion if family == "sd15" else StableDiffusionXL, path, family)
    base.pipeline.fuse_lora(components=["unet"])
    base.pipeline.unload_lora_weights()
    for part in ("unet", "vae", "text_encoder"):
        expected, found = (getattr(one.pipeline, part).state_dict() for one in (base, again))
        assert all(torch.allclose(found[name], value, atol=2e-3) for name, value in expected.items())


def test_a_merged_checkpoint_that_predicts_velocity_says_so(tmp_path: Path) -> None:
    base = stable_diffusion_xl()
    base.prediction_type = "v_prediction"
    adapter.attach(base.denoiser, 4, 8.0, base.lora.attention, seed=1)
    export_merged(base, tmp_path / "merged.safetensors", ABOUT)
    assert "v_pred" in load_file(tmp_path / "merged.safetensors")
    next(iter(adapter.trainable_parameters(base.denoiser).values())).data.fill_(1e30)
    list(adapter.trainable_parameters(base.denoiser).values())[1].data.fill_(1e30)
    with pytest.raises(LoraError, match="is not finite in fp16"):
        export_merged(base, tmp_path / "broken.safetensors", ABOUT)
    assert [path.name for path in tmp_path.iterdir()] == ["merged.safetensors"]


def test_files_go_to_the_hub_in_one_commit_with_the_environments_token(hub: FakeHub, run: Run) -> None:
    paths = [run.path / event.path for event in written(run, trained())] + [run.path / "exports" / card.NAME]
    address = push(NAME, paths, is_public=False, message="Step 4")
    assert address.endswith(NAME)
    assert hub.taken == {path.name: path.read_bytes() for path in paths}
    assert hub.token == "hf_mine"
    assert hub.made["visibility"] == "private"
    push(NAME, paths[:1], is_public=True, message="Step 4")
    assert hub.made["visibility"] == "public"


def test_a_token_is_found_in_the_keyring_and_its_lack_is_told(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("apt_engine.jobs.push.get_token", lambda: None)
    monkeypatch.setitem(sys.modules, "keyring", None)  # not installed
    with pytest.raises(EngineError, match="set HF_TOKEN"):
        push(NAME, [tmp_path / "a.txt"], is_public=False, message="a")
    ring = types.SimpleNamespace(get_password=lambda service, user: f"{service}-{user}")
    monkeypatch.setitem(sys.modules, "keyring", ring)
    push(NAME, [tmp_path / "a.txt"], is_public=False, message="a")
    assert hub.token == "huggingface-apt-studio"


@pytest.mark.parametrize(
    ("status", "repository", "words"),
    [
        (403, NAME, "does not let this account write to owner/model"),
        (401, NAME, "does not let this account"),
        (404, NAME, "knows no account or repository"),
        (500, NAME, "answered 500"),
        (0, "no-owner", "write it as OWNER/NAME"),
    ],
)
def test_what_the_hub_refuses_is_one_sentence(
    hub: FakeHub, tmp_path: Path, status: int, repository: str, words: str
) -> None:
    hub.status = status
    (tmp_path / "a.txt").write_text("a", encoding="utf-8")
    with pytest.raises(EngineError, match=words) as caught:
        push(repository, [tmp_path / "a.txt"], is_public=False, message="a")
    assert "hf_mine" not in str(caught.value)
    assert "\n" not in str(caught.value)
