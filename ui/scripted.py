"""Parts of the page that live in the browser: an HTML component with a script of ours from `assets/`."""

from typing import Any

import gradio as gr

from ui.context import ASSETS_DIR


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
