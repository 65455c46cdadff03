"""The link that `--listen` prints: whoever opens it is signed in, and sent on to an address that no longer tells its token."""

import secrets
import socket
from typing import Any
from urllib.parse import parse_qs, urlencode

from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import Scope

from ui.serving.allowed import PAGE_ROUTE, route_path
from ui.words import later, say

PARAMETER = "token"
# The address with the token may neither be kept by a proxy nor be told to the next page.
PRIVATE = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
WRONG = later("This link is not the one that APT Studio printed when it was last started; open that one.")


def link_to(port: int, token: str) -> str:
    """The address that signs a computer of the same network in."""
    return f"http://{own_address()}:{port}{PAGE_ROUTE}?{urlencode({PARAMETER: token})}"


def own_address() -> str:
    """By which others of the network reach this computer, or `localhost` where there is no network. Sends nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of the addresses that belong to nobody; this only chooses the way there
            return str(probe.getsockname()[0])
        except OSError:
            return "localhost"


def is_link(scope: Scope) -> bool:
    """Whether a request comes by such a link, whatever its token."""
    is_page = scope.get("method") == "GET" and route_path(scope) == PAGE_ROUTE
    return is_page and PARAMETER in _query(scope)


def has_token(scope: Scope, token: str) -> bool:
    """Whether the link holds exactly this token; compared in a time that tells nothing about it."""
    given = _query(scope).get(PARAMETER, [])
    return len(given) == 1 and bool(token) and secrets.compare_digest(given[0].encode(), token.encode())


def sign_in(scope: Scope, user: str) -> Response:
    """A session as Gradio's own log-in makes it, and the way to the page without the token."""
    app: Any = scope["app"]
    session = secrets.token_urlsafe(16)
    app.tokens[session] = user
    response = RedirectResponse(f"{scope.get('root_path', '')}{PAGE_ROUTE}", status_code=303, headers=PRIVATE)
    # Lax: a link in a message is opened from another site, and the page after it must have the cookie already.
    response.set_cookie(f"access-token-unsecure-{app.cookie_id}", session, httponly=True, samesite="lax")
    return response


def refuse() -> Response:
    """The answer to a wrong token."""
    return PlainTextResponse(say(WRONG), status_code=403, headers=PRIVATE)


def _query(scope: Scope) -> dict[str, list[str]]:
    """Names and values of the query; a text with too many of them has none."""
    try:
        return parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True, max_num_fields=20)
    except ValueError:
        return {}
