"""Pictures in line for the engine of this computer, drawn one wish after the other, also after a restart. Imports no torch."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from apt_engine.errors import BusyError, EngineError
from apt_engine.jobs.engine import Engine
from apt_engine.runs.grid import Axes, save_grid
from apt_engine.runs.order import Order, hastened
from apt_engine.runs.store import RunStore
from apt_engine.settings.sampling import SampleRequest


@dataclass(frozen=True)
class Wish:
    """Pictures that belong together: captioned requests, drawn in turn.

    Attributes:
        requests: (caption, request) of each.
        axes: of the grid that the pictures become, None where they become none.
        id: names the wish in its line.
    """

    requests: tuple[tuple[str, SampleRequest], ...]
    axes: Axes | None = None
    id: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def count(self) -> int:
        """How many pictures it is."""
        return sum(request.count for _, request in self.requests)

    @classmethod
    def of(cls, entry: Any) -> "Wish":
        """The wish that `entry` said.

        Raises:
            EngineError: a setting in it is none, or not allowed.
            KeyError, TypeError, ValueError: it is something else.
        """
        requests = tuple((str(caption), SampleRequest.from_dict(values)) for caption, values in entry["requests"])
        axes = Axes.of(entry["axes"]) if entry.get("axes") else None
        if axes and axes.requests != len(requests):
            raise ValueError("This is another grid's.")
        return cls(requests, axes, str(entry["id"]))

    @property
    def entry(self) -> dict[str, Any]:
        """What JSON can say of it."""
        requests = [[caption, request.to_dict()] for caption, request in self.requests]
        return {"id": self.id, "requests": requests, "axes": vars(self.axes) if self.axes else None}


@dataclass(frozen=True)
class Drawn:
    """The wish that was drawn last: its pictures with their captions' requests, and the sentence of what went wrong."""

    wish_id: str = ""
    pictures: tuple[tuple[str, int, Path], ...] = ()  # caption, seed, file
    problem: str = ""
    grid: Path | None = None


class PictureLine:
    """The wishes of one store that one engine draws in turn. Safe to call from several threads.

    The first in line stays there while it is drawn, so one that was cut off with the app is drawn when that is started again.

    Args:
        store: whose pictures they are; the order lies in its `pictures.json`.
        engine: who draws them; others may give it jobs, too.

    Attributes:
        drawn: what was drawn last.
    """

    def __init__(self, store: RunStore, engine: Engine) -> None:
        self._engine = engine
        self._order = Order(store.data_dir / "pictures.json")
        self._at_work = ""
        self._is_closed = False
        self.drawn = Drawn()

    def close(self) -> None:
        """The engine is about to be ended: what is being drawn stays in line."""
        self._is_closed = True

    @property
    def mark(self) -> str:
        """What is different once other wishes wait or another was drawn; cheap enough to ask every second."""
        return f"{self._order.mark} {self.drawn.wish_id}"

    def waiting(self) -> list[Wish]:
        """The wishes in line, the next one first, with the one that is being drawn; what cannot be read is left out."""
        found = []
        for entry in self._order.read():
            try:
                found.append(Wish.of(entry))
            except (EngineError, KeyError, TypeError, ValueError):
                continue
        return found

    def add(self, requests: Sequence[tuple[str, SampleRequest]], axes: Axes | None = None) -> None:
        """Put a wish at the end; a grid where there are axes.

        Raises:
            DiskError: that cannot be written down.
        """
        wish = Wish(tuple(requests), axes)
        self._order.change(lambda entries: [*entries, wish.entry])

    def remove(self, wish_id: str) -> None:
        """Take a wish out; one that is being drawn is stopped. Raises as `add`."""
        self._order.change(lambda entries: [entry for entry in entries if _id(entry) != wish_id])
        if wish_id == self._at_work:
            self._engine.stop()

    def hasten(self, wish_id: str) -> None:
        """Let a wish change places with the one before it. Raises as `add`."""

        def moved(entries: list[Any]) -> list[Any]:
            place = next((place for place, entry in enumerate(entries) if _id(entry) == wish_id), 0)
            return hastened(entries, place, first=1 if self._at_work else 0)

        self._order.change(moved)

    def go_on(self) -> bool:
        """If the engine is free, draw the first wish, and come back when that is done; whether there was one."""
        wishes = self.waiting()
        if self._is_closed or not wishes or self._engine.status.job != "idle":
            return False
        wish = wishes[0]
        self._at_work = wish.id
        try:
            self.drawn = self._draw(wish)
        except BusyError:  # somebody was faster
            return False
        finally:
            self._at_work = ""
        if not self._is_closed:
            self._order.change(lambda entries: [entry for entry in entries if _id(entry) != wish.id])
        return True

    def _draw(self, wish: Wish) -> Drawn:
        pictures: list[tuple[str, int, Path]] = []
        for caption, request in wish.requests:
            images: tuple[Path, ...] = ()
            try:
                for progress in self._engine.sample(request):
                    images = progress.images
            except BusyError:
                raise
            except EngineError as error:
                return Drawn(wish.id, tuple(pictures), str(error))
            pictures += [(caption, request.seed + number, path) for number, path in enumerate(images)]
            if len(images) < request.count:  # stopped
                return Drawn(wish.id, tuple(pictures))
        try:
            return Drawn(wish.id, tuple(pictures), grid=_grid_of(wish, pictures))
        except EngineError as error:
            return Drawn(wish.id, tuple(pictures), str(error))


def _grid_of(wish: Wish, pictures: Sequence[tuple[str, int, Path]]) -> Path | None:
    if wish.axes is None or not pictures:
        return None
    paths = [path for *_, path in pictures]
    return save_grid(paths[-1].parent, wish.requests[0][1], wish.axes, paths)


def _id(entry: Any) -> str:
    return str(entry.get("id")) if isinstance(entry, dict) else ""
