"""Whose an open page is, on a Space: its name, which its browser made up, belongs to the visitor who used it first.

Gradio knows a page by that name alone. Whoever learnt another's would read what is told to it, and give orders in its place.
"""

import hashlib
import json
from collections import OrderedDict
from urllib.parse import parse_qs

from starlette.types import Message, Receive, Scope

from ui.serving.allowed import route_path

PAGES_REMEMBERED = 10_000
TOLD_ROUTE, ALIVE_ROUTE = "/gradio_api/queue/data", "/gradio_api/heartbeat/"
NAME = "session_hash"


class Pages:
    """The visitors of the last PAGES_REMEMBERED pages."""

    def __init__(self) -> None:
        self._visitors: OrderedDict[bytes, str] = OrderedDict()

    def are_of(self, visitor: str, pages: list[str]) -> bool:
        """Whether all of these pages are this visitor's; one that nobody has used is from now on."""
        return all(self._is_of(visitor, page) for page in pages)

    def _is_of(self, visitor: str, page: str) -> bool:
        key = hashlib.sha256(page.encode(errors="replace")).digest()  # a name may be very long
        owner = self._visitors.setdefault(key, visitor)
        self._visitors.move_to_end(key)
        if len(self._visitors) > PAGES_REMEMBERED:
            self._visitors.popitem(last=False)
        return owner == visitor


def pages_asked(scope: Scope) -> list[str]:
    """The pages that the address of a request names."""
    path = route_path(scope)
    if path.startswith(ALIVE_ROUTE):
        return [path.removeprefix(ALIVE_ROUTE)]
    query = scope.get("query_string", b"").decode("latin-1")
    return parse_qs(query, keep_blank_values=True).get(NAME, []) if path == TOLD_ROUTE else []


async def pages_ordered(receive: Receive) -> tuple[list[str], Receive]:
    """The page that an order is of, none where it is no order; and its body for whoever reads it next."""
    body, message = b"", await receive()
    while message["type"] == "http.request":
        body += message.get("body", b"")
        if not message.get("more_body", False):
            break
        message = await receive()
    left: list[Message] = [{"type": "http.request", "body": body}]
    if message["type"] != "http.request":  # its sender has gone
        left = [message]

    async def again() -> Message:
        return left.pop() if left else await receive()

    try:
        order = json.loads(body)
    except (ValueError, RecursionError):
        return [], again
    page = order.get(NAME) if isinstance(order, dict) else None
    return [page] if isinstance(page, str) else [], again
