"""Lets each request know the language of who sent it, keeps the one they chose, and says in the page's HTML which it is."""

import json
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.serving.allowed import PAGE_ROUTE, route_path
from ui.words import COOKIE, known_language, language_of, speaking

DAYS_KEPT = 365
HTML_BEGINS = b'<html\n\tlang="en"'
HEAD_BEGINS = b"<head>"


class Languages:
    """ASGI middleware: `?lang=de` chooses a language, which a cookie keeps; without either it is the browser's.

    Args:
        app: what comes behind.
        is_framed: whether the page stands in a frame of another site, as a Space's does; its cookies need to say so.
    """

    def __init__(self, app: ASGIApp, is_framed: bool) -> None:
        self._app = app
        self._kept = f"; Path=/; Max-Age={DAYS_KEPT * 86_400}; " + (
            "Secure; SameSite=None; Partitioned" if is_framed else "SameSite=Lax"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        is_page = route_path(scope) == PAGE_ROUTE
        wanted = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("lang", [""])[0] if is_page else ""
        chosen = known_language(wanted)
        tag = chosen or language_of(Headers(scope=scope))
        start: Message = {}

        async def answer(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
                headers = MutableHeaders(scope=start)
                if chosen:
                    headers.append("set-cookie", f"{COOKIE}={chosen}{self._kept}")
                headers.add_vary_header("Accept-Language, Cookie")
            elif start:  # the first part of the body, which for the page is all of it
                body = _marked(message.get("body", b""), tag)
                MutableHeaders(scope=start)["content-length"] = str(len(body))
                await send(start)
                await send({**message, "body": body})
                start = {}
            else:
                await send(message)

        with speaking(tag):
            await self._app(scope, receive, answer if is_page else send)


def _marked(html: bytes, tag: str) -> bytes:
    """The page with its language in it; Gradio's own words follow what the browser says is its language."""
    script = f"Object.defineProperty(navigator, 'language', {{ get: () => {json.dumps(tag)} }});"
    marked = html.replace(HTML_BEGINS, f'<html\n\tlang="{tag}"'.encode(), 1)
    return marked.replace(HEAD_BEGINS, HEAD_BEGINS + f"<script>{script}</script>".encode(), 1)
