"""The app as it is started: on this computer, for others with a password, on a Space."""

import contextlib
import http.client
import json
import re
import subprocess
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.spellings import stored
from tools.browser import serving
from ui.serving.tenants import COOKIE

PASSWORD = "s3cret-of-twelve"
NAMES = ("local", "--listen", "Space")
Row = dict[str, Any]
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


@dataclass
class Mode:
    """A running app, and how it is asked.

    Attributes:
        headers: sent with each request, such as the cookie of who has signed in.
    """

    name: str
    data_dir: Path
    address: str
    process: "subprocess.Popen[bytes]"
    wire: http.client.HTTPConnection
    headers: dict[str, str] = field(default_factory=dict)

    def post_photo(self, visitor: str) -> str:
        """Bring a photo as a visitor of a Space; where it lies."""
        head = '--b\r\nContent-Disposition: form-data; name="file"; filename="my cat.png"\r\nContent-Type: image/png\r\n\r\n'
        headers = {"Content-Type": "multipart/form-data; boundary=b", "Cookie": f"{COOKIE}={visitor}"}
        self.wire.request("POST", "/photos", head.encode() + PNG + b"\r\n--b--\r\n", headers)
        return str(json.loads(self.wire.getresponse().read())["path"])

    def config(self) -> dict[str, Any]:
        """What Gradio writes into the page about it."""
        self.wire.request("GET", "/", headers=self.headers)
        page = self.wire.getresponse().read().decode()
        found = re.search(r"window\.gradio_config = (\{.*?\});</script>", page, re.DOTALL)
        assert found, page[:300]
        return dict(json.loads(found[1]))


@contextlib.contextmanager
def started(name: str, folder: Path, **environment: str) -> Iterator[Mode]:
    """The app in a mode, over a data directory with something of everything."""
    data_dir = folder / name.strip("-") / "data"
    arguments = ("--listen", "--password", PASSWORD) if name == "--listen" else ()
    if name == "Space":
        environment = {**environment, "SPACE_ID": "me/apt"}
    with serving(data_dir, *arguments, **environment) as (address, process):
        stored(data_dir)
        wire = http.client.HTTPConnection(urllib.parse.urlsplit(address).netloc, timeout=60)
        mode = Mode(name, data_dir, address, process, wire)
        if name == "--listen":
            body = urllib.parse.urlencode({"username": "apt", "password": PASSWORD})
            wire.request("POST", "/login", body, {"Content-Type": "application/x-www-form-urlencoded"})
            reply = wire.getresponse()
            reply.read()
            given = [value.split(";")[0] for key, value in reply.getheaders() if key.lower() == "set-cookie"]
            mode.headers["Cookie"] = "; ".join(given)
        elif name == "Space":
            mode.headers["Cookie"] = f"{COOKIE}={'a' * 32}"
        yield mode
        wire.close()
