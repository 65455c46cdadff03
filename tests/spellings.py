"""Ways to ask a server for what it should not give: its routes, addresses elsewhere, and hidden files, in every spelling."""

import http.client
import itertools
from pathlib import Path
from urllib.parse import quote

from PIL import Image

NEEDED = {
    ("GET", "/"),
    ("HEAD", "/"),
    ("GET", "/assets/{path:path}"),
    ("GET", "/static/{path:path}"),
    ("GET", "/favicon.ico"),
    ("GET", "/manifest.json"),
    ("GET", "/theme.css"),
    ("POST", "/login"),
    ("GET", "/gradio_api/app_id"),
    ("GET", "/gradio_api/startup-events"),
    ("GET", "/gradio_api/heartbeat/{session_hash}"),
    ("GET", "/gradio_api/queue/data"),
    ("POST", "/gradio_api/queue/join"),
    ("POST", "/gradio_api/run/{api_name}"),
    ("POST", "/gradio_api/cancel"),
    ("POST", "/gradio_api/reset"),
    ("POST", "/gradio_api/upload"),
    ("GET", "/gradio_api/upload_progress"),
    ("GET", "/gradio_api/file={path:path}"),
    ("HEAD", "/gradio_api/file={path:path}"),
    ("GET", "/gradio_api/file={path_or_url:path}"),  # Gradio's own, behind ours of the same name
    ("HEAD", "/gradio_api/file={path_or_url:path}"),
    ("POST", "/photos"),
    ("GET", "/export/{run_id}/{kind}"),
    ("GET", "/pulse"),
    ("GET", "/log"),
    ("GET", "/pictures"),
}
# What Gradio has besides. A name that is not here came with a new version: look what it does, then add it, here or above.
NOT_NEEDED = (
    "/config",
    "/export/{run_id}/{kind}",
    "/log",
    "/login",
    "/logout",
    "/monitoring",
    "/monitoring/summary",
    "/monitoring/{key}",
    "/openapi.json",
    "/pictures",
    "/pulse",
    "/pwa_icon",
    "/pwa_icon/{size}",
    "/robots.txt",
    "/svelte/{path:path}",
    "/gradio_api/api/{api_name}",
    "/gradio_api/app_id",
    "/gradio_api/call/v2/{api_name}",
    "/gradio_api/call/v2/{api_name}/{event_id}",
    "/gradio_api/call/{api_name}",
    "/gradio_api/call/{api_name}/{event_id}",
    "/gradio_api/component_server",
    "/gradio_api/custom_component/{id}/{environment}/{type}/{file_name}",
    "/gradio_api/deep_link",
    "/gradio_api/dev/reload",
    "/gradio_api/file/{path:path}",
    "/gradio_api/info",
    "/gradio_api/login_check",
    "/gradio_api/openapi.json",
    "/gradio_api/process_recording",
    "/gradio_api/proxy={url_path:path}",
    "/gradio_api/queue/status",
    "/gradio_api/reset",
    "/gradio_api/run-history/buckets",
    "/gradio_api/run-history/connect",
    "/gradio_api/run-history/records",
    "/gradio_api/run-history/records/{endpoint}/{record_id}/assets/{asset_id}",
    "/gradio_api/run/{api_name}",
    "/gradio_api/runs",
    "/gradio_api/stream/{event_id}",
    "/gradio_api/stream/{event_id}/close",
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist-file",
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/playlist.m3u8",
    "/gradio_api/stream/{session_hash}/{run}/{component_id}/{segment_id}.{ext}",
    "/gradio_api/theme.css",
    "/gradio_api/token",
    "/gradio_api/undo-vibe-edit",
    "/gradio_api/user",
    "/gradio_api/vibe-code",
    "/gradio_api/vibe-edit",
    "/gradio_api/vibe-starter-queries",
)
SAMPLES = {"path": "img/logo.svg", "path_or_url": "/d/a.png", "api_name": "predict", "kind": "zip"}
SECRET = b"the secret of this test"
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")
REMOTE = "http://127.0.0.1:1/x.html"
REMOTE_SPELLINGS = [
    f"{prefix}{separator}{url}"
    for prefix, separator, url in itertools.product(
        (
            "/gradio_api/file",
            "/file",
            "/GRADIO_API/file",
            "/gradio_api/FILE",
            "//gradio_api/file",
            "/./gradio_api/file",
            "/gradio_api//file",
            "/x/../gradio_api/file",
            "/gradio_api%2Ffile",
            "/%67radio_api/file",
            "/gradio_api/%66ile",
            "/gradio_api/%2566ile",
            "/gradio_api\\file",
            "/gradio_api/file=/gradio_api/file",
            "/gradio_api/proxy",
        ),
        ("=", "/", "%3D", "%253D"),
        (
            REMOTE,
            REMOTE.upper(),
            quote(REMOTE, safe=""),
            quote(quote(REMOTE, safe=""), safe=""),
            "https://example.com/x.png",
            "http:/127.0.0.1:1/x.png",
            "//127.0.0.1:1/x.png",
            "/http://127.0.0.1:1/x.png",
            "%09http://127.0.0.1:1/x.png",
            "file:///etc/passwd",
            "data:text/html,x.png",
            "\\\\server\\share\\x.png",
        ),
    )
]


