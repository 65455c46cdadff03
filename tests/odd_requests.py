"""Requests that no browser sends, byte by byte: lies about lengths, endless heads, odd methods and spellings of known routes."""

import itertools
import socket
from urllib.parse import urlsplit

LONGEST_ANSWER = 20_000_000  # bytes
SECONDS_FOR_AN_ANSWER, SECONDS_TO_HANG_UP = 20.0, 60.0  # on a machine that does other things as well
FORM = "Content-Type: multipart/form-data; boundary=b\r\n"
PART = '--b\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}\r\n'
ONE_FILE = PART.format(name="file", more='; filename="a.png"', value="x")
END = "--b--\r\n"
WHOLE = ONE_FILE + END
SPELLINGS = (  # of what is there: it may answer as itself, or not at all
    *(
        "//pulse",
        "/./pulse",
        "/%2e/pulse",
        "/pulse/.",
        "/pulse%2f",
        "/%70ulse",
        "/pulse;x",
        "/pulse%00",
        "\\pulse",
        "/pulse?run=%00",
    ),
    *(
        "/log/..;/pulse",
        "/log/%2e%2e/pulse",
        "/assets/../config",
        "/assets/%2e%2e/config",
        "/assets//../config",
        "/assets/..%2fconfig",
    ),
    *(
        "/static/..%5c..%5cconfig",
        "/gradio_api//config",
        "/gradio_api/%2e%2e/config",
        "/gradio_api/heartbeat/../../config",
    ),
    *(
        "/gradio_api/heartbeat/%2e%2e%2f%2e%2e%2fconfig",
        "/export/..%2f..%2fr1/zip",
        "/export/%2e%2e/zip",
        "/export//zip",
        "/export/r1/%7aip%00",
    ),
    *(
        "/gradio_api/upload_progress?upload_id=../../x",
        "/gradio_api/queue/data?session_hash=../../x%00",
        "/config#/pulse",
        "/%2e%2e/%2e%2e/etc/passwd",
    ),
)
ODD_METHODS = ("HEAD", "OPTIONS", "TRACE", "CONNECT", "PROPFIND", "get", "GE T", "PRI", "G" * 5000)
RANGES = (
    *(
        "bytes=0-0",
        "bytes=-1",
        "bytes=5-2",
        "bytes=99999999-",
        "bytes=0-99999999999999999999",
        "bytes=" + "9" * 5000 + "-",
        "lines=0-1",
    ),
    *(
        "bytes=0-0,1-1,2-2",
        "bytes=" + ",".join(["0-"] * 3000),
        "bytes=" + ",".join(f"{at}-{at}" for at in range(3000)),
        "bytes=-",
        "bytes=a-b",
    ),
)
LENGTHS = ("-1", "+5", "0x10", "5, 5", "5, 6", "1e3", "99999999999999999999999", "", " ", "5\r\nContent-Length: 6")
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
LINES = {
    "an address in place of a path": "GET http://example.org/etc/passwd",
    "a star": "OPTIONS *",
    "no path": "GET",
    "a path of 1 MB": f"GET /{'a' * 1_000_000}",
    "a query of 50 kB": f"GET /pulse?{'run=a&' * 8000}",
}
OTHER_VERSIONS = {
    "no host": "GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
    "HTTP/0.9": "GET /pulse\r\n\r\n",
    "HTTP/3.7": "GET /pulse HTTP/3.7\r\nHost: {host}\r\n\r\n",
}
NO_HTTP = {
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(50),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "zeros": bytes(70_000),
}
HEADS = {
    "two hosts": "Host: evil.example\r\n",
    "a head of 1 MB": f"X: {'x' * 1_000_000}\r\n",
    "20,000 heads": "".join(f"X{number}: y\r\n" for number in range(20_000)),
    "a cookie of 60 kB": f"Cookie: {'a=b; ' * 12_000}\r\n",
    "a folded head": "X: a\r\n b\r\n",
    "a head with a line break": "X: a\rb\nc\r\n",
    "a head without a colon": "nonsense\r\n",
}
ENCODINGS = {  # of a body, and what comes for one
    "both lengths": (
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "0\r\n\r\nGET /config HTTP/1.1\r\n\r\n",
    ),
    "an odd encoding": ("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
    "a chunk that lies": ("Transfer-Encoding: chunked\r\n", "ffffffffffffffffff\r\nx"),
    "more than was said": ("Content-Length: 9\r\n", WHOLE),
}
LOG_IN = "Content-Type: application/x-www-form-urlencoded\r\n"
JSON = "Content-Type: application/json\r\n"
ORDERS = {
    "an order that is no JSON": ("/gradio_api/queue/join", "{"),
    "an order of 100,000 brackets": ("/gradio_api/queue/join", "[" * 100_000),
    "an order of large numbers": ("/gradio_api/queue/join", '{"fn_index": 1e999, "data": [' + "9" * 5000 + "]}"),
    "an order of NaN": ("/gradio_api/queue/join", '{"fn_index": NaN, "data": [], "session_hash": 5}'),
    **{
        f"NaN to {route}": (route, '{"session_hash": NaN, "event_id": 1e999}')
        for route in ("/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/run/predict")
    },
    "an order without an event": ("/gradio_api/run/predict", '{"data": []}'),
    **{
        f"an order of {name}": (
            "/gradio_api/run/predict",
            f'{{"data": [{", ".join([value] * 9)}], "fn_index": 0, "session_hash": "a"}}',
        )
        for name, value in {"nothings": "null", "half letters": '"\\ud800"', "lists": "[[]]"}.items()
    },
}


class _Sender:
    """Writes requests to one host with one visitor's cookie."""

    def __init__(self, host: str, cookie: str) -> None:
        self._head = f"Host: {host}\r\n" + (f"Cookie: {cookie}\r\n" if cookie else "") + "Connection: close\r\n"

    def plain(self, line: str, head: str = "", body: str = "") -> bytes:
        return f"{line} HTTP/1.1\r\n{self._head}{head}\r\n{body}".encode("latin-1")

    def sized(self, line: str, head: str, body: str) -> bytes:
        return self.plain(line, f"{head}Content-Length: {len(body)}\r\n", body)


def odd_requests(host: str, cookie: str, picture: str) -> dict[str, bytes]:
    """Each by its name.

    Args:
        host: what the Host header says.
        cookie: header of a visitor; may be empty.
        picture: route of a file that may be seen.
    """
    sender = _Sender(host, cookie)
    routes = ("/", "/pulse", "/photos", "/login", "/gradio_api/queue/join", picture)
    return {
        **{f"spelled {path}": sender.plain(f"GET {path}") for path in SPELLINGS},
        **{f"{way[:20]} {path}": sender.plain(f"{way} {path}") for way, path in itertools.product(ODD_METHODS, routes)},
        **{f"range {ranges[:40]}": sender.plain(f"GET {picture}", f"Range: {ranges}\r\n") for ranges in RANGES},
        **{
            f"length {length!r}": sender.plain("POST /photos", f"{FORM}Content-Length: {length}\r\n", WHOLE)
            for length in LENGTHS
        },
        **{f"websocket {path}": sender.plain(f"GET {path}", UPGRADE) for path in (*routes, "/gradio_api/queue/data")},
        **{name: sender.plain(line) for name, line in LINES.items()},
        **{name: request.format(host=host).encode() for name, request in OTHER_VERSIONS.items()},
        **NO_HTTP,
        **{name: sender.plain("GET /pulse", head) for name, head in HEADS.items()},
        **{name: sender.plain("POST /photos", FORM + head, body) for name, (head, body) in ENCODINGS.items()},
        **{name: sender.sized("POST /photos", head, body) for name, (head, body) in _forms().items()},
        "a log-in of 10^6 names": sender.sized("POST /login", LOG_IN, "&".join(["a="] * 600_000)),
        **{name: sender.sized(f"POST {route}", JSON, body) for name, (route, body) in ORDERS.items()},
    }


def _forms() -> dict[str, tuple[str, str]]:
    """By their names, the type and the body of what is no photo."""
    many = "".join(PART.format(name=f"n{number}", more="", value="") for number in range(20_000)) + END
    long_name = PART.format(name="n" * 1_000_000, more="", value="") + END
    return {
        "an empty form": (FORM, ""),
        "a form of no parts": (FORM, END),
        "a form without a boundary": ("Content-Type: multipart/form-data\r\n", WHOLE),
        "a form of another boundary": ("Content-Type: multipart/form-data; boundary=c\r\n", WHOLE),
        **{
            f"a form in {charset}": (f"{FORM.strip()}; charset={charset}\r\n", WHOLE)
            for charset in ("undefined", "punycode", "idna", "utf-16", "zip", "unicode_escape")
        },
        "a boundary of 50 kB": (f"Content-Type: multipart/form-data; boundary={'b' * 50_000}\r\n", WHOLE),
        "a form of 20,000 names": (FORM, many),
        "a form of 50 files": (FORM, ONE_FILE * 50 + END),
        "a name of 1 MB": (FORM, long_name),
        "a part's head of 1 MB": (FORM, f"--b\r\nX: {'x' * 1_000_000}\r\n\r\n\r\n{END}"),
        "a form that is not closed": (FORM, WHOLE[:-10]),
    }


def send(address: str, request: bytes, seconds: float = SECONDS_FOR_AN_ANSWER) -> tuple[int, bytes]:
    """The status of the answer and all of it; 0 where it was cut off without one, -1 where it did not end.

    Where nothing comes for `seconds`, as after half a head, we hang up, and the server has to end it, too.
    """
    parts, answer = urlsplit(address), b""
    with socket.create_connection((parts.hostname or "", parts.port or 80), timeout=seconds) as wire:
        try:
            wire.sendall(request)
        except OSError:  # it has read enough, and may have answered
            pass
        for last in (False, True):
            try:
                while len(answer) < LONGEST_ANSWER and (piece := wire.recv(65_536)):
                    answer += piece
                break
            except TimeoutError:
                if last:
                    return -1, answer
                wire.shutdown(socket.SHUT_WR)
                wire.settimeout(SECONDS_TO_HANG_UP)
            except OSError:
                break
    status = answer.split(b" ", 2)[1:2]
    return (int(status[0]) if status and status[0].isdigit() else 0), answer
