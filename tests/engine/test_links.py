"""A link inside a run's folder leads nowhere: nothing outside is written, grown or deleted, and a sentence names it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from apt_engine.errors import DiskError, RunError
from apt_engine.jobs import results, session
from apt_engine.runs import library
from apt_engine.runs.events import Noticed
from apt_engine.runs.files import write_atomically
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from benchmarks.reliability.sessions import new_run

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links need a right of their own there")
PRECIOUS = b"export PATH=/usr/bin\n"


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """A folder of somebody's own, with what a run might take for its checkpoints."""
    folder = tmp_path / "home"
    (folder / "000002").mkdir(parents=True)
    (folder / ".old.part").mkdir()
    for path in (folder / ".bashrc", folder / "000002" / "thesis.txt", folder / ".old.part" / "thesis.txt"):
        path.write_bytes(PRECIOUS)
    return folder


def is_untouched(folder: Path) -> bool:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return len(files) == 3 and all(path.read_bytes() == PRECIOUS for path in files)


def to(part: str, target: str) -> Callable[[Path, Path], None]:
    def put(run: Path, home: Path) -> None:
        place = run / part
        if place.is_dir():
            shutil.rmtree(place)
        place.unlink(missing_ok=True)
        place.parent.mkdir(exist_ok=True)
        place.symlink_to(home / target)

    return put


@pytest.mark.parametrize(
    ("part", "target"),
    [
        ("events.jsonl", ".bashrc"),
        ("checkpoints", ""),
        ("checkpoints/000002", "000002"),
        ("checkpoints/.000002.part", "000002"),
        ("samples", "000002"),
        ("samples/000002-0.png", ".bashrc"),
        ("exports", ""),
        ("views", ""),
        ("photos/01.png", ".bashrc"),
        (".config.json.part", ".bashrc"),
    ],
)
def test_a_run_with_a_link_is_not_trained_and_nothing_behind_it_changes(
    part: str, target: str, precious: Path, data_dir: Path, toy_base: Path, photo_dir: Path
) -> None:
    run = new_run(data_dir, toy_base, photo_dir, steps=2)
    to(part, target)(run.path, precious)
    store = RunStore(data_dir)
    works: list[Callable[[], object]] = [
        lambda: list(session.train(store, run, lambda: False, steps=3)),
        lambda: session.judge(store, run, lambda *_: None),
        lambda: list(results.export(store, run.id, "last")),
    ]
    for work in works:
        with pytest.raises(RunError, match="is a link to somewhere else; put a copy") as told:
            work()
        assert part in str(told.value)
    assert run.config.steps == 2
    assert is_untouched(precious)


def test_neither_a_line_nor_a_title_is_written_through_a_link(
    precious: Path, data_dir: Path, toy_base: Path, photo_dir: Path
) -> None:
    run = new_run(data_dir, toy_base, photo_dir)
    to("events.jsonl", ".bashrc")(run.path, precious)
    with pytest.raises(DiskError, match="not a regular file"):
        run.append(Noticed(message="hello"))
    for name in ("title.txt", ".title.txt.part"):
        to(name, ".bashrc")(run.path, precious)
        library.rename(run, "mine")
        assert library.title_of(run) == "mine"
        assert not (run.path / "title.txt").is_symlink()
    assert is_untouched(precious)


def test_what_a_kill_left_aside_is_no_hindrance(tmp_path: Path) -> None:
    (tmp_path / ".a.part").write_bytes(b"half")
    write_atomically(tmp_path / "a", b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_run_of_our_own_has_no_links(data_dir: Path, toy_base: Path, photo_dir: Path) -> None:
    run = new_run(data_dir, toy_base, photo_dir)
    run.refuse_links()
    whole = Run(shutil.copytree(run.path, data_dir / "runs" / "copy"))
    whole.refuse_links()
