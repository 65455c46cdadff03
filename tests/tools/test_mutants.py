"""The table of deliberate mistakes fits the tree, and its judge tells killed from survived."""

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.mutants import ROOT, Mutant, UnfitError, main, misfits, read_table, survivors

KILLED = Mutant(
    name="killed",
    file="doubling.py",
    before="2 * number",
    after="3 * number",
    tests=("test_doubling.py::test_of_two",),
    why="three times as much",
)


def test_every_mistake_applies_and_names_tests_that_are_there() -> None:
    table = read_table()
    assert len({mutant.name for mutant in table}) == len(table) >= 40
    assert misfits(ROOT, table) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"before": "3 * number"}, "has its `before` 0 times"),
        ({"before": "number"}, "has its `before` 2 times"),
        ({"after": "2 * number"}, "changes nothing or leaves no Python"),
        ({"after": "2 * ("}, "changes nothing or leaves no Python"),
        ({"tests": ()}, "there is no test named"),
        ({"tests": ("test_doubling.py::test_of_three",)}, "there is no test test_doubling.py::test_of_three"),
        ({"file": "gone.py"}, "gone.py has its `before` 0 times"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path: Path, change: dict[str, Any], words: str | None) -> None:
    (tmp_path / "doubling.py").write_text("def double(number):\n    return 2 * number\n", encoding="utf-8")
    (tmp_path / "test_doubling.py").write_text("def test_of_two():\n    pass\n", encoding="utf-8")
    told = misfits(tmp_path, [replace(KILLED, **change)])
    assert told == [] if words is None else words in told[0]


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree of one function and its test, of which git knows nothing yet but that it is there."""
    (tmp_path / "doubling.py").write_text("def double(number):\n    return 2 * number\n")
    test = "from doubling import double\n\n\ndef test_of_two():\n    assert double(2) == 4\n"
    (tmp_path / "test_doubling.py").write_text(test)
    if shutil.which("git"):
        subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    return tmp_path


@needs_git
def test_what_no_test_notices_is_named(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    survivor = Mutant(**{**vars(KILLED), "name": "survivor", "after": "number + 2"})
    assert survivors(tree, [KILLED, survivor], jobs=2) == [survivor]
    told = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in told] == ["killed", "SURVIVED"]
    assert "2 * number" in (tree / "doubling.py").read_text()


@pytest.mark.parametrize("change", [{"before": "4 * number"}, {"before": "b"}, {"file": "gone.py"}])
def test_a_mistake_that_does_not_apply_exactly_once_is_named(tree: Path, change: dict[str, str]) -> None:
    with pytest.raises(UnfitError, match=r"^killed does not apply: \S+\.py has '.*' [03] times; change `before`\.$"):
        Mutant(**{**vars(KILLED), **change}).apply(tree)


@needs_git
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"after": "2 *"}, "killed names tests that cannot run"),
        ({"tests": ("test_doubling.py::test_of_three",)}, "The table names tests that cannot run"),
    ],
)
def test_tests_that_cannot_run_are_no_kill(tree: Path, change: dict[str, str], words: str) -> None:
    with pytest.raises(UnfitError, match=words):
        survivors(tree, [Mutant(**{**vars(KILLED), **change})], jobs=1)


@needs_git
def test_a_tree_whose_tests_fail_as_it_is_proves_nothing(tree: Path) -> None:
    (tree / "doubling.py").write_text("def double(number):\n    return 2 * number + 1\n")
    with pytest.raises(UnfitError, match="fail without a mistake"):
        survivors(tree, [KILLED], jobs=1)


def test_a_name_that_no_mistake_has_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["mutants", "--only", "nonsense"])
    with pytest.raises(SystemExit):
        main()
    assert "no mistake of mutants.toml has a name that begins with nonsense" in capsys.readouterr().err
