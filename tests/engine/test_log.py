"""The log of a run: what a person reads of it, and what it must not tell."""

from pathlib import Path

import pytest

from apt_engine.runs.events import Noticed, PromptsChanged, RunFailed, RunStarted, StageChanged, StepFinished
from apt_engine.runs.log import cleaned, log_of
from apt_engine.runs.run import Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "r1")
    run.path.mkdir()
    run.append(RunStarted(run="r1", base="pocket", subject="bear", photo_count=4, first_step=0, last_step=40))
    for fraction in (0.0, 0.5, 1.0):
        run.append(StageChanged(stage="encoding", message="Encoding 4 photos.", fraction=fraction))
    for number in range(1, 21):
        run.append(StepFinished(step=number, loss=0.25, gradient_norm=1, learning_rate=1e-4, seconds=0.5))
    run.append(PromptsChanged(step=20, prompts=("a {subject}", "a dog")))
    run.append(Noticed(message="A step was skipped."))
    run.append(RunFailed(message="It broke.", detail="Traceback\n  ValueError: 3"))
    return run


def test_it_has_a_line_for_what_is_worth_one_and_a_stage_stands_once(run: Run) -> None:
    lines = [line[10:] for line in log_of(run, with_details=False).splitlines()]
    assert lines == [
        "4 photos of bear, base pocket, steps 1 to 40",
        "Encoding 4 photos.",
        "step 10: loss 0.2500, 0.50 s",
        "step 20: loss 0.2500, 0.50 s",
        "prompts of the samples from step 20 on: a {subject}; a dog",
        "A step was skipped.",
        "It broke.",
    ]
    assert log_of(run, with_details=True).endswith("Traceback\n  ValueError: 3")


def test_no_token_and_no_path_of_the_cache_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "a-secret-of-mine")
    monkeypatch.setenv("HF_HOME", "/big disk/hub")
    home = Path("~").expanduser()
    written = (
        f"401 for hf_abcdefGHIJ12 and a-secret-of-mine: '/big disk/hub/models--a/blobs/1', "
        f"{home}/.cache/huggingface/hub/models--b/refs/main is not there; see {home}/photos/cat.png"
    )
    told = cleaned(written)
    assert told == "401 for (token) and (token): '(model cache)', (model cache) is not there; see ~/photos/cat.png"
