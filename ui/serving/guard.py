"""Closes what Gradio leaves open: other names for this machine, requests from other sites, and files that are no pictures.

A page on the net can make a browser talk to 127.0.0.1, by a name that it points there (DNS rebinding) or by a plain form post.
"""

import re
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.serving.tenants import COOKIE, Places, new_token, set_cookie, split_cookies

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
SERVED = re.compile(r"generated/.+|uploads/.+|runs/[^/]+/(samples|exports|photos|views)/.+")
RENEWING_ROUTES = frozenset({"/", "/pulse"})  # an open page asks for the pulse as long as it is open
UPLOAD_ROUTE = re.compile(r"/upload/?$")
FILE_ROUTE = re.compile(r".*?/file[=/](.+)", re.DOTALL)


class Guard:
    """ASGI middleware that refuses a request before Gradio sees it."""

    def __init__(self, app: ASGIApp, data_dir: Path, places: Places, is_public: bool) -> None:
        """Set what may pass.

        Args:
            app: what comes behind.
            data_dir: of it, pictures and LoRA files of the visitor's own place are served, nothing else.
            places: whose place is whose.
            is_public: whether other machines may reach the page, by names we cannot know.
        """
        self._app = app
        self._data_dir = data_dir.resolve()
        self._places = places
        self._is_public = is_public

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        cookie = ""
        if self._places.is_shared:
            scope, cookie = _as_visitor(scope, is_renewed=scope["path"] in RENEWING_ROUTES)

        async def answer(message: Message) -> None:
            if cookie and message["type"] == "http.response.start":
                message.setdefault("headers", [])
                MutableHeaders(scope=message).append("set-cookie", cookie)
            await send(message)

        refusal = self.refusal(scope["path"], Headers(scope=scope), is_reading=scope.get("method") in ("GET", "HEAD"))
        if refusal:
            await PlainTextResponse(refusal, status_code=403)(scope, receive, answer)
            return
        await self._app(scope, receive, answer)

    def refusal(self, path: str, headers: Headers, *, is_reading: bool) -> str:
        """Why a request may not pass, as a sentence; empty when it may."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._is_public and _name_of(host) not in LOOPBACK_NAMES:
            return f"APT Studio answers only as localhost, not as {host or 'nothing'}; open http://localhost instead."
        if not is_reading and origin is not None and urlsplit(origin).netloc != host:
            return f"APT Studio takes no orders from the page {origin}; use its own page."
        if self._places.is_shared and UPLOAD_ROUTE.search(path):
            return "Photos come in by the page's own route; files of other kinds are not taken here."
        asked = FILE_ROUTE.fullmatch(path)
        if asked and not self._may_serve(Path(asked[1]), headers):
            return "APT Studio serves pictures and LoRA files only."
        return ""

    def _may_serve(self, path: Path, headers: Headers) -> bool:
        """Gradio itself guards what lies outside the data directory."""
        path = path.resolve()
        if not path.is_relative_to(self._data_dir) or path.is_relative_to(self._data_dir / "cache"):
            return (
                True  # Gradio's cache holds the page's own pictures, and nothing of a visitor's where places are shared
            )
        own = self._places.of(headers).store.data_dir.resolve()
        return path.is_relative_to(own) and bool(SERVED.fullmatch(path.relative_to(own).as_posix()))


def _as_visitor(scope: Scope, *, is_renewed: bool) -> tuple[Scope, str]:
    """The request with exactly one visitor's cookie, a new one if it had none; and the Set-Cookie that the browser needs."""
    known, others = split_cookies("; ".join(Headers(scope=scope).getlist("cookie")))
    token = known or new_token()
    cookies = "; ".join([*others, f"{COOKIE}={token}"])
    headers = [(name, value) for name, value in scope["headers"] if name != b"cookie"]
    scope = {**scope, "headers": [*headers, (b"cookie", cookies.encode("latin-1"))]}
    return scope, set_cookie(token) if is_renewed or not known else ""


def _name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
