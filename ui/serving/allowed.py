"""What may be asked for at all: the routes that the page needs, and the files that it shows. Anything else does not exist.

Names are compared with the path that the router sees, decoded once: another spelling of a route is another name, hence refused.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from starlette.types import Scope

PAGE_ROUTE = "/"
PULSE_ROUTE = "/pulse"
UPLOAD_ROUTE = "/gradio_api/upload"
FILE_ROUTE = "/gradio_api/file="

ASSET_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
}
FILE_TYPES = {
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".safetensors": "application/octet-stream",
    ".webp": "image/webp",
}
OWN_FILES = re.compile(r"(generated|uploads|runs/[^/]+/(samples|exports|photos|views))/.+")
CACHED_FILES = re.compile(r"[^/]+/[^/]+")

_ASSET = re.compile(rf"/(assets|static)(/\w[\w.-]*)+({'|'.join(map(re.escape, ASSET_TYPES))})", re.ASCII)
_ROUTES = tuple(
    (frozenset(methods.split()), re.compile(pattern, re.ASCII))
    for methods, pattern in (
        ("GET HEAD", PAGE_ROUTE),
        ("GET", _ASSET.pattern),
        ("GET", r"/(favicon\.ico|manifest\.json|theme\.css)"),
        ("POST", r"/login"),
        # Gradio asks the first of its own page when it starts; the browser asks the second after the connection broke.
        ("GET", r"/gradio_api/(startup-events|app_id)"),
        ("GET", r"/gradio_api/(heartbeat/\w+|queue/data|upload_progress)"),
        ("POST", r"/gradio_api/(queue/join|run/predict|cancel|reset)"),
        ("POST", UPLOAD_ROUTE),
        ("GET HEAD", rf"{FILE_ROUTE}.+"),
        ("POST", r"/photos"),
        ("GET", r"/export/[^/]+/[a-z-]+"),
        ("GET", r"/pictures"),
        ("GET", PULSE_ROUTE),
        ("GET", r"/log"),
    )
)


def route_path(scope: Scope) -> str:
    """The path that the router compares with its routes: what a proxy put before it is taken off, as Starlette does."""
    path, prefix = scope["path"], scope.get("root_path", "")
    return path[len(prefix) :] if prefix and path.startswith(f"{prefix}/") else path


def is_route(method: str, path: str) -> bool:
    """Whether the page needs a route, written exactly like this."""
    return any(method in methods and pattern.fullmatch(path) for methods, pattern in _ROUTES)


def asset_type(path: str) -> str | None:
    """The media type of a file that comes with Gradio; None for other routes. The system's own table may be wrong."""
    return ASSET_TYPES[Path(path).suffix] if _ASSET.fullmatch(path) else None


def find_file(asked: str, folders: Mapping[Path, re.Pattern[str]]) -> tuple[Path, str] | None:
    """The real file behind a path, and its media type; None unless the page may show it.

    Args:
        asked: absolute, in the one spelling that `Path.as_posix` gives.
        folders: where it may lie, and what its path below that folder must look like.
    """
    path = Path(asked)
    media_type = FILE_TYPES.get(path.suffix.lower())
    # As written first: to look at a path like //server/share would already be a request to that server.
    above = [folder for folder in folders if path.is_relative_to(folder)]
    if not (media_type and above) or path.as_posix() != asked or ".." in path.parts:
        return None
    try:
        path = path.resolve(strict=True)
        is_below = any(_lies_below(path, folder.resolve(), folders[folder]) for folder in above)
        return (path, media_type) if is_below and path.is_file() else None
    except (OSError, RuntimeError, ValueError):  # not there, a loop of links, a NUL in the name
        return None


def _lies_below(path: Path, folder: Path, pattern: re.Pattern[str]) -> bool:
    return path.is_relative_to(folder) and bool(pattern.fullmatch(path.relative_to(folder).as_posix()))
