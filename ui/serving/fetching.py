"""Gradio is told to fetch nothing: a page may name an address in place of the file it uploaded, and the app would ask there."""

from typing import NoReturn

from gradio import Error, processing_utils

from ui.words import say


async def refuse(*_: object, **__: object) -> NoReturn:
    """In place of a download.

    Raises:
        gr.Error: always.
    """
    raise Error(say("Files are taken from this computer only, and not from an address."), print_exception=False)


def fetch_nothing() -> None:
    """From now on. What is not awaited is only called while a page is built, and ours names no address."""
    processing_utils.async_ssrf_protected_download = refuse
    processing_utils.async_ssrf_protected_get = refuse
