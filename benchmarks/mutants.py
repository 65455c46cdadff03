"""Deliberate mistakes, and whether the tests notice them: `python -m benchmarks.mutants`.

Each entry of `mutants.toml` is one mistake: what stands in a file, what stands there instead, and the tests that must fail then.
They run in a copy of the working tree, uncommitted work included, after the same tests have passed in a copy without a mistake.
Ends with 1 if a mistake goes unnoticed, with 2 if the table does not fit the tree.
"""

import argparse
import ast
import contextlib
import functools
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).with_suffix(".toml")
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # as in tests/conftest.py, but before torch is loaded
# Loaded once and forked, with torch, transformers and peft behind it: that saves 5 s a mistake.
SLOW_IMPORTS = ["diffusers.pipelines.flux2.pipeline_flux2_klein", "diffusers.pipelines.stable_diffusion_xl"]
MOST_SECONDS = 120  # a test that a mistake keeps from ending has noticed it
OPTIONS = ("-q", "-x", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")  # of what is loaded


class UnfitError(Exception):
    """The table does not fit the tree, so that nothing is proven."""


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One mistake.

    Attributes:
        file: relative to the root.
        before: text that the file has exactly once.
        after: what stands there instead.
        tests: pytest's names of tests, of which at least one must fail.
        why: what the mistake would do to a user.
    """

    name: str
    file: str
    before: str
    after: str
    tests: tuple[str, ...]
    why: str

    def apply(self, root: Path) -> None:
        """Make the mistake in a tree.

        Raises:
            UnfitError: the text to replace is not there exactly once.
        """
        path = root / self.file
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        if (found := text.count(self.before)) != 1:
            raise UnfitError(
                f"{self.name} does not apply: {self.file} has {self.before!r} {found} times; change `before`."
            )
        path.write_text(text.replace(self.before, self.after), encoding="utf-8")


def read_table(path: Path = TABLE) -> list[Mutant]:
    """All mistakes, in the order of the file."""
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]
    return [Mutant(**{**entry, "tests": tuple(entry["tests"])}) for entry in entries]


def misfits(root: Path, mutants: Sequence[Mutant]) -> list[str]:
    """A sentence for each mistake that does not apply, is none, leaves no Python, or names a test that is not there."""
    found: list[str] = []

    @functools.cache
    def text_of(file: str) -> str:
        return (root / file).read_text(encoding="utf-8") if (root / file).exists() else ""

    @functools.cache
    def tests_in(file: str) -> set[str]:
        return {f"{file}::{node.name}" for node in ast.parse(text_of(file)).body if isinstance(node, ast.FunctionDef)}

    for mutant in mutants:
        text = text_of(mutant.file)
        if (count := text.count(mutant.before)) != 1:
            found.append(f"{mutant.name}: {mutant.file} has its `before` {count} times")
        elif not _is_python(text.replace(mutant.before, mutant.after)) or mutant.before == mutant.after:
            found.append(f"{mutant.name}: its `after` changes nothing or leaves no Python")
        named = [test.partition("[")[0] for test in mutant.tests]
        missing = [test for test in named if test not in tests_in(test.partition("::")[0])]
        if missing or not named:
            found.append(f"{mutant.name}: there is no test {missing[0] if missing else 'named'}")
    return found


def _is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def copy_tree(root: Path, folder: Path) -> None:
    """All files that git tracks or would track, as they are now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (root / name).is_file():  # one that was deleted is listed until that is committed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)


def fails(root: Path, tests: Sequence[str], mutant: Mutant | None = None) -> bool:
    """Whether a test fails in a copy of a tree, with one mistake or with none; to be called once a process.

    Raises:
        UnfitError: the tests could not run.
    """
    signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it does not end"))
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        copy_tree(root, Path(folder))
        if mutant:
            mutant.apply(Path(folder))
        os.chdir(folder)
        sys.path[:] = [folder, *(place for place in sys.path if place not in ("", str(ROOT)))]
        own = {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] == "benchmarks"}
        with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.redirect_stderr(told):
            if mutant:
                signal.alarm(MOST_SECONDS)
            code = pytest.main([*OPTIONS, *tests])
            signal.alarm(0)
        sys.modules.update(own)  # the tests had those of the copy
        os.chdir(root)
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise UnfitError(
            f"{mutant.name if mutant else 'The table'} names tests that cannot run:\n{told.getvalue()[-3000:]}"
        )
    return code == pytest.ExitCode.TESTS_FAILED


def survivors(root: Path, mutants: Sequence[Mutant], jobs: int) -> list[Mutant]:
    """The mistakes that no test noticed; tells of each as it is judged.

    Raises:
        UnfitError: a test fails without a mistake, or the table does not fit the tree.
    """
    survived: list[Mutant] = []
    with ProcessPoolExecutor(jobs, get_context("forkserver"), max_tasks_per_child=1) as pool:
        if pool.submit(fails, root, list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))).result():
            raise UnfitError("The named tests fail without a mistake; mend them first.")
        for mutant, is_killed in zip(
            mutants, pool.map(functools.partial(_is_noticed, root), mutants, chunksize=1), strict=True
        ):
            print(f"{'killed' if is_killed else 'SURVIVED':8} {mutant.name}: {mutant.why}", flush=True)
            survived += [] if is_killed else [mutant]
    return survived


def _is_noticed(root: Path, mutant: Mutant) -> bool:
    return fails(root, mutant.tests, mutant)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--only", nargs="+", default=[""], metavar="NAME", help="mistakes whose name begins so")
    parser.add_argument("--jobs", type=int, default=1, help="how many are judged at a time, one thread each")
    parser.add_argument("--check", action="store_true", help="only tell whether the table fits the tree")
    options = parser.parse_args()
    mutants = [mutant for mutant in read_table() if mutant.name.startswith(tuple(options.only))]
    if not mutants:
        parser.error(f"no mistake of {TABLE.name} has a name that begins with {' or '.join(options.only)}")
    if options.check:
        found = misfits(ROOT, mutants)
        print(*found, f"{len(found)} of {len(mutants)} do not fit.", sep="\n")
        return 2 if found else 0
    os.environ |= ENVIRONMENT
    get_context("forkserver").set_forkserver_preload(SLOW_IMPORTS)
    try:
        survived = survivors(ROOT, mutants, options.jobs)
    except UnfitError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(mutants) - len(survived)} of {len(mutants)} killed.", *(f"Survived: {one.name}" for one in survived))
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
