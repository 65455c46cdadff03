"""Model folders and LoRA files are looked at before a library opens them: one sentence each, and no code of theirs runs."""

import json
import os
import struct
from pathlib import Path

import pytest

from apt_engine.bases import inspection
from apt_engine.bases.registry import load_base
from apt_engine.errors import BaseModelError
from apt_engine.reading.tensor_files import read_header
from benchmarks.hostile import bases, loras
from benchmarks.hostile.outcome import SENTINEL, judge

pytestmark = pytest.mark.skipif(os.name == "nt", reason="pipes and links")

# What is wrong with the folder, and what the sentence must say.
BASES = {
    "its text_encoder is gone": "no folder text_encoder",
    "its unet is ['evil', 'Evil']": "has Evil as its unet",
    "its vae is ['os', 'system']": "has system as its vae",
    "another part is ['evil', 'Evil']": "which this app does not run",
    "text_encoder has auto_map": "names code to run",
    "text_encoder has _attn_implementation": "names code to run",
    "unet has quantization_config": "names code to run",
    "tokenizer has auto_map": "names code to run",
    "text_encoder has an adapter": "would load another model",
    "text_encoder/config.json is a pipe": "not a regular file",
    "model_index.json is a pipe": "no readable model_index.json",
    "scheduler/scheduler_config.json is 20,000 deep": "nested too deeply",
    "unet has layers_per_block 1000000000": "impossible value|layers a block",
    "text_encoder has num_hidden_layers 1000000000": "impossible value",
    "unet has cross_attention_dim 100": "does not fit together",
    "scheduler has prediction_type sample": "neither noise nor velocity",
    "scheduler has beta_start 10": "not finite",
    "its tokenizer is endless": "pattern that may never end",
    "its vocabulary is empty": "do not fit together|cannot be loaded",
    "the weights of text_encoder are not there": "no weights for its text_encoder",
    "the weights of text_encoder are a torch checkpoint": "is damaged",
    "the weights of vae are an endless device": "not a regular file",
    "a weight of text_encoder has another name": "lacks the weight",
    "a weight of text_encoder is of another shape": "does not fit together",
    "a weight of text_encoder is not a number": "weights of its text_encoder are not finite",
    "the index of unet names a pickle": "not safetensors files beside it",
    "the index of text_encoder names a folder above": "not safetensors files beside it",
    "the index of text_encoder names a pickle called safetensors": "is damaged",
    "text_encoder has pickled weights alone": "as .bin alone, which can run code",
}


@pytest.fixture
def sentinel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(SENTINEL, str(tmp_path / "sentinel"))
    return tmp_path / "sentinel"


@pytest.mark.parametrize("name", BASES)
def test_a_hostile_folder_is_refused_in_one_sentence(tmp_path: Path, sentinel: Path, name: str) -> None:
    bases.copy(tmp_path / "model")
    bases.all_wrongs()[name](tmp_path / "model")
    outcome = judge(name, lambda: load_base(str(tmp_path / "model"), device="cpu"))
    assert outcome.verdict == "refused", outcome
    with pytest.raises(BaseModelError, match=BASES[name]):
        raise BaseModelError(outcome.words)
    assert not sentinel.exists()


def test_the_pocket_model_passes_with_keys_nobody_knows(tmp_path: Path) -> None:
    bases.copy(tmp_path / "model")
    bases.all_wrongs()["text_encoder has another key"](tmp_path / "model")
    assert load_base(str(tmp_path / "model"), device="cpu").name == str(tmp_path / "model")


def test_hostile_loras_are_right_or_one_sentence(tmp_path: Path, sentinel: Path) -> None:
    outcomes = list(loras.loras(tmp_path, every=5))
    assert len(outcomes) > 35
    assert [outcome for outcome in outcomes if outcome.is_defect] == []
    assert {"whole", "in halves"} & {outcome.name for outcome in outcomes if outcome.verdict == "accepted"}
    assert not sentinel.exists()


@pytest.mark.parametrize("key", ["axes_dims", "axes_dims_rope", "axes_lens"])
def test_positions_that_no_model_has_are_refused_before_they_are_computed(tmp_path: Path, key: str) -> None:
    """A toy of FLUX.2 klein with such a config took 3 GB and half a minute to be refused."""
    path = tmp_path / "config.json"
    path.write_text(json.dumps({key: [32, 32, 32, 1_000_000]}), encoding="utf-8")
    with pytest.raises(BaseModelError, match=f"the impossible value {key}: 1000000"):
        inspection._check_config("a model", path)
    path.write_text(json.dumps({key: [32, 512, 512]}), encoding="utf-8")
    inspection._check_config("a model", path)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (b"[]", "not a list of tensors"),
        (b"[" * 50_000, "nested too deeply"),
        (b'{"a": 1, "a": 2}', "twice"),
        (b'{"a": {"dtype": "F32", "shape": [1]}}', "no format, shape or place"),
        (b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "not what its shape takes"),
        (b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}', "impossible shape"),
        (b'{"a": {"dtype": "U8", "shape": [%d], "data_offsets": [0, %d]}}' % (10**400, 10**400), "impossible shape"),
        (b'{"a": {"dtype": "P4", "shape": [1], "data_offsets": [0, 4]}}', "unknown format"),
        (b'{"a": {"dtype": "F32", "shape": [], "data_offsets": [4, 8]}}', "does not begin where"),
        (b"{}", "its tensors end at byte"),
    ],
)
def test_a_header_that_lies_is_told(tmp_path: Path, header: bytes, words: str) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4)
    with pytest.raises(ValueError, match=words):
        read_header(path)
