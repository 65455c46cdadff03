"""How the page is served: at which port, to whom, and with which of Gradio's options."""

import contextlib
import secrets
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware

from apt_engine.errors import EngineError
from ui.context import AppContext
from ui.serving.fetching import fetch_nothing
from ui.serving.guard import Guard, guard_comes_first
from ui.serving.languages import Languages
from ui.serving.routes import routes
from ui.serving.sessions import SESSIONS_KEPT, keep_little
from ui.theme import STYLE_SHEET, build_theme

USER_NAME = "apt"
SHORTEST_PASSWORD = 12
FIRST_PORT, PORTS_TRIED = 7860, 20


class LaunchError(EngineError):
    """The page cannot be served like this."""


def choose_credentials(password: str, *, is_open: bool) -> tuple[str, str] | None:
    """User name and password that the page asks for, 128 random bits unless given; None where only this computer reaches it.

    Raises:
        LaunchError: other computers are let in, and the password is too short.
    """
    if not is_open:
        return None
    if password and len(password) < SHORTEST_PASSWORD:
        raise LaunchError(
            f"--listen lets other computers in, and a password of {len(password)} characters is soon guessed; "
            f"take {SHORTEST_PASSWORD} or more, or leave it out to be given one."
        )
    return USER_NAME, password or secrets.token_urlsafe(16)


def find_port(host: str, wanted: int | None) -> int:
    """A free port: the wanted one, or else the first from FIRST_PORT on.

    Raises:
        LaunchError: there is none.
    """
    ports = [wanted] if wanted else range(FIRST_PORT, FIRST_PORT + PORTS_TRIED)
    port = next((port for port in ports if _is_free(host, port)), None)
    if port is None:
        raise LaunchError(f"Port {ports[0]} is taken or not allowed; choose another with --port.")
    return port


def launch_options(
    context: AppContext, data_dir: Path, auth: tuple[str, str] | None, *, by_link: bool = False
) -> dict[str, Any]:
    """How the page is served: nothing from the net, and only the routes and files that it needs.

    Args:
        context: what the page is made of.
        data_dir: holds the cache.
        auth: user name and password, None where none is asked for.
        by_link: whether a link with the password as its token signs in as well.
    """
    is_public = auth is not None or context.tenants.is_shared
    guard = Middleware(Guard, tenants=context.tenants, is_public=is_public, link=auth if by_link else None)
    languages = Middleware(Languages, is_framed=context.tenants.is_shared)
    own_routes = routes(context.tenants, data_dir / "cache")
    return {
        "theme": build_theme(),
        "css_paths": STYLE_SHEET,
        "footer_links": [],
        "app_kwargs": {"middleware": [guard, languages], "routes": own_routes, "lifespan": lifespan},
        "ssr_mode": False,
        "state_session_capacity": SESSIONS_KEPT,
        "run_history": False,
        "share": False,
        # Gradio asks its page once whether it answers, and gives up after 3 s: too few on a computer that is busy.
        "_frontend": False,
        "quiet": True,
        "prevent_thread_lock": True,
    }


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    """Before Gradio's app answers anything: what it keeps of its pages and may fetch, and who is asked first."""
    keep_little(app)
    fetch_nothing()
    async with guard_comes_first(app):
        yield


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError):
            return False
    return True
