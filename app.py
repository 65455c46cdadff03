"""APT Studio: `python app.py`. Serves the page on this computer; the engine is a child process that the page starts."""

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio is imported: it calls out otherwise

from apt_engine.errors import EngineError
from apt_engine.jobs.leaving import SECONDS_BETWEEN_LOOKS, heard
from apt_engine.runs.store import default_data_dir
from ui.context import open_context
from ui.launch import FIRST_PORT, choose_credentials, find_port, launch_options
from ui.layout import build_app
from ui.serving.link import link_to
from ui.serving.memory import give_memory_back
from ui.serving.tenants import is_space, open_tenants


def main(arguments: list[str] | None = None) -> int:
    """Start the app and stay until Ctrl-C or another signal to end; returns the exit code."""
    options = _parser().parse_args(arguments)
    give_memory_back()
    host = "0.0.0.0" if options.listen or is_space() else "127.0.0.1"
    data_dir: Path = options.data_dir.resolve()
    try:
        auth = choose_credentials(options.password, is_open=options.listen)
        port = find_port(host, options.port)
        context = open_context(open_tenants(data_dir))
    except EngineError as error:
        print(f"APT Studio: {error}", file=sys.stderr)
        return 1
    os.environ["GRADIO_TEMP_DIR"] = str(data_dir / "cache")
    # Whoever tunnels to this computer could call themselves by a new address at each try to sign in; uvicorn believes that.
    os.environ.setdefault("FORWARDED_ALLOW_IPS", "")
    page = build_app(context)
    served = launch_options(context, data_dir, auth, by_link=not options.password)
    is_over = False

    def end(_: object) -> None:
        nonlocal is_over
        is_over = True

    with contextlib.suppress(KeyboardInterrupt), heard(end):  # which is a second Ctrl-C
        try:
            page.launch(server_name=host, server_port=port, inbrowser=options.browser, auth=auth, **served)
            print(f"APT Studio runs at http://localhost:{port} - Ctrl-C ends it.", flush=True)
            if auth and not options.password:
                print(f"Other computers open {link_to(port, auth[1])}", flush=True)
                print(f"or sign in as {auth[0]} with what follows token= as the password.", flush=True)
            while not is_over:
                time.sleep(SECONDS_BETWEEN_LOOKS)
        finally:
            context.tenants.close()
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Teach an image model one thing from a few photos.")
    parser.add_argument("--port", type=int, help=f"default {FIRST_PORT}, or the next free one")
    parser.add_argument(
        "--listen", action="store_true", help="let other computers in, by a link that is printed, or with --password"
    )
    parser.add_argument(
        "--password",
        default=os.environ.get("APT_STUDIO_PASSWORD", ""),
        help="for --listen: user apt signs in with it, 12 characters or more; without it a link with a token is printed",
    )
    parser.add_argument("--data-dir", type=Path, default=default_data_dir(), help="where runs live (%(default)s)")
    parser.add_argument("--no-browser", dest="browser", action="store_false", help="do not open the browser")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
