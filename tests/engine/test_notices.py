"""What is told before the first step, and how much memory a run took."""

import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from apt_engine.errors import BaseModelError
from apt_engine.runs.events import Noticed
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.training.memory import forget_peak, peak_memory_bytes, release_memory
from apt_engine.training.trainer import Trainer
from tests.engine.test_bases import stable_diffusion


@pytest.fixture
def store(data_dir: Path) -> RunStore:
    return RunStore(data_dir)


def test_captions_that_are_cut_and_terms_that_stay_off_are_told_before_the_start(new_run: Callable[..., Run]) -> None:
    run = new_run(1)
    run.replace_config(run.config.replace(caption="a photo of a {subject}" + " on the beach" * 30))
    told = [event.message for event in Trainer(run).run() if isinstance(event, Noticed)]
    assert any(
        message.startswith("\u201ca photo of a zwx car on the beach") and "longer than the model can read" in message
        for message in told
    )
    assert any(message.startswith("RS and AA stay off: this run of 1 steps") for message in told)


@pytest.mark.skipif(sys.platform != "linux" or torch.cuda.is_available(), reason="only Linux forgets a peak")
def test_the_peak_is_that_of_the_run_not_of_the_process() -> None:
    block = torch.ones(100_000_000)  # 400 MB
    before = peak_memory_bytes()
    del block
    forget_peak()
    assert before - 500_000_000 < peak_memory_bytes() < before - 300_000_000


def test_a_model_that_predicts_the_picture_itself_is_not_trained() -> None:
    with pytest.raises(BaseModelError, match="toy predicts sample, neither noise nor velocity"):
        stable_diffusion("sample").prepare_training(32, gradient_checkpointing=False)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other libraries keep no such heap")
def test_what_steps_took_is_given_back_before_the_export() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")

    whole = [torch.ones(30_000_000, dtype=torch.uint8)]
    whole.clear()  # from now on such blocks come from the heap
    blocks = [torch.ones(1_000_000, dtype=torch.uint8) for _ in range(200)]
    full = resident()
    del blocks[::2]  # the others keep the heap from shrinking by itself
    release_memory()
    assert resident() < full - 75_000_000
