"""LoRA files of other programs: applied exactly, or refused by what they are. `pytest -v` prints the table."""

from pathlib import Path

import pytest
import torch

from apt_engine.bases.base import BaseModel
from apt_engine.lora import foreign
from tests.engine.test_bases import stable_diffusion, stable_diffusion_xl
from tests.foreign_loras import Row, check, rows

BASES: dict[str, BaseModel] = {"sd": stable_diffusion(), "sdxl": stable_diffusion_xl()}
ROWS = list(rows(BASES))


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_a_file_is_applied_exactly_or_refused_by_what_it_is(row: Row, tmp_path: Path) -> None:
    assert check(row, BASES[row.family], tmp_path / "lora.safetensors") == ""


def test_the_table_is_long_enough() -> None:
    assert len(ROWS) >= 45
    assert sum(bool(row.layers) for row in ROWS) >= 38


def test_a_lora_of_text_encoders_changes_what_a_prompt_says_by_its_strength_and_comes_off(tmp_path: Path) -> None:
    base, path = BASES["sd"], tmp_path / "lora.safetensors"
    bare = base.encode_prompts(["a car"]).hidden
    row = next(row for row in ROWS if row.name == "sd kohya attention with text encoders, mixed ranks and alphas, fp16")
    assert check(row, base, path) == ""
    full = base.encode_prompts(["a car"]).hidden
    assert not torch.allclose(full, bare)
    foreign.set_strength(base, 0)
    assert torch.allclose(base.encode_prompts(["a car"]).hidden, bare)
    foreign.set_strength(base, 1)
    assert torch.equal(base.encode_prompts(["a car"]).hidden, full)
    foreign.remove(base)
    assert torch.equal(base.encode_prompts(["a car"]).hidden, bare)
