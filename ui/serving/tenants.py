"""Where a page's runs live and who works on them: one place for the owner of this computer, or one for each visitor.

On a Hugging Face Space strangers share the machine. Each browser gets a random cookie and, behind it, a folder of its own;
nothing of another visitor's can be read, and what nobody has come back to is deleted.
"""

import hashlib
import importlib.util
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gradio.context import LocalContext
from starlette.requests import cookie_parser

from apt_engine.errors import EngineError
from apt_engine.jobs.queue import JobQueue, QueuedEngine
from apt_engine.jobs.worker import Worker
from apt_engine.jobs.zerogpu import CALL_SECONDS, ZeroGpuEngine
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig

COOKIE = "apt-visitor"
TOKEN = re.compile(r"[0-9a-f]{32}")
HOURS_KEPT = 24
UPLOADS_KEPT_DAYS = 30
SECONDS_BETWEEN_SWEEPS = 600


class NoVisitorError(EngineError):
    """Something was asked for without saying whose it is."""

    def __init__(self) -> None:
        super().__init__("This request names no visitor; allow cookies for this page, and open it again.")


@dataclass(frozen=True)
class Place:
    """One store of runs and the engine that works on them."""

    store: RunStore
    worker: Worker | QueuedEngine

    @property
    def uploads_dir(self) -> Path:
        """Where photos brought to the page and small pictures of them are kept."""
        return self.store.data_dir / "uploads"


class Places(Protocol):
    """Finds the place of whoever asks."""

    is_shared: bool

    def here(self) -> Place:
        """The place of the visitor whose event is being handled."""
        ...

    def of(self, headers: Mapping[str, str]) -> Place:
        """The place of the visitor who sent a request.

        Raises:
            NoVisitorError: each visitor has a place, and the request has no visitor's cookie.
        """
        ...

    def close(self) -> None:
        """End the engine."""
        ...


class OnePlace:
    """This computer is its owner's: everybody who gets in shares one place.

    Args:
        data_dir: holds the runs.
    """

    is_shared = False

    def __init__(self, data_dir: Path) -> None:
        store = RunStore(data_dir)
        self._place = Place(store, Worker(store))

    def forget_uploads(self, now: float | None = None) -> None:
        """Delete what was brought to the page long ago; runs have copies of their own."""
        oldest = (now or time.time()) - UPLOADS_KEPT_DAYS * 86_400
        for path in self._place.uploads_dir.glob("*"):
            if path.stat().st_mtime < oldest:
                shutil.rmtree(path, ignore_errors=True)

    def here(self) -> Place:
        return self._place

    def of(self, headers: Mapping[str, str]) -> Place:
        del headers
        return self._place

    def close(self) -> None:
        self._place.worker.close()


class NoStore(RunStore):
    """What the page is built from before anybody came. It holds nothing and takes nothing."""

    def list(self) -> list[Run]:
        return []

    def create(self, config: TrainingConfig, save_photos: Callable[[Path], None]) -> Run:
        """Refuse.

        Raises:
            NoVisitorError: always.
        """
        del config, save_photos
        raise NoVisitorError

    def next_pictures_dir(self) -> Path:
        """Refuse.

        Raises:
            NoVisitorError: always.
        """
        raise NoVisitorError


class VisitorPlaces:
    """A folder and a seat for each visitor, known by the cookie; deleted when nobody came for HOURS_KEPT hours.

    Args:
        data_dir: holds the visitors' folders.
        desk: the engine they share.
    """

    is_shared = True

    def __init__(self, data_dir: Path, desk: JobQueue) -> None:
        self._folder = data_dir / "visitors"
        self._desk = desk
        self._places: dict[str, Place] = {}
        blank = NoStore(data_dir / "nobody")
        self._nobodys = Place(blank, QueuedEngine(desk, blank))
        self._lock = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=self._sweep_for_ever, daemon=True).start()

    def here(self) -> Place:
        """While the page is being built nobody is here, and nothing."""
        request = LocalContext.request.get(None)
        return self._nobodys if request is None else self.of(request.headers)

    def of(self, headers: Mapping[str, str]) -> Place:
        token, _ = split_cookies(headers.get("cookie", ""))
        if not token:
            raise NoVisitorError
        name = hashlib.sha256(token.encode()).hexdigest()[:32]
        with self._lock:
            if name not in self._places:
                store = RunStore(self._folder / name)
                self._places[name] = Place(store, QueuedEngine(self._desk, store))
            place = self._places[name]
        if place.store.data_dir.exists():
            os.utime(place.store.data_dir)
        return place

    def sweep(self, now: float | None = None) -> list[str]:
        """Delete the folders nobody came back to; returns their names. A visitor with a job is kept."""
        oldest = (now or time.time()) - HOURS_KEPT * 3600
        gone = []
        for folder in self._folder.glob("*"):
            place = self._places.get(folder.name)
            is_busy = place is not None and place.worker.status.job != "idle"
            if not is_busy and folder.stat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)
                self._places.pop(folder.name, None)
                gone.append(folder.name)
        return gone

    def close(self) -> None:
        self._closed.set()
        self._desk.close()

    def _sweep_for_ever(self) -> None:
        while not self._closed.wait(SECONDS_BETWEEN_SWEEPS):
            self.sweep()


def is_space() -> bool:
    """Whether this is a Hugging Face Space, where strangers come in."""
    return bool(os.environ.get("SPACE_ID"))


def open_places(data_dir: Path) -> Places:
    """A place for each visitor on a Space, one place elsewhere. Starts no process."""
    if is_space():
        return VisitorPlaces(data_dir, JobQueue(open_engine(RunStore(data_dir))))
    place = OnePlace(data_dir)
    place.forget_uploads()
    return place


def open_engine(store: RunStore) -> Worker | ZeroGpuEngine:
    """The engine of a Space: a process that owns the device, or, on ZeroGPU, one that borrows it call by call."""
    if os.environ.get("SPACES_ZERO_GPU") and importlib.util.find_spec("spaces"):
        spaces: Any = importlib.import_module("spaces")
        return ZeroGpuEngine(store, spaces.GPU(duration=CALL_SECONDS))
    return Worker(store)


def split_cookies(cookies: str) -> tuple[str, list[str]]:
    """What a Cookie header holds: the first visitor's token that may have been made here, or ""; and the other cookies.

    A browser sends two of the same name where one was set inside a frame and one outside. Other cookies stay as they were sent.
    """
    token, others = "", []
    for chunk in filter(None, (chunk.strip() for chunk in cookies.split(";"))):
        value = cookie_parser(chunk).get(COOKIE)
        if value is None:
            others.append(chunk)
        elif not token and TOKEN.fullmatch(value):
            token = value
    return token, others


def new_token() -> str:
    """128 random bits."""
    return secrets.token_hex(16)


def set_cookie(token: str) -> str:
    """The Set-Cookie header of a token. A Space's page stands in a frame of another site, hence SameSite=None."""
    return f"{COOKIE}={token}; Path=/; Max-Age={HOURS_KEPT * 3600}; HttpOnly; Secure; SameSite=None; Partitioned"
