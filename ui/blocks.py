"""The page's blocks: a browser draws them from a config, and each language has one of its own."""

import threading
from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.blocks import Block

from ui.words import ENGLISH, language, speaking


class _MadeHere(dict[int, Block]):
    """Blocks by id, of those that this thread makes.

    Gradio adds a new block to whatever page is being built, and a handler in another thread may answer with a new gr.Row.
    """

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def __setitem__(self, block_id: int, block: Block) -> None:
        if threading.get_ident() == self._thread:
            super().__setitem__(block_id, block)


class SpokenBlocks(gr.Blocks):
    """Blocks whose config is in the language of whoever asks for it.

    Labels are fixed when a component is made. So for another language all is made once more, when it is first asked for (.4 s),
    and what the components and scripts say is taken over by their place; everything else stays that of the English page.

    Args:
        make: makes the components inside the blocks that it is given, and wires them.
        options: of gr.Blocks.
    """

    def __init__(self, make: Callable[[gr.Blocks], None], **options: Any) -> None:
        self._make = make
        self._english: Any = None
        self._others: dict[str, dict[str, Any]] = {}
        self._making = threading.Lock()
        super().__init__(**options)
        with self:
            make(self)

    @property
    def config(self) -> Any:
        """What the browser is sent, see `gr.Blocks.get_config_file`."""
        tag = language()
        if tag == ENGLISH or self._english is None:
            return self._english
        with self._making:
            if tag not in self._others:
                self._others[tag] = self._said_in(tag)
            return self._others[tag]

    @config.setter
    def config(self, config: Any) -> None:
        self._english = config
        self._others.clear()

    def _said_in(self, tag: str) -> dict[str, Any]:
        with speaking(tag), gr.Blocks(analytics_enabled=False) as again:
            again.default_config.blocks = _MadeHere()
            self._make(again)
        said: Any = again.get_config_file()
        components = zip(self._english["components"], said["components"], strict=True)
        dependencies = zip(self._english["dependencies"], said["dependencies"], strict=True)
        return {
            **self._english,
            "components": [{**ours, "props": theirs["props"]} for ours, theirs in components],
            "dependencies": [{**ours, "js": theirs["js"]} for ours, theirs in dependencies],
        }
