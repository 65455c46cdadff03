"""APT Studio: `python app.py`. Serves the page on this computer; the engine is a child process that the page starts."""

import argparse
import os
import socket
import sys
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported: it calls out otherwise

from apt_engine.errors import EngineError
from apt_engine.runs.store import default_data_dir
from ui.context import open_context
from ui.layout import build_app, launch_options
from ui.serving.tenants import is_space, open_tenants

FIRST_PORT, PORTS_TRIED = 7860, 20


def main(arguments: list[str] | None = None) -> int:
    """Start the app and stay until Ctrl-C; returns the exit code."""
    options = _parser().parse_args(arguments)
    host = "0.0.0.0" if options.listen or is_space() else "127.0.0.1"
    if options.listen and not options.password:
        return _refuse("--listen lets other computers in; add --password, or set APT_STUDIO_PASSWORD.")
    wanted = [options.port] if options.port else range(FIRST_PORT, FIRST_PORT + PORTS_TRIED)
    port = next((port for port in wanted if _is_free(host, port)), None)
    if port is None:
        return _refuse(f"Port {wanted[0]} is taken or not allowed; choose another with --port.")
    try:
        data_dir = options.data_dir.resolve()
        tenants = open_tenants(data_dir)
        context = open_context(tenants)
    except EngineError as error:
        return _refuse(str(error))
    os.environ["GRADIO_TEMP_DIR"] = str(data_dir / "cache")
    page = build_app(context)
    try:
        auth = ("apt", options.password) if options.listen else None
        page.launch(
            server_name=host,
            server_port=port,
            inbrowser=options.browser,
            auth=auth,
            **launch_options(context, data_dir, auth),
        )
        print(f"APT Studio runs at http://localhost:{port} - Ctrl-C ends it.", flush=True)
        page.block_thread()
    finally:
        tenants.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Teach an image model one thing from a few photos.")
    parser.add_argument("--port", type=int, help=f"default {FIRST_PORT}, or the next free one")
    parser.add_argument(
        "--listen", action="store_true", help="let other computers in (user name apt); needs a password"
    )
    parser.add_argument("--password", default=os.environ.get("APT_STUDIO_PASSWORD", ""), help="for --listen")
    parser.add_argument("--data-dir", type=Path, default=default_data_dir(), help="where runs live (%(default)s)")
    parser.add_argument("--no-browser", dest="browser", action="store_false", help="do not open the browser")
    return parser


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError):
            return False
    return True


def _refuse(sentence: str) -> int:
    print(f"APT Studio: {sentence}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    raise SystemExit(main())
