"""The locks: they hold what is required, every file has a hash, and nothing names where they were made."""

import pytest

from tools import launch, locks


def test_the_locks_hold_what_is_required() -> None:
    assert [sentence for sentence in locks.check() if "here, and" not in sentence] == []
    assert locks.pinned(locks.TORCH_LOCK)["torch"] == launch.TORCH.partition("==")[2]


def test_torch_and_its_cuda_are_left_to_the_launcher() -> None:
    text = locks.APP.read_text(encoding="utf-8")
    assert not [name for name, _ in locks.pins(text) if locks.WITH_TORCH.match(name)]
    for lock in (locks.APP, locks.TEST, locks.TORCH_LOCK):
        assert "index-url" not in lock.read_text(encoding="utf-8")
        assert "://" not in lock.read_text(encoding="utf-8")


def test_constraints_are_the_pins_without_hashes() -> None:
    lock = "# made\n--foo\na==1.0 \\\n    --hash=sha256:00\nb==2 ; sys_platform == 'win32' \\\n    --hash=sha256:11\n"
    assert launch.versions_of(lock) == "a==1.0\nb==2 ; sys_platform == 'win32'\n"


@pytest.mark.parametrize(
    ("licence", "is_refused"),
    [("MIT", False), ("GPL-3.0", True), ("AGPL-3.0-only", True), ("LGPL-2.1", False), ("", True), ("My own", True)],
)
def test_a_licence_that_is_not_known_to_be_free_is_told(
    licence: str, is_refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "pinned", lambda *_: {"pip": "1"})
    monkeypatch.setattr(locks, "_licence", lambda _: licence)
    assert bool(locks.refused_licences()) is is_refused