def stored(data_dir: Path) -> dict[str, bytes]:
    """A data directory with something of everything: relative paths of the files that are the page's, and their beginnings."""
    shown = {
        "runs/r1/samples/000000-0.png": b"\x89PNG",
        "runs/r1/views/000010-0.png": b"\x89PNG",
        "runs/r1/exports/lora.safetensors": b"weights",
        "runs/r1/photos/01.png": b"\x89PNG",
        "generated/20260101-000000/01.png": b"\x89PNG",
        "uploads/abc/my photo.JPG": b"\xff\xd8",
        "cache/abc/icon.jpg": b"\xff\xd8",
        "cache/abc/lora.safetensors": b"weights",
    }
    hidden = [
        "bin/r1/photos/01.png",
        "runs/r1/config.json",
        "runs/r1/checkpoints/000050/optimizer.safetensors",
        "runs/r1/samples.png",
        "engine.log",
        "uploads/abc/x.html",
        "uploads/abc/x.svg",
        "uploads/abc/x.png.html",
        "uploads/packed/r1.zip",
        "cache/abc/x.html",
        "cache/abc/deep/x.png",
        "secret.png",
    ]
    for name in [*shown, *hidden]:
        path = data_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in (".png", ".jpg"):
            Image.new("RGB", (8, 8), "teal").save(path)
        path.write_bytes((path.read_bytes() if path.exists() else b"weights") if name in shown else SECRET)
    (data_dir / "uploads/abc/link.png").symlink_to(data_dir / "secret.png")
    (data_dir / "uploads/loop.png").symlink_to("loop.png")
    (data_dir / "uploads/out").symlink_to(data_dir / "bin")
    return shown


HIDDEN = (
    "bin/r1/photos/01.png",
    "runs/r1/config.json",
    "runs/r1/checkpoints/000050/optimizer.safetensors",
    "runs/r1/samples.png",
    "runs/r1/samples",
    "engine.log",
    "uploads/abc/x.html",
    "uploads/abc/x.svg",
    "uploads/abc/x.png.html",
    "uploads/packed/r1.zip",
    "cache/abc/x.html",
    "cache/abc/deep/x.png",
    "secret.png",
    "uploads/abc/link.png",
    "uploads/loop.png",
    "uploads/out/r1/photos/01.png",
    "uploads/none.png",
    "uploads/" + "x" * 300 + ".png",
    "uploads/abc/icon.png\0.png",
    "runs/r1/samples/../config.json",
    "runs/r1/samples/../../../secret.png",
)


def spelled(path: str) -> list[str]:
    """Ways to write a path that some server or other takes for the same."""
    return [
        quote(path),
        quote(path, safe=""),
        "".join(f"%{byte:02x}" for byte in path.encode()),
        "".join(f"%25{byte:02X}" for byte in path.encode()),
        quote(path).replace("/", "//"),
        quote(path).replace("/", "/./"),
        quote(path).replace("/", "%5c"),
        quote(path).replace("/", "\\"),
        quote(path).replace("/", "/x/../"),
        quote(path).replace("/", "/%2e%2e/").replace("/%2e%2e/", "/x/%2e%2e/"),
        quote(path).replace("/", "%c0%af"),
        quote(path).replace("/", "/..;/"),
        quote(path) + "/",
        quote(path) + "%00.png",
        quote(path) + "%20",
        quote(path) + "/.png",
        quote(path) + "?x.png",
        quote(path) + ";.png",
        quote(path) + "%23.png",
        quote(path) + "%0a.png",
    ]


def ask(wire: http.client.HTTPConnection, method: str, path: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    wire.putrequest(method, path, skip_accept_encoding=True)
    for name, value in headers.items():
        wire.putheader(name, value)
    wire.endheaders()
    reply = wire.getresponse()
    return reply.status, reply.read(), {name.lower(): value for name, value in reply.getheaders()}
