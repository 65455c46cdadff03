"""Photos are decoded in another process: with little memory and time, no token, and no way to harm this one."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from apt_engine.errors import PhotoError, RunError
from apt_engine.photos import pool
from apt_engine.photos.photo_set import photos_in, read_photo, read_photos
from benchmarks.hostile import picture_bytes, pictures


@pytest.fixture
def fresh() -> Iterator[None]:
    """No child from an earlier test, and none left over."""
    for child in list(pool._idle):
        pool._expire(child)
    yield
    for child in list(pool._idle):
        pool._expire(child)


def picture(path: Path, **options: object) -> Path:
    pictures.base(120, 100).save(path, **options)  # pyright: ignore[reportArgumentType]
    return path


def running() -> set[int]:
    return {child._process.pid for child in pool._idle if child._process.poll() is None}


def slow(path: Path) -> Path:
    path.write_bytes(picture_bytes.jpeg_with(b"Exif\0\0" + b"x" * 65_000, 500))
    return path


def test_one_child_serves_many_photos_and_ends_when_nobody_asks(
    tmp_path: Path, fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        picture(tmp_path / f"{number}.png")
    read_photos(photos_in(tmp_path))
    before = running()
    assert len(before) == 1
    monkeypatch.setattr(pool, "SECONDS_KEPT", 0.05)
    read_photo(tmp_path / "0.png")
    deadline = time.monotonic() + 60
    while pool._idle and time.monotonic() < deadline:
        time.sleep(0.02)
    assert running() == set()


def test_a_photo_that_takes_too_long_ends_its_child_once_and_no_other_photo(
    tmp_path: Path, fresh: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_photo(picture(tmp_path / "good.png"))
    with monkeypatch.context() as patched:
        patched.setattr(pool, "SECONDS", 0.3)
        with pytest.raises(PhotoError, match=r"Photo slow\.jpg takes more than 0 seconds to open; save it anew"):
            read_photo(slow(tmp_path / "slow.jpg"))
    with monkeypatch.context() as patched:
        patched.setattr(pool, "_take", lambda: pytest.fail("a second child was asked"))
        with pytest.raises(PhotoError, match=r"Photo again\.jpg takes more than"):
            read_photo(tmp_path / "slow.jpg", "again.jpg")
    assert read_photo(tmp_path / "good.png").image.size == (120, 100)


def test_a_child_that_breaks_is_a_sentence(tmp_path: Path, fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "a.png")
    child = pool.Child()
    child._process.kill()
    with pytest.raises(pool.Ended, match="cannot be opened; it is damaged"):
        child.ask(path, "a.png")
    monkeypatch.setattr(pool, "_take", lambda: child)
    with pytest.raises(PhotoError, match=r"Photo a\.png cannot be opened"):
        read_photo(path)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_small_animation_and_a_bomb_take_little_memory(tmp_path: Path, fresh: None) -> None:
    (tmp_path / "a.webp").write_bytes(picture_bytes.animated_webp(8000))
    (tmp_path / "b.png").write_bytes(picture_bytes.png(8000, 8000, b"\0" * 1000))
    assert (tmp_path / "a.webp").stat().st_size < 250
    with pytest.raises(PhotoError, match=r"a\.webp is an animation of 8000 x 8000 pixels; bring a single picture"):
        read_photo(tmp_path / "a.webp")
    (child,) = pool._idle
    peak = Path(f"/proc/{child._process.pid}/status").read_text().partition("VmHWM:")[2].split()[0]
    assert int(peak) < 100_000  # kB
    with pytest.raises(PhotoError, match=r"b\.png cannot be opened"):
        read_photo(tmp_path / "b.png")


def test_the_child_has_limits_no_token_and_no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "canary")
    child = pool.Child()
    told = Path(f"/proc/{child._process.pid}/environ")
    if told.exists():
        assert b"canary" not in told.read_bytes()
        limits = Path(f"/proc/{child._process.pid}/limits").read_text()
        assert "900000000" in limits
        assert "torch" not in Path(f"/proc/{child._process.pid}/maps").read_text()
    child.end()


def test_photos_and_what_is_kept_of_them_tell_no_place(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "48.8583N 2.2944E"
    for number in range(3):
        picture(tmp_path / f"{number}.jpg", exif=exif, icc_profile=b"x" * 100, comment=b"48.8583N")
    photos = read_photos(photos_in(tmp_path))
    assert [photo.image.info for photo in photos.photos] == [{}, {}, {}]
    (tmp_path / "run").mkdir()
    photos.save(tmp_path / "run", 64)
    kept_files = [*(tmp_path / "run").glob("*.png"), *(tmp_path / "run").glob("originals/*.jpg")]
    assert len(kept_files) == 6
    for path in kept_files:
        assert b"48.8583N" not in path.read_bytes()
        with Image.open(path) as kept:
            assert not {"exif", "icc_profile", "comment"} & kept.info.keys()
            assert not kept.getexif()


@pytest.mark.parametrize("kind", ["nothing", "a pipe", "text", "another kind", "too large"])
def test_a_kept_photo_that_was_damaged_is_named(tmp_path: Path, kind: str) -> None:
    from apt_engine.training.latents import read_pixels

    path = tmp_path / "01.png"
    match kind:
        case "a pipe" if hasattr(os, "mkfifo"):
            os.mkfifo(path)
        case "text":
            path.write_text("text")
        case "another kind":
            pictures.base(120, 100).save(path, format="JPEG")
        case "too large":
            path.write_bytes(picture_bytes.png(9000, 9000, b""))
        case _:
            pass
    with pytest.raises(RunError, match=r"The picture 01\.png of this run is damaged .*; start a new run"):
        read_pixels(path)


@pytest.mark.skipif(os.name == "nt", reason="pipes")
def test_the_command_line_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    for number in range(2):
        picture(tmp_path / f"{number}.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    command = [
        sys.executable,
        "-m",
        "apt_engine",
        "train",
        "--photos",
        tmp_path,
        "--subject",
        "cat",
        "--data-dir",
        tmp_path,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 1
    assert "Photo pipe.jpg cannot be opened" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="pipes and links")
def test_hostile_pictures_are_right_or_one_sentence(tmp_path: Path) -> None:
    outcomes = [*pictures.pictures(tmp_path, is_short=True), *pictures.mutants(tmp_path, 100)]
    assert len(outcomes) > 300
    assert [outcome for outcome in outcomes if outcome.is_defect] == []
