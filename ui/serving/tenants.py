"""Whose runs a page shows and which engine trains them: one workspace for this computer's owner, or one for each visitor.

On a Hugging Face Space strangers share the machine. Each browser gets a random cookie and, behind it, a folder of its own;
nothing of another visitor's can be read, and what nobody has come back to is deleted.
"""

import contextlib
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
from apt_engine.jobs.engine import Engine, SharedEngine
from apt_engine.jobs.line import RunLine
from apt_engine.jobs.picture_line import PictureLine
from apt_engine.jobs.queue import JobQueue, QueuedEngine
from apt_engine.jobs.worker import Worker
from apt_engine.jobs.zerogpu import CALL_SECONDS, ZeroGpuEngine
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig
from ui.serving.logins import network_of
from ui.words import say

COOKIE = "apt-visitor"
TOKEN = re.compile(r"[0-9a-f]{32}")
HOURS_KEPT = 24
UPLOADS_KEPT_DAYS = 30
OWNERS_TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN")
PASSERS_BY = 1000  # remembered at once beside those who left something
SECONDS_BETWEEN_CLEAN_UPS = 600
SECONDS_OF_A_JUMP = 60  # less is a clock that is being corrected


class NoVisitorError(EngineError):
    """A request has no visitor's cookie."""

    def __init__(self) -> None:
        super().__init__(say("This request names no visitor; allow cookies for this page, and open it again."))


@dataclass(frozen=True)
class Workspace:
    """One store of runs, the engine that works on them, and on a computer of one's own the runs and pictures in line for it."""

    store: RunStore
    engine: Engine
    line: RunLine | None = None
    pictures: PictureLine | None = None

    @property
    def uploads_dir(self) -> Path:
        """Where photos brought to the page and small pictures of them are kept."""
        return self.store.data_dir / "uploads"


class Tenants(Protocol):
    """Finds the workspace of whoever asks."""

    is_shared: bool

    def find_current(self) -> Workspace:
        """The workspace of the visitor whose event is being handled."""
        ...

    def find(self, headers: Mapping[str, str]) -> Workspace:
        """The workspace of the visitor who sent a request.

        Raises:
            NoVisitorError: each visitor has a workspace, and the request has no visitor's cookie.
        """
        ...

    def close(self) -> None:
        """End the engine."""
        ...


class SingleTenant:
    """This computer is its owner's: everybody who gets in shares one workspace.

    Args:
        data_dir: holds the runs.
    """

    is_shared = False

    def __init__(self, data_dir: Path) -> None:
        store = RunStore(data_dir)
        engine = Worker(store)
        self._pictures = PictureLine(store, engine)
        self._line = RunLine(store, engine, first=self._pictures.go_on)
        self._workspace = Workspace(store, engine, self._line, self._pictures)

    def start_line(self) -> None:
        """From now on draw the pictures and train the runs in line."""
        self._line.start()

    def delete_old_uploads(self, now: float | None = None) -> None:
        """Delete uploads of more than UPLOADS_KEPT_DAYS days ago; runs have copies of their photos."""
        oldest = (now or time.time()) - UPLOADS_KEPT_DAYS * 86_400
        for path in self._workspace.uploads_dir.glob("*"):
            if path.lstat().st_mtime < oldest:  # a link may lead nowhere
                shutil.rmtree(path, ignore_errors=True)

    def find_current(self) -> Workspace:
        return self._workspace

    def find(self, headers: Mapping[str, str]) -> Workspace:
        del headers
        return self._workspace

    def close(self) -> None:
        self._line.close()
        self._pictures.close()
        self._workspace.engine.close()


class NoStore(RunStore):
    """The store that the page is built with, before there is a visitor: it is empty and refuses to keep anything."""

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


