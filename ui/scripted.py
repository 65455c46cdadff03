"""Parts of the page that live in the browser: an HTML component with a script of ours from `assets/`."""

import json
import re
from collections.abc import Callable, Collection
from typing import Any

import gradio as gr
from gradio.blocks import Block

from ui.context import ASSETS_DIR
from ui.words import words_of

SAID = re.compile(r'\bsay\("((?:[^"\\]|\\.)+)"')


def scripted(name: str, value: Any, **options: Any) -> gr.HTML:
    """A component whose value is data; `assets/<name>.js` draws it inside `.<name>-root` and may change it.

    Args:
        name: of the script.
        value: what JSON can say.
        options: of gr.HTML, and props for the script.
    """
    script = _speaking(_read("words.js") + _read("dom.js") + _read(f"{name}.js"))
    return gr.HTML(
        value, html_template=f'<div class="{name}-root"></div>', js_on_load=script, apply_default_css=False, **options
    )


def generate_script() -> str:
    """What the page does when it is opened, see `assets/generate.js`."""
    opening, _, rest = _read("generate.js").partition("() => {")
    del opening
    return "() => {" + _speaking(_read("words.js") + rest)


def said_in(script: str) -> list[str]:
    """The sentences that a script says."""
    return [json.loads(f'"{sentence}"') for sentence in SAID.findall(script)]


def _read(file: str) -> str:
    return (ASSETS_DIR / file).read_text(encoding="utf-8")


def _speaking(script: str) -> str:
    """A script that begins with `assets/words.js`, knowing what it says in the language that is spoken."""
    return f"const WORDS = {json.dumps(words_of(said_in(script)), ensure_ascii=False)};\n{script}"


def settle(event: Callable[..., Any], function: Callable[..., Any], inputs: Any, outputs: Collection[Block]) -> None:
    """Wire an event that changes what Generate would draw with; a press meanwhile waits for it, see `assets/generate.js`."""
    event(
        None, None, None, js='() => { document.dispatchEvent(new Event("choice-begins")); }', api_visibility="private"
    )
    event(function, inputs, list(outputs), show_progress="hidden", api_visibility="private").then(
        None, None, None, js='() => { document.dispatchEvent(new Event("choice-ends")); }', api_visibility="private"
    )
