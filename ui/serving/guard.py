"""Closes what Gradio leaves open: other names for this machine, requests of other sites, routes and files the page needs not.

A page on the net can make a browser talk to 127.0.0.1, by a name that it points there (DNS rebinding), by a form, a picture or a
link. What it must never do is to read an answer, to give an order, or to run a script of its own as this page.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

from gradio.route_utils import FnIndexInferError
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui.serving.allowed import PAGE_ROUTE, PULSE_ROUTE, UPLOAD_ROUTE, asset_type, is_route, route_path
from ui.serving.link import has_token, is_link, refuse, sign_in
from ui.serving.logins import Logins
from ui.serving.pages import Pages, pages_asked, pages_ordered
from ui.serving.tenants import COOKIE, Tenants, new_token, set_cookie, split_cookies
from ui.words import language_of, say, speaking

LOGIN_ROUTE = "/login"
UPLOAD_ROUTES = frozenset({UPLOAD_ROUTE, "/photos"})
ORDER_ROUTES = frozenset(
    {"/gradio_api/queue/join", "/gradio_api/run/predict", "/gradio_api/cancel", "/gradio_api/reset"}
)
LARGEST_UPLOAD, LARGEST_ORDER = 101_000_000, 2_000_000  # bytes: a photo and its frame; an event with a form's values
SECONDS_TO_BEGIN, SLOWEST_BODY = 60.0, 20_000  # bytes a second, after the first minute
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
RENEWING_ROUTES = frozenset({PAGE_ROUTE, PULSE_ROUTE})  # an open page asks for the pulse as long as it is open
# Gradio writes its config and our scripts into the page and compiles the latter: script-src cannot be stricter.
CONTENT_POLICY = {
    "default-src": "'self'",
    "script-src": "'self' 'unsafe-inline' 'unsafe-eval'",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "connect-src": "'self'",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
}
SPACE_FRAMES = "https://huggingface.co https://*.hf.space"


class Guard:
    """ASGI middleware that refuses a request before Gradio sees it, and says in each answer what a browser may do with it."""

    def __init__(self, app: ASGIApp, tenants: Tenants, is_public: bool, link: tuple[str, str] | None = None) -> None:
        """Set what may pass.

        Args:
            app: what comes behind.
            tenants: who has which workspace.
            is_public: whether other machines may reach the page, by names we cannot know.
            link: the user whom a link signs in, and its token; None where there is none.
        """
        self._app = app
        self._tenants = tenants
        self._is_public = is_public
        self._link = link
        self._logins = Logins()
        self._pages = Pages()
        policy = CONTENT_POLICY | {"frame-ancestors": SPACE_FRAMES if tenants.is_shared else "'none'"}
        self._headers = {
            "Content-Security-Policy": "; ".join(f"{name} {value}" for name, value in policy.items()),
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        with speaking(language_of(Headers(scope=scope))):
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, cookie = route_path(scope), ""
        refusal = self._refusal(scope.get("method", ""), path, Headers(scope=scope))
        receive = _limited(receive, LARGEST_UPLOAD if path in UPLOAD_ROUTES else LARGEST_ORDER)
        if self._tenants.is_shared and not refusal:
            scope, cookie, visitor = _as_visitor(scope, is_renewed=path in RENEWING_ROUTES)
            refusal, receive = await self._another_visitors_page(scope, receive, visitor)

        async def answer(message: Message) -> None:
            if message["type"].endswith("response.start"):  # of http, and of a refused websocket
                message.setdefault("headers", [])
                media_type = asset_type(path) if message["status"] in (200, 206) else None
                self._complete(MutableHeaders(scope=message), media_type, cookie)
                if path == LOGIN_ROUTE and message["status"] == 200:
                    self._logins.succeed(_address(scope))
                if path in ORDER_ROUTES and message["status"] == 500:  # Gradio's for values that no page of ours sends
                    message["status"] = 400
            await send(message)

        comes_by_link = self._link is not None and is_link(scope)
        refusal = refusal or (self._too_fast(scope) if path == LOGIN_ROUTE or comes_by_link else None)
        if refusal:
            sentence, status = refusal
            await PlainTextResponse(sentence, status_code=status)(scope, receive, answer)
        elif self._link and comes_by_link:
            await self._follow(scope, self._link)(scope, receive, answer)
        else:
            try:
                await self._app(scope, receive, answer)
            except (KeyError, TypeError, ValueError, FnIndexInferError) as error:
                sentence, status = _misread(path, error)
                await PlainTextResponse(sentence, status_code=status)(scope, receive, answer)

    def _refusal(self, method: str, path: str, headers: Headers) -> tuple[str, int] | None:
        """Why a request may not pass, as a sentence and a status; None when it may. A websocket has no method."""
        host = headers.get("host", "")
        if not self._is_public and _name_of(host) not in LOOPBACK_NAMES:
            name = host or say("nothing")
            return say(
                "APT Studio answers only as localhost, not as {name}; open http://localhost instead.", name=name
            ), 403
        if _is_of_another_site(path, headers):
            site = headers.get("origin") or say("another site")
            return say("APT Studio takes no orders from {site}; use its own page.", site=site), 403
        if not is_route(method, path):
            return say("There is nothing here; open the page itself."), 404
        if self._tenants.is_shared and path == UPLOAD_ROUTE:
            return say("Photos come in by the page's own route; files of other kinds are not taken here."), 403
        return None

    async def _another_visitors_page(
        self, scope: Scope, receive: Receive, visitor: str
    ) -> tuple[tuple[str, int] | None, Receive]:
        """Why a visitor may not ask for the page that a request names, if so; and what is left to receive."""
        try:
            is_order = route_path(scope) in ORDER_ROUTES
            pages, receive = await pages_ordered(receive) if is_order else (pages_asked(scope), receive)
        except HTTPException as error:  # it is too long, or too slow
            return (error.detail, error.status_code), receive
        if self._pages.are_of(visitor, pages):
            return None, receive
        return (say("This page is another visitor's; load your own."), 403), receive

    def _too_fast(self, scope: Scope) -> tuple[str, int] | None:
        """Why a log-in is not looked at yet."""
        seconds = self._logins.wait(_address(scope))
        if not seconds:
            return None
        return say("Too many wrong tries to sign in; try again in {seconds} seconds.", seconds=math.ceil(seconds)), 429

    def _follow(self, scope: Scope, link: tuple[str, str]) -> Response:
        """The answer to a link: its user is signed in, or it was a wrong try."""
        user, token = link
        if not has_token(scope, token):
            return refuse()
        self._logins.succeed(_address(scope))
        return sign_in(scope, user)

    def _complete(self, headers: MutableHeaders, media_type: str | None, cookie: str) -> None:
        is_private = headers.get("referrer-policy") == "no-referrer"  # the answer to a link
        headers.update(self._headers | ({"Referrer-Policy": "no-referrer"} if is_private else {}))
        if media_type:
            headers["content-type"] = media_type
        if cookie:
            headers.append("set-cookie", cookie)


@contextlib.asynccontextmanager
async def guard_comes_first(app: Starlette) -> AsyncIterator[None]:
    """The lifespan of the app. Gradio adds its CORS answers before all middleware it is given, so they are put in order here."""
    app.user_middleware.sort(key=lambda middleware: middleware.cls is not Guard)
    app.middleware_stack = app.build_middleware_stack()
    yield


def _limited(receive: Receive, most: int) -> Receive:
    """The body of a request, counted as it comes: a chunked one does not say its length before, and some never end."""
    taken, begun, is_whole = 0, 0.0, False

    async def take() -> Message:
        nonlocal taken, begun, is_whole
        begun = begun or time.monotonic()
        left = begun + SECONDS_TO_BEGIN + taken / SLOWEST_BODY - time.monotonic()
        try:
            message = await asyncio.wait_for(receive(), None if is_whole else max(0.0, left))
        except TimeoutError as error:
            raise HTTPException(408, say("This comes too slowly; try again over a faster connection.")) from error
        is_whole = not message.get("more_body", False)
        taken += len(message.get("body", b""))
        if taken > most:
            sentence = say("More than {most} MB at once are not taken; bring a smaller file.", most=most // 1_000_000)
            raise HTTPException(413, sentence)
        return message

    return take


def _misread(path: str, error: Exception) -> tuple[str, int]:
    """What to say of a request that could not be read, as a sentence and a status; any other error is our own.

    Gradio looks an event up before it answers: a page that was open over an update asks for those of before. And it cannot write
    what it says of an order with NaN or half a letter in it. A form may name an encoding for its names that none can be in.
    """
    if path in ORDER_ROUTES:
        return say("This page is of another version of the app; load it again."), 404
    if path in UPLOAD_ROUTES and isinstance(error, UnicodeError):
        return say("The name of this file cannot be read; give it another."), 400
    raise error


def _address(scope: Scope) -> str:
    client = scope.get("client")
    return str(client[0]) if client else ""


def _is_of_another_site(path: str, headers: Headers) -> bool:
    """Whether another site's page asks. All it may do is to link to the page, or on a Space to frame it."""
    origin = headers.get("origin")
    if origin is not None and origin.partition("://")[2].lower() != headers.get("host", "").lower():
        return True
    is_opened = path == PAGE_ROUTE and headers.get("sec-fetch-mode") == "navigate"
    return headers.get("sec-fetch-site", "none") not in ("none", "same-origin") and not is_opened


def _as_visitor(scope: Scope, *, is_renewed: bool) -> tuple[Scope, str, str]:
    """The request with exactly one visitor's cookie, a new one if it had none; the Set-Cookie that is needed; and the token."""
    known, others = split_cookies("; ".join(Headers(scope=scope).getlist("cookie")))
    token = known or new_token()
    cookies = "; ".join([*others, f"{COOKIE}={token}"])
    headers = [(name, value) for name, value in scope["headers"] if name != b"cookie"]
    scope = {**scope, "headers": [*headers, (b"cookie", cookies.encode("latin-1"))]}
    return scope, set_cookie(token) if is_renewed or not known else "", token


def _name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
