"""The command line end to end on the toy model, and one sentence for each bad input."""

import errno
import io
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest

from apt_engine.bases.hub import described
from apt_engine.cli.console import CUT, tell_stage
from apt_engine.cli.main import main
from apt_engine.photos.photo_set import photos_in
from apt_engine.runs import files as written
from apt_engine.runs.events import RunFailed
from apt_engine.runs.history import NEWER
from apt_engine.runs.store import RunStore
from apt_engine.runs.training_lock import training_lock
from apt_engine.settings.training import TrainingConfig
from tests.terminal import generate, only_picture, sentence, train

ROOT = Path(__file__).resolve().parents[2]


def test_photos_become_a_lora_file_that_draws_another_picture(
    data_dir: Path, tmp_path: Path, photo_dir: Path, toy_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(photo_dir, toy_base, data_dir, "--set", "learning_rate=0.05", "--set", "warmup_steps=0") == 0
    assert generate(data_dir, tmp_path / "tuned") == 0
    assert generate(data_dir, tmp_path / "base", "--base", str(toy_base), prompt="a photo of a zwx car") == 0
    assert numpy.abs(only_picture(tmp_path / "tuned") - only_picture(tmp_path / "base")).max() > 2
    assert main(["export", "--data-dir", str(data_dir), "--out", str(tmp_path / "files")]) == 0
    file, _ = sorted((tmp_path / "files").glob("*.safetensors"))
    assert generate(data_dir, tmp_path / "twice", "--lora", f"{file}:0.5") == 0
    assert numpy.abs(only_picture(tmp_path / "tuned") - only_picture(tmp_path / "twice")).max() > 2
    assert main(["resume", "--data-dir", str(data_dir), "--steps", "6"]) == 0
    assert main(["verdict", "--data-dir", str(data_dir)]) == 0
    assert main(["runs", "--data-dir", str(data_dir)]) == 0
    printed = capsys.readouterr().out
    assert "48 pictures by" in printed
    assert [line.split()[0] for line in printed.splitlines() if " ± " in line] == ["untrained", "4", "6"]
    assert "Step 6: its pictures" in printed
    assert "finished   step 6/6" in printed
    assert "kohya file" in printed
    told = [line for line in printed.splitlines() if line.startswith(("run ", f"{len(photos_in(photo_dir))} photos, "))]
    assert told[1].startswith("run ")  # what it takes is told before that
    for words in (
        "all 4 steps: too few to tell when to stop, 32 px, ",
        ", memory ",
        ", disk ",
        " free, download none.",
    ):
        assert words in told[0]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--photos", "/no/such/folder"], "/no/such/folder"),
        (["--subject", "   "], "subject is empty"),
        (["--base", "/no/such/base"], "The base model /no/such/base is not there"),
        (["--preset", "fast"], "no preset 'fast'"),
        (["--set", "rnak=4"], "no setting called 'rnak'"),
        (["--set", "rank"], "--set rank has no value"),
        (["--set", "rank=0"], "rank cannot be 0"),
    ],
)
def test_bad_arguments_end_in_one_sentence(
    data_dir: Path,
    photo_dir: Path,
    toy_base: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    words: str,
) -> None:
    assert train(photo_dir, toy_base, data_dir, *arguments) == 1
    assert words in sentence(capsys)


