"""Parts of the page that live in the browser: an HTML component with a script of ours from `assets/`."""

from collections.abc import Callable, Collection
from typing import Any

import gradio as gr
from gradio.blocks import Block

from ui.context import ASSETS_DIR

GENERATE = (ASSETS_DIR / "generate.js").read_text(encoding="utf-8").partition("\n")[2]


def scripted(name: str, value: Any, **options: Any) -> gr.HTML:
    """A component whose value is data; `assets/<name>.js` draws it inside `.<name>-root` and may change it.

    Args:
        name: of the script.
        value: what JSON can say.
        options: of gr.HTML, and props for the script.
    """
    script = "".join((ASSETS_DIR / file).read_text(encoding="utf-8") for file in ("dom.js", f"{name}.js"))
    return gr.HTML(
        value, html_template=f'<div class="{name}-root"></div>', js_on_load=script, apply_default_css=False, **options
    )


def settle(event: Callable[..., Any], function: Callable[..., Any], inputs: Any, outputs: Collection[Block]) -> None:
    """Wire an event that changes what Generate would draw with; a press meanwhile waits for it, see `assets/generate.js`."""
    event(
        None, None, None, js='() => { document.dispatchEvent(new Event("choice-begins")); }', api_visibility="private"
    )
    event(function, inputs, list(outputs), show_progress="hidden", api_visibility="private").then(
        None, None, None, js='() => { document.dispatchEvent(new Event("choice-ends")); }', api_visibility="private"
    )
