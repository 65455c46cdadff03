"""A hub on 127.0.0.1 that serves a folder as `owner/model`, and breaks as it is told to."""

import base64
import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

NAME = "owner/model"
COMMIT = "0" * 39 + "1"


@dataclass
class FakeHub:
    """What is served, how it breaks, and what was asked for.

    Attributes:
        folder: of the model.
        name: of the model.
        status: answered to every request for the model, with the hub's own error code; 0 serves it.
        silent: requests whose path has this are never answered.
        cuts: so many answers with a body that has this in its path end in the middle.
        asked: paths of requests.
        token: of the last request.
        made: what the last repository was made with.
        stored: large files that came, by their hash.
        taken: files of the last commit, by their names.
        sent: bytes of bodies by file.
        tokens: what each request gave as its right to ask.
    """

    folder: Path
    status: int = 0
    code: str = ""
    silent: str = ""
    cut: str = ""
    cuts: int = 0
    slow: float = 0.0
    asked: list[str] = field(default_factory=list)
    token: str = ""
    made: dict[str, object] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    taken: dict[str, bytes] = field(default_factory=dict)
    sent: dict[str, int] = field(default_factory=dict)
    tokens: list[str] = field(default_factory=list)
    address: str = ""
    name: str = NAME

    def files(self) -> dict[str, Path]:
        """By their names in the repository."""
        return {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*") if path.is_file()}


@contextlib.contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """The hub at `hub.address` inside."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def do_POST(self) -> None:
        self._take(self.rfile.read(int(self.headers.get("Content-Length") or 0)))

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.stored[self.path.rsplit("/", 1)[1]] = body
        self._send(200, b"", {}, has_body=True)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, *, has_body: bool) -> None:
        path, name = unquote(urlsplit(self.path).path), self.hub.name
        self.hub.asked.append(f"{self.command} {path}")
        self.hub.tokens.append(self.headers.get("Authorization", ""))
        if self.hub.silent and self.hub.silent in path:
            time.sleep(120)
        if self.hub.status:
            self._send(self.hub.status, b"{}", {"X-Error-Code": self.hub.code} if self.hub.code else {}, has_body)
        elif path == f"/api/models/{name}" or path.startswith(f"/api/models/{name}/revision/"):
            siblings = [
                {"rfilename": file_name, "size": file.stat().st_size} for file_name, file in self.hub.files().items()
            ]
            self._send(200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode(), {}, has_body)
        elif path.startswith(f"/api/models/{name}/tree/"):
            rows = [
                {"type": "file", "path": file_name, "size": file.stat().st_size, "oid": _etag(file)}
                for file_name, file in self.hub.files().items()
            ]
            self._send(200, json.dumps(rows).encode(), {}, has_body)
        elif path.startswith(f"/{name}/resolve/{COMMIT}/"):
            self._send_file(path.removeprefix(f"/{name}/resolve/{COMMIT}/"), has_body)
        else:
            self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"}, has_body)

    def _take(self, body: bytes) -> None:
        """Files that are sent to the hub: named, then large ones by themselves, then a commit."""
        path = unquote(urlsplit(self.path).path)
        self.hub.asked.append(f"POST {path}")
        self.hub.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if self.hub.status:
            return self._send(self.hub.status, b"{}", {"X-Error-Code": self.hub.code} if self.hub.code else {}, True)
        answer: dict[str, object] = {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            self.hub.made = json.loads(body)
            answer = {"url": f"{self.hub.address}/{NAME}"}
        elif "/preupload/" in path:
            answer = {"files": [_upload_of(file["path"]) for file in json.loads(body)["files"]]}
        elif path.endswith("/lfs/objects/batch"):
            objects = [
                {**known, "actions": {"upload": {"href": f"{self.hub.address}/large/{known['oid']}"}}}
                for known in json.loads(body)["objects"]
            ]
            answer = {"transfer": "basic", "objects": objects}
        elif "/commit/" in path:
            lines = [json.loads(line)["value"] for line in body.splitlines() if b'"summary"' not in line]
            self.hub.taken = {
                line["path"]: base64.b64decode(line["content"]) if "content" in line else self.hub.stored[line["oid"]]
                for line in lines
            }
            answer = {
                "success": True,
                "commitOid": COMMIT,
                "commitUrl": f"{self.hub.address}/{NAME}/commit/{COMMIT}",
                "hookOutput": "",
            }
        return self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, True)

    def _send_file(self, name: str, has_body: bool) -> None:
        file = self.hub.files().get(name)
        if file is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, has_body)
        body = file.read_bytes()
        start = int(self.headers["Range"].split("=")[1].split("-")[0]) if "Range" in self.headers else 0
        headers = {"ETag": f'"{_etag(file)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        return self._send(206 if start else 200, body[start:], headers, has_body, name)

    def _send(self, status: int, body: bytes, headers: dict[str, str], has_body: bool, name: str = "") -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if not has_body:
            return
        if name and self.hub.cut and self.hub.cut in name and self.hub.cuts:
            self.hub.cuts -= 1
            body = body[: len(body) // 2]
            self.close_connection = True
        for start in range(0, len(body), 4096):
            self.wfile.write(body[start : start + 4096])
            self.hub.sent[name] = self.hub.sent.get(name, 0) + len(body[start : start + 4096])
            time.sleep(self.hub.slow)


def _upload_of(name: str) -> dict[str, object]:
    kind = "lfs" if name.endswith(".safetensors") else "regular"
    return {"path": name, "uploadMode": kind, "shouldIgnore": False}


def _etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes(), usedforsecurity=False).hexdigest()
