"""What every tab needs, built once by the app and passed explicitly; and the one place where an EngineError becomes a message."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from apt_engine.errors import EngineError
from apt_engine.jobs.engine import Engine
from apt_engine.jobs.line import RunLine
from apt_engine.jobs.picture_line import PictureLine
from apt_engine.runs.store import RunStore
from apt_engine.settings.presets import Preset, load_presets
from ui.serving.tenants import Tenants
from ui.words import say, told

ASSETS_DIR = Path(__file__).resolve().parent.parent / "assets"
SECONDS_SHOWN = 12
Values = dict[Block, Any]  # by component: what an event hands to a handler, and what a handler changes on the page


@dataclass(frozen=True)
class Example:
    """A folder of photos that ships with the app; who made them and under which licence has to be shown beside them."""

    folder: Path
    subject: str
    title: str
    credit: str
    licence: str

    @property
    def photo_paths(self) -> list[Path]:
        return sorted(
            path for path in self.folder.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp")
        )


@dataclass(frozen=True)
class AppContext:
    """Who uses the page, and what the forms offer."""

    tenants: Tenants
    presets: dict[str, Preset]
    examples: dict[str, Example]

    @property
    def store(self) -> RunStore:
        """The runs of the visitor whose event is being handled."""
        return self.tenants.find_current().store

    @property
    def engine(self) -> Engine:
        """The engine as this visitor sees it."""
        return self.tenants.find_current().engine

    @property
    def line(self) -> RunLine | None:
        """The runs in line; None on a Space, where each visitor has one job at a time."""
        return self.tenants.find_current().line

    @property
    def pictures(self) -> PictureLine | None:
        """The pictures in line; None on a Space."""
        return self.tenants.find_current().pictures

    @property
    def loras_dir(self) -> Path:
        """Where LoRA files that were brought to the page are kept."""
        return self.store.data_dir / "loras"

    @property
    def uploads_dir(self) -> Path:
        """Where this visitor's photos are kept."""
        return self.tenants.find_current().uploads_dir


def open_context(tenants: Tenants) -> AppContext:
    """The context of a page for these tenants. Starts no process and writes nothing.

    Raises:
        ConfigError: a preset file cannot be used.
    """
    return AppContext(tenants, load_presets(), load_examples(ASSETS_DIR / "examples"))


def load_examples(folder: Path) -> dict[str, Example]:
    """Example subjects by key; an example without its photos is left out."""
    try:
        entries = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    found = {
        entry["key"]: Example(
            folder / entry["folder"], entry["subject"], entry["title"], entry["credit"], entry["licence"]
        )
        for entry in entries
    }
    return {key: example for key, example in found.items() if example.folder.is_dir() and example.photo_paths}


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Turn an EngineError into a message on the page; nothing else on it changes.

    Raises:
        gr.Error: with the sentence of the EngineError raised inside.
    """
    try:
        yield
    except EngineError as error:
        raise gr.Error(told(str(error)), duration=SECONDS_SHOWN, title=say("Not yet"), print_exception=False) from error
