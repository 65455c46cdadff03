"""A page as a browser opens it: the page itself, the connection that says it is open, its first events, and later a button."""

import contextlib
import http.client
import json
import secrets
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.server.modes import Mode

SECONDS = 300.0  # on a machine that does other things as well


@dataclass(frozen=True)
class Visit:
    """An open page.

    Attributes:
        config: what Gradio writes into the page about it.
        session: name of its session.
    """

    mode: Mode
    wire: http.client.HTTPConnection
    config: dict[str, Any]
    session: str

    def settle(self, kind: str, elem_id: str = "") -> list[Any]:
        """Let all events of a kind happen, of the page or of one component; what the server answered to each.

        Raises:
            AssertionError: there is none, or one is refused.
        """
        components = {one["id"]: one for one in self.config["components"]}
        targets = [number for number, one in components.items() if one["props"].get("elem_id") == elem_id and elem_id]
        events = [
            event
            for event in self.config["dependencies"]
            if event["backend_fn"] and any(on == kind and (not elem_id or of in targets) for of, on in event["targets"])
        ]
        assert events, f"there is no {kind} of {elem_id or 'the page'}"
        waiting = {self._join(event, components) for event in events}
        answers = []
        self.wire.request("GET", f"/gradio_api/queue/data?session_hash={self.session}", headers=self.mode.headers)
        stream = self.wire.getresponse()
        while waiting:
            line = stream.readline()
            assert line, "the stream ended"
            told = json.loads(line[5:]) if line.startswith(b"data:") else {}
            if told.get("msg") == "process_completed":
                assert told["success"], told
                waiting.discard(told["event_id"])
                answers.append(told["output"])
        stream.read()
        return answers

    def _join(self, event: dict[str, Any], components: dict[int, Any]) -> str:
        values = [components[number]["props"].get("value") for number in event["inputs"]]
        order = {"data": values, "fn_index": event["id"], "session_hash": self.session, "event_data": None}
        headers = {**self.mode.headers, "Content-Type": "application/json"}
        self.wire.request("POST", "/gradio_api/queue/join", json.dumps(order), headers)
        reply = self.wire.getresponse()
        body = reply.read()
        assert reply.status == 200, body
        return str(json.loads(body)["event_id"])


@contextlib.contextmanager
def visiting(mode: Mode, config: dict[str, Any]) -> Iterator[Visit]:
    """A page that is open inside, after its first events.

    Args:
        mode: the app.
        config: of its page, see `Mode.config`.
    """
    netloc, session = urllib.parse.urlsplit(mode.address).netloc, secrets.token_hex(6)
    with (
        contextlib.closing(http.client.HTTPConnection(netloc, timeout=SECONDS)) as wire,
        contextlib.closing(http.client.HTTPConnection(netloc, timeout=SECONDS)) as heart,
    ):
        wire.request("GET", "/", headers=mode.headers)
        wire.getresponse().read()
        heart.request("GET", f"/gradio_api/heartbeat/{session}", headers=mode.headers)
        with contextlib.closing(heart.getresponse()) as beats:
            beats.readline()
            visit = Visit(mode, wire, config, session)
            visit.settle("load")
            yield visit
