"""Requests that no browser sends, and connections that never come to an end: the app answers others, and tells no secret."""

import contextlib
import http.client
import socket
import time
import urllib.parse
from collections import Counter

from benchmarks.server.modes import Mode, Row
from tests.odd_requests import odd_requests, send
from tests.spellings import SECRET

CONFIG = b'"dependencies":'  # of Gradio's own description of the page, which stands in the page alone
OPEN_AT_ONCE = 300
SECONDS_TO_ANSWER_OTHERS = 30.0


def requests(mode: Mode) -> Row:
    """Each of the list: no answer of 5xx, no hidden byte, and an end."""
    cookie = mode.headers.get("Cookie", "")
    picture = f"/gradio_api/file={urllib.parse.quote((mode.data_dir / 'runs/r1/samples/000000-0.png').as_posix())}"
    asked = odd_requests(urllib.parse.urlsplit(mode.address).netloc, cookie, picture)
    wrong, statuses = list[str](), Counter[int]()
    for name, request in asked.items():
        status, answer = send(mode.address, request)
        statuses[status] += 1
        is_page = request.startswith((b"GET / ", b"GET http"))
        if status < 0 or status >= 500 or SECRET in answer or (CONFIG in answer and not is_page):
            wrong.append(f"{name}: {status}")
    return {
        "mode": mode.name,
        "what": "a request that no browser sends",
        "count": len(asked),
        "wrong": len(wrong),
        "broken": sum(number for status, number in statuses.items() if status >= 500),
        "statuses": dict(statuses),
        "faults": wrong,
    }


def connections(mode: Mode) -> Row:
    """Heads and bodies that begin and do not go on, while somebody else opens the page; bodies are given up after a while."""
    host = urllib.parse.urlsplit(mode.address)
    head = f"Host: {host.netloc}\r\nCookie: {mode.headers.get('Cookie', '')}\r\n"
    form = f"POST /photos HTTP/1.1\r\n{head}Content-Length: 1000000\r\n"
    form += "Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    beginnings = (b"", b"GET / HT", f"GET / HTTP/1.1\r\n{head}X: ".encode(), form.encode())
    wrong = 0
    with contextlib.ExitStack() as stack:
        wires = []
        for number in range(OPEN_AT_ONCE):
            wire = stack.enter_context(socket.create_connection((host.hostname or "", host.port or 80), timeout=100))
            wire.sendall(beginnings[number % len(beginnings)])
            wires.append(wire)
        began = time.monotonic()
        other = http.client.HTTPConnection(host.netloc, timeout=SECONDS_TO_ANSWER_OTHERS)
        other.request("GET", "/pulse", headers=mode.headers)
        wrong += other.getresponse().status != 200
        other.close()
        for wire in wires[3::4]:  # the bodies
            with contextlib.suppress(OSError):
                answer = wire.recv(1000)
                wrong += b" 408 " not in answer.split(b"\r\n")[0]
        seconds = time.monotonic() - began
    return {
        "mode": mode.name,
        "what": f"connections that never end, at once; bodies given up within {seconds:.0f} s",
        "count": OPEN_AT_ONCE,
        "wrong": wrong,
        "broken": 0,
    }
