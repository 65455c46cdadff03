"""The count of rooms, arrows and lines: what counts as one, and that the documents know every room."""

from pathlib import Path

from benchmarks.house import ROOT, functions_of, rooms_and_arrows

MODULE = '''
import functools

LIMIT = 3


class Clock:
    """Not counted."""

    @functools.cache
    def read(self) -> int:
        def inner() -> int:
            return LIMIT

        return inner()


def free() -> None: ...
'''


def test_a_function_has_its_decorators_and_what_is_defined_inside_it(tmp_path: Path) -> None:
    (tmp_path / "clock.py").write_text(MODULE, encoding="utf-8")
    found = {name: len(lines) for name, lines in functions_of(tmp_path / "clock.py")}
    assert found == {"read": 6, "free": 1}


def test_every_room_stands_in_the_picture_of_the_house() -> None:
    rooms, arrows = rooms_and_arrows()
    said = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [room for room in rooms if f"{room}/`" not in said and f"{room}.py`" not in said] == ["__main__"]
    assert ("jobs", "training") in arrows
    assert ("apt", "errors") not in arrows
