"""How much house there is: `python -m benchmarks.house [--no-run]`.

rooms             modules and packages directly inside `apt_engine`
arrows            pairs of them of which one imports the other, also inside a function
read              what a newcomer reads who follows the command line from photos to a picture: the lines of each function
                  that runs in `train` and then in `generate`, docstrings included, and the modules they stand in; the
                  pocket model trains with every part of the method on, is sampled, measured and exported
longest function  in lines, docstring included
large modules     those of the product that have more than 350 lines
"""

import argparse
import ast
import contextlib
import io
import itertools
import sys
import tempfile
import threading
from collections import defaultdict
from pathlib import Path
from types import CodeType, FrameType

import grimp

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / "apt_engine"
PRODUCT = ("apt_engine", "ui", "tools")
LARGE = 350
PHOTOS = ROOT / "assets" / "examples" / "teddy_bear"
# Everything happens at least once.
SETTINGS = {
    "calibration_step": 2,
    "warped_views": 2,
    "sensitivity": 1000,
    "save_every_steps": 4,
    "sample_every_steps": 6,
    "drift_every_steps": 6,
    "sample_steps": 2,
    "sample_prompts": "a photo of a {subject}",
}
TRAIN = ["train", "--photos", str(PHOTOS), "--subject", "teddy bear", "--steps", "12"]
GENERATE = ["generate", "--prompt", "a {subject} on the beach", "--count", "1", "--set", "steps=2"]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-run", action="store_true", help="without what is read, for which a model is trained")
    parser.add_argument("--list", action="store_true", help="also each arrow, and each module that is read")
    options = parser.parse_args()
    rooms, arrows = rooms_and_arrows()
    print(f"rooms {len(rooms)}, arrows {len(arrows)}")
    if options.list:
        for room, imported in itertools.groupby(arrows, lambda arrow: arrow[0]):
            print(f"    {room}: {', '.join(to for _, to in imported)}")
    functions = {path: functions_of(path) for name in PRODUCT for path in sorted((ROOT / name).rglob("*.py"))}
    longest, path, name = max((len(lines), path, name) for path, found in functions.items() for name, lines in found)
    print(f"longest function {longest} lines: {name} of {path.relative_to(ROOT)}")
    large = {path: length for path in functions if (length := len(path.read_text("utf-8").splitlines())) > LARGE}
    print(f"modules over {LARGE} lines: {len(large)} {[str(path.relative_to(ROOT)) for path in large] or ''}")
    if options.no_run:
        return
    read = lines_read(functions)
    print(f"read from photos to a picture: {sum(read.values())} lines in {len(read)} modules")
    if options.list:
        for path, lines in sorted(read.items(), key=lambda item: -item[1]):
            print(f"    {lines:4} {path.relative_to(ROOT)}")


def rooms_and_arrows() -> tuple[list[str], list[tuple[str, str]]]:
    """The rooms of the engine, and who imports whom."""
    graph = grimp.build_graph("apt_engine")
    rooms = sorted(graph.find_children("apt_engine"))
    for room in rooms:
        graph.squash_module(room)
    pairs = [(room, other) for room in rooms for other in sorted(graph.find_modules_directly_imported_by(room))]
    names = [tuple(module.removeprefix("apt_engine.") for module in pair) for pair in pairs if pair[1] in rooms]
    return [room.removeprefix("apt_engine.") for room in rooms], [(one, other) for one, other in names]


def functions_of(path: Path) -> list[tuple[str, range]]:
    """Each function and method of a module with its lines; what is defined inside one is part of it."""
    found: list[tuple[str, range]] = []

    def look(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                first = min([child.lineno, *(decorator.lineno for decorator in child.decorator_list)])
                found.append((child.name, range(first, (child.end_lineno or first) + 1)))
            else:
                look(child)

    look(ast.parse(path.read_text(encoding="utf-8")))
    return found


def lines_read(functions: dict[Path, list[tuple[str, range]]]) -> dict[Path, int]:
    """For each module of the engine in which something runs: how many lines the functions have that run."""
    ran = _what_runs()
    read: dict[Path, int] = {}
    for path, lines in ran.items():
        found = [body for _, body in functions[path] if any(line in body for line in lines)]
        if found:
            read[path] = sum(map(len, found))
    return read


def _what_runs() -> dict[Path, set[int]]:
    """Where the functions begin that run in a training and a drawing."""
    codes: set[CodeType] = set()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call":
            codes.add(frame.f_code)

    with tempfile.TemporaryDirectory() as folder:
        settings = [part for name, value in SETTINGS.items() for part in ("--set", f"{name}={value}")]
        kept = ["--data-dir", folder]
        sys.setprofile(note)
        threading.setprofile(note)
        try:
            _command(*TRAIN, *settings, *kept)
            _command(*GENERATE, "--out", str(Path(folder) / "pictures"), *kept)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    ran: dict[Path, set[int]] = defaultdict(set)
    for code in codes:
        path = Path(code.co_filename)
        if path.is_relative_to(ENGINE) and code.co_name != "<module>":
            ran[path].add(code.co_firstlineno)
    return ran


def _command(*arguments: str) -> None:
    from apt_engine.cli.main import main as command_line  # under the profile, with all that it imports

    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        code = command_line([*arguments])
    if code:
        raise SystemExit(f"{arguments[0]} ended with {code}:\n{said.getvalue()}")


if __name__ == "__main__":
    main()