class VisitorTenants:
    """A folder and a queued engine for each visitor, known by the cookie; deleted HOURS_KEPT hours after the last visit.

    Args:
        data_dir: holds the visitors' folders.
        queue: of the engine they share.
    """

    is_shared = True

    def __init__(self, data_dir: Path, queue: JobQueue) -> None:
        self._folder = data_dir / "visitors"
        self._queue = queue
        self._workspaces: dict[str, Workspace] = {}
        blank = NoStore(data_dir / "nobody")
        self._blank = Workspace(blank, QueuedEngine(queue, blank))
        self._lock = threading.Lock()
        self._most = PASSERS_BY
        self._closed = threading.Event()
        threading.Thread(target=self._clean_up_for_ever, daemon=True).start()

    def find_current(self) -> Workspace:
        """The visitor's workspace; an empty one while the page is being built."""
        request = LocalContext.request.get(None)
        return self._blank if request is None else self.find(request.headers)

    def find(self, headers: Mapping[str, str]) -> Workspace:
        token, _ = split_cookies(headers.get("cookie", ""))
        if not token:
            raise NoVisitorError
        name = hashlib.sha256(token.encode()).hexdigest()[:32]
        with self._lock:
            if name not in self._workspaces:
                if len(self._workspaces) >= self._most:
                    self._forget_passers_by()
                    self._most = 2 * len(self._workspaces) + PASSERS_BY
                store = RunStore(self._folder / name)
                self._workspaces[name] = Workspace(store, QueuedEngine(self._queue, store))
            workspace = self._workspaces[name]
            if isinstance(workspace.engine, QueuedEngine):
                workspace.engine.address = address_of(headers)
        if workspace.store.data_dir.exists():
            os.utime(workspace.store.data_dir)
        return workspace

    def follow_clock(self, jump: float) -> None:
        """Move the last visits along with the computer's clock, which was set anew, or all would be long ago, or to come.

        Args:
            jump: seconds that it went forward, negative if back.
        """
        for folder in self._folder.glob("*"):
            with contextlib.suppress(OSError):  # deleted meanwhile
                then = folder.stat().st_mtime + jump
                os.utime(folder, (then, then))

    def delete_abandoned(self, now: float | None = None) -> list[str]:
        """Delete the folders nobody came back to; returns their names. A visitor with a job is kept."""
        oldest = (now or time.time()) - HOURS_KEPT * 3600
        gone = []
        for folder in self._folder.glob("*"):
            workspace = self._workspaces.get(folder.name)
            is_busy = workspace is not None and workspace.engine.status.job != "idle"
            if not is_busy and folder.lstat().st_mtime < oldest:
                shutil.rmtree(folder, ignore_errors=True)
                self._workspaces.pop(folder.name, None)
                gone.append(folder.name)
        with self._lock:
            self._forget_passers_by()
        return gone

    def _forget_passers_by(self) -> None:
        """Each request of a program that keeps no cookies is another visitor; one who left nothing needs no memory."""
        for name, workspace in list(self._workspaces.items()):
            if not workspace.store.data_dir.exists() and workspace.engine.status.job == "idle":
                del self._workspaces[name]

    def close(self) -> None:
        self._closed.set()
        self._queue.close()

    def _clean_up_for_ever(self) -> None:
        offset = time.time() - time.monotonic()
        while not self._closed.wait(SECONDS_BETWEEN_CLEAN_UPS):
            offset, before = time.time() - time.monotonic(), offset
            if abs(offset - before) > SECONDS_OF_A_JUMP:
                self.follow_clock(offset - before)
            self.delete_abandoned()


def is_space() -> bool:
    """Whether this is a Hugging Face Space, where strangers come in."""
    return bool(os.environ.get("SPACE_ID"))


def open_tenants(data_dir: Path) -> Tenants:
    """A workspace for each visitor on a Space, one workspace elsewhere. Starts no process."""
    if is_space():
        for name in OWNERS_TOKENS:  # the engine fetches what visitors ask for, and in nobody's name
            os.environ.pop(name, None)
        os.environ["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
        return VisitorTenants(data_dir, JobQueue(open_engine(RunStore(data_dir))))
    tenants = SingleTenant(data_dir)
    tenants.delete_old_uploads()
    tenants.start_line()
    return tenants


def open_engine(store: RunStore) -> SharedEngine:
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


def address_of(headers: Mapping[str, str]) -> str:
    """Where a request came from, as the Space's own proxy adds it at the end of this header; empty without one."""
    return network_of(headers.get("x-forwarded-for", "").rpartition(",")[2].strip())


def new_token() -> str:
    """128 random bits."""
    return secrets.token_hex(16)


def set_cookie(token: str) -> str:
    """The Set-Cookie header of a token. A Space's page stands in a frame of another site, hence SameSite=None."""
    return f"{COOKIE}={token}; Path=/; Max-Age={HOURS_KEPT * 3600}; HttpOnly; Secure; SameSite=None; Partitioned"