def test_bad_photos_end_in_one_sentence(
    data_dir: Path, tmp_path: Path, photo_dir: Path, toy_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert train(empty, toy_base, data_dir) == 1
    assert "photo" in sentence(capsys)
    (empty / "one.png").write_bytes(next(iter(sorted(photo_dir.iterdir()))).read_bytes())
    assert train(empty, toy_base, data_dir) == 1
    assert "photo" in sentence(capsys)
    (empty / "text.jpg").write_text("no picture")
    assert train(empty, toy_base, data_dir) == 1
    assert "text.jpg" in sentence(capsys)
    assert RunStore(data_dir).list() == []


def test_a_second_run_is_refused_and_leaves_nothing(
    data_dir: Path, photo_dir: Path, toy_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with training_lock(RunStore(data_dir)):
        assert train(photo_dir, toy_base, data_dir) == 1
    assert "Another run is training" in sentence(capsys)
    assert RunStore(data_dir).list() == []


def test_what_cannot_be_read_hides_no_other_run(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = RunStore(data_dir)
    damaged, newer, whole, strange = (
        store.create(TrainingConfig(subject="car"), lambda folder: None) for _ in range(4)
    )
    (damaged.path / "config.json").write_text("{")
    (newer.path / "config.json").write_text('{"subject": "car", "dreams": true}')
    whole.events_path.write_text('3\n{"kind": "RunFailed", "message": "The disk is full."}\n{"kind": "StepFin')
    strange.events_path.write_text('{"kind": "RunDreamt"}\n')
    assert main(["runs", "--data-dir", str(data_dir)]) == 0
    lines = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert "cannot be read" in lines[damaged.id]
    assert "was made by a newer version of APT Studio (it has the settings dreams)" in lines[newer.id]
    assert lines[whole.id] == "failed     step 0/300  pocket  car  The disk is full."
    assert lines[strange.id].endswith(NEWER)


def test_a_strangers_names_neither_move_the_cursor_nor_break_a_line(
    data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header = b'{"a\\u001b]0;b\\u0007\\u009b2J": {"dtype": "U8", "shape": [0], "data_offsets": [9, 9]}}'
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert (
        main(["generate", "--base", str(tmp_path / "a.safetensors"), "--prompt", "x", "--data-dir", str(data_dir)]) == 1
    )
    assert "a?]0;b??2J does not begin where" in sentence(capsys)
    run = RunStore(data_dir).create(TrainingConfig(subject="car"), lambda folder: None)
    run.append(RunFailed(message="It broke.\x1b[2J"))
    assert main(["runs", "--data-dir", str(data_dir)]) == 0
    assert capsys.readouterr().out.endswith("It broke.?[2J\n")


def test_a_letter_that_the_terminal_lacks_ends_nothing(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    RunStore(data_dir).create(TrainingConfig(subject="\u72ac"), lambda folder: None)
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["runs", "--data-dir", str(data_dir)]) == 0
    assert b"pocket  \\u72ac" in terminal.buffer.getvalue()


def test_the_folder_of_nobody_is_not_there(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "--base", "~nobody-of-this-name/x", "--prompt", "x", "--data-dir", str(data_dir)]) == 1
    assert "~nobody-of-this-name/x is not there" in sentence(capsys)


def test_generate_refuses_what_it_cannot_do(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert generate(data_dir, tmp_path / "out", prompt=" ") == 1
    assert "prompt is empty" in sentence(capsys)
    assert generate(data_dir, tmp_path / "out") == 1
    assert "no run latest" in sentence(capsys)


def test_a_data_dir_that_cannot_be_written_is_named(
    tmp_path: Path, photo_dir: Path, toy_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert train(photo_dir, toy_base, tmp_path / "file" / "data") == 1
    assert "choose another folder (--data-dir, --out)" in sentence(capsys)


def test_no_picture_in_the_folder_is_replaced(data_dir: Path, tmp_path: Path, toy_base: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for mine in ("9-seed0.png", "notes.png", "holiday-seed3.png"):
        (out / mine).write_bytes(b"mine")
    for prompt in ("a car", "a cat"):
        assert generate(data_dir, out, "--base", str(toy_base), prompt=prompt) == 0
    assert {path.name for path in out.glob("[01]*")} == {"10-seed0.png", "11-seed0.png"}
    assert all((out / mine).read_bytes() == b"mine" for mine in ("9-seed0.png", "notes.png", "holiday-seed3.png"))


def test_a_drive_that_went_away_is_one_sentence(
    data_dir: Path, tmp_path: Path, toy_base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, stat, mkdir = tmp_path / "gone", Path.stat, Path.mkdir

    def unplugged(ask: Callable[..., Any]) -> Callable[..., Any]:
        def asked(path: Path, *arguments: Any, **named: Any) -> Any:
            if path.is_relative_to(gone):
                raise OSError(errno.EIO, "Input/output error", str(path))
            return ask(path, *arguments, **named)

        return asked

    monkeypatch.setattr(Path, "stat", unplugged(stat))
    monkeypatch.setattr(Path, "mkdir", unplugged(mkdir))
    for arguments, words in (
        (("--base", str(toy_base), "--lora", str(gone / "wool.safetensors")), "check the drive it is on"),
        (("--base", str(gone / "model")), "check the path and the drive"),
        (("--base", str(toy_base), "--out", str(gone / "out")), "Cannot write"),
    ):
        assert generate(data_dir, tmp_path / "out", *arguments, prompt="a car") == 1
        told = sentence(capsys)
        assert words in told
        assert "Input/output error" in told


def test_a_disk_that_is_full_leaves_no_half_picture(
    data_dir: Path, tmp_path: Path, toy_base: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("not a folder")
    assert generate(data_dir, tmp_path / "file" / "out", "--base", str(toy_base), prompt="a car") == 1
    assert "Cannot write" in sentence(capsys)

    def full(_path: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(written, "sync", full)
    assert generate(data_dir, tmp_path / "out", "--base", str(toy_base), prompt="a car") == 1
    told = sentence(capsys)
    assert "01-seed0.png (No space left on device; " in told
    assert "free some disk space or choose another folder (--data-dir, --out)" in told
    assert list((tmp_path / "out").iterdir()) == []


def test_a_download_is_told_at_each_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    tell = tell_stage()
    for done in range(101):
        tell(described("owner/model", done * 10**6, 10**8), done / 100)
    tell("Drawing", 0.0)
    tell("Drawing", 0.5)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert lines[1] == "Downloading owner/model, once: 10.0 of 100.0 MB."
    assert lines[-1] == "Drawing"


@pytest.mark.skipif(not hasattr(signal, "SIGBUS"), reason="a mapped file cannot be cut there")
def test_a_file_that_is_cut_while_it_is_mapped_ends_in_one_sentence(tmp_path: Path) -> None:
    script = (
        "import numpy, os, sys\n"
        "from apt_engine.cli.console import tell_cut_files\n"
        "tell_cut_files()\n"
        "numbers = numpy.memmap(sys.argv[1], dtype='u1', mode='w+', shape=10_000_000)\n"
        "os.truncate(sys.argv[1], 10)\n"
        "print(numbers.sum())\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "weights")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert ended.stderr == f"apt_engine: {CUT}\n"
    assert "tell_cut_files()" in (ROOT / "apt_engine" / "__main__.py").read_text(encoding="utf-8")
