"""Requests that no browser sends, byte by byte: lies about lengths, endless heads, odd methods and spellings of known routes."""

import itertools
import socket
from urllib.parse import urlsplit

LONGEST_ANSWER = 20_000_000  # bytes
SECONDS_FOR_AN_ANSWER, SECONDS_TO_HANG_UP = 20.0, 60.0  # on a machine that does other things as well
FORM = "Content-Type: multipart/form-data; boundary=b\r\n"
PART = '--b\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}\r\n'
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


def odd_requests(host: str, cookie: str, picture: str) -> dict[str, bytes]:
    """Each by its name.

    Args:
        host: what the Host header says.
        cookie: header of a visitor; may be empty.
        picture: route of a file that may be seen.
    """
    cookies = f"Cookie: {cookie}\r\n" if cookie else ""

    def request(line: str, head: str = "", body: str = "") -> bytes:
        return f"{line} HTTP/1.1\r\nHost: {host}\r\n{cookies}Connection: close\r\n{head}\r\n{body}".encode("latin-1")

    def sized(line: str, head: str, body: str) -> bytes:
        return request(line, f"{head}Content-Length: {len(body)}\r\n", body)

    routes = ("/", "/pulse", "/photos", "/login", "/gradio_api/queue/join", picture)
    whole = PART.format(name="file", more='; filename="a.png"', value="x") + "--b--\r\n"
    found = {f"spelled {path}": request(f"GET {path}") for path in SPELLINGS}
    found |= {
        f"{method[:20]} {path}": request(f"{method} {path}") for method, path in itertools.product(ODD_METHODS, routes)
    }
    found |= {f"range {ranges[:40]}": request(f"GET {picture}", f"Range: {ranges}\r\n") for ranges in RANGES}
    found |= {
        f"length {length!r}": request("POST /photos", f"{FORM}Content-Length: {length}\r\n", whole)
        for length in LENGTHS
    }
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    upgrade += "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    found |= {f"websocket {path}": request(f"GET {path}", upgrade) for path in (*routes, "/gradio_api/queue/data")}
    many = "".join(PART.format(name=f"n{number}", more="", value="") for number in range(20_000)) + "--b--\r\n"
    files = "".join(PART.format(name="file", more='; filename="a.png"', value="x") for _ in range(50)) + "--b--\r\n"
    return found | {
        "an address in place of a path": request("GET http://example.org/etc/passwd"),
        "a star": request("OPTIONS *"),
        "no path": request("GET"),
        "no host": b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
        "two hosts": request("GET /pulse", "Host: evil.example\r\n"),
        "HTTP/0.9": b"GET /pulse\r\n\r\n",
        "HTTP/3.7": f"GET /pulse HTTP/3.7\r\nHost: {host}\r\n\r\n".encode(),
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(50),
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        "zeros": bytes(70_000),
        "a head of 1 MB": request("GET /pulse", f"X: {'x' * 1_000_000}\r\n"),
        "20,000 heads": request("GET /pulse", "".join(f"X{number}: y\r\n" for number in range(20_000))),
        "a path of 1 MB": request(f"GET /{'a' * 1_000_000}"),
        "a query of 50 kB": request(f"GET /pulse?{'run=a&' * 8000}"),
        "a cookie of 60 kB": request("GET /pulse", f"Cookie: {'a=b; ' * 12_000}\r\n"),
        "a folded head": request("GET /pulse", "X: a\r\n b\r\n"),
        "a head with a line break": request("GET /pulse", "X: a\rb\nc\r\n"),
        "a head without a colon": request("GET /pulse", "nonsense\r\n"),
        "both lengths": request(
            "POST /photos",
            f"{FORM}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "0\r\n\r\nGET /config HTTP/1.1\r\n\r\n",
        ),
        "an odd encoding": request("POST /photos", f"{FORM}Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        "a chunk that lies": request(
            "POST /photos", f"{FORM}Transfer-Encoding: chunked\r\n", "ffffffffffffffffff\r\nx"
        ),
        "more than was said": request("POST /photos", f"{FORM}Content-Length: 9\r\n", whole),
        "an empty form": sized("POST /photos", FORM, ""),
        "a form of no parts": sized("POST /photos", FORM, "--b--\r\n"),
        "a form without a boundary": sized("POST /photos", "Content-Type: multipart/form-data\r\n", whole),
        "a form of another boundary": sized("POST /photos", "Content-Type: multipart/form-data; boundary=c\r\n", whole),
        "a boundary of 50 kB": sized(
            "POST /photos", f"Content-Type: multipart/form-data; boundary={'b' * 50_000}\r\n", whole
        ),
        "a form of 20,000 names": sized("POST /photos", FORM, many),
        "a form of 50 files": sized("POST /photos", FORM, files),
        "a name of 1 MB": sized(
            "POST /photos", FORM, PART.format(name="n" * 1_000_000, more="", value="") + "--b--\r\n"
        ),
        "a part's head of 1 MB": sized("POST /photos", FORM, f"--b\r\nX: {'x' * 1_000_000}\r\n\r\n\r\n--b--\r\n"),
        "a form that is not closed": sized("POST /photos", FORM, whole[:-10]),
        "a log-in of 10^6 names": sized(
            "POST /login", "Content-Type: application/x-www-form-urlencoded\r\n", "&".join(["a="] * 600_000)
        ),
        "an order that is no JSON": sized("POST /gradio_api/queue/join", "Content-Type: application/json\r\n", "{"),
        "an order of 100,000 brackets": sized(
            "POST /gradio_api/queue/join", "Content-Type: application/json\r\n", "[" * 100_000
        ),
        "an order of large numbers": sized(
            "POST /gradio_api/queue/join",
            "Content-Type: application/json\r\n",
            '{"fn_index": 1e999, "data": [' + "9" * 5000 + "]}",
        ),
        "an order of NaN": sized(
            "POST /gradio_api/queue/join",
            "Content-Type: application/json\r\n",
            '{"fn_index": NaN, "data": [], "session_hash": 5}',
        ),
        **{
            f"NaN to {route}": sized(
                f"POST {route}", "Content-Type: application/json\r\n", '{"session_hash": NaN, "event_id": 1e999}'
            )
            for route in ("/gradio_api/cancel", "/gradio_api/reset", "/gradio_api/run/predict")
        },
        "an order without an event": sized(
            "POST /gradio_api/run/predict", "Content-Type: application/json\r\n", '{"data": []}'
        ),
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
