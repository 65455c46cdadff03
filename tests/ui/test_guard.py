"""The page answers only to itself, and each answer says what a browser may do with it."""

from pathlib import Path

import pytest
from gradio.route_utils import FnIndexInferError
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient, WebSocketDenialResponse

from apt_engine.jobs.queue import JobQueue
from apt_engine.jobs.worker import Worker
from apt_engine.runs.store import RunStore
from ui.serving.guard import LARGEST_ORDER, ORDER_ROUTES, Guard, guard_comes_first
from ui.serving.pages import PAGES_REMEMBERED, Pages
from ui.serving.tenants import SingleTenant, Tenants, VisitorTenants

OWN = {"sec-fetch-site": "same-origin", "sec-fetch-mode": "cors"}
LINK = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}


def client(data_dir: Path, *, is_public: bool = False, tenants: Tenants | None = None) -> TestClient:
    """The guard, before something that answers everything."""
    routes = [Route("/{path:path}", lambda request: PlainTextResponse("in"), methods=["GET", "POST", "OPTIONS"])]
    guard = Middleware(Guard, tenants=tenants or SingleTenant(data_dir), is_public=is_public)
    return TestClient(Starlette(routes=routes, middleware=[guard]), base_url="http://127.0.0.1:7860")


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "localhost", "[::1]:7860", "LOCALHOST:9000"])
def test_this_machine_may_enter_by_its_own_names(tmp_path: Path, host: str) -> None:
    assert client(tmp_path).get("/", headers={"host": host}).text == "in"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example:7860", "localhost@evil.example", "[", ""])
def test_another_name_for_this_machine_is_refused(tmp_path: Path, host: str) -> None:
    reply = client(tmp_path).get("/", headers={"host": host})
    assert reply.status_code == 403
    assert "answers only as localhost" in reply.text


def test_with_listen_any_name_may_enter(tmp_path: Path) -> None:
    assert client(tmp_path, is_public=True).get("/", headers={"host": "studio.local"}).text == "in"


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:3000", "null", "http://[", "", "://"])
@pytest.mark.parametrize("is_public", [False, True])
@pytest.mark.parametrize(("method", "path"), [("POST", "/gradio_api/upload"), ("GET", "/pulse"), ("GET", "/")])
def test_another_page_may_neither_give_orders_nor_ask(
    tmp_path: Path, origin: str, is_public: bool, method: str, path: str
) -> None:
    reply = client(tmp_path, is_public=is_public).request(method, path, headers={"origin": origin})
    assert reply.status_code == 403
    assert "takes no orders" in reply.text


@pytest.mark.parametrize("headers", [{"origin": "http://127.0.0.1:7860"}, {}])
def test_the_page_itself_and_programs_may(tmp_path: Path, headers: dict[str, str]) -> None:
    assert client(tmp_path).post("/gradio_api/upload", headers=headers).text == "in"


@pytest.mark.parametrize(
    ("headers", "path", "passes"),
    [
        (OWN, "/pulse", True),
        (OWN, "/", True),
        ({"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}, "/export/r1/zip", True),  # typed into the bar
        (LINK, "/", True),
        (LINK, "/export/r1/zip", False),
        (LINK, "/gradio_api/file=/d/generated/1/01.png", False),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, "/", False),  # a picture, a script
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, "/pulse", False),
        ({"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}, "/pulse", False),  # another port of this machine
        ({"sec-fetch-site": "cross-site"}, "/", False),
    ],
)
def test_a_link_of_another_site_opens_the_page_and_nothing_else(
    tmp_path: Path, headers: dict[str, str], path: str, passes: bool
) -> None:
    assert client(tmp_path).get(path, headers=headers).status_code == (200 if passes else 403)


@pytest.mark.parametrize("path", ["/", "/pulse", "/monitoring", "/gradio_api/proxy=http://x/"])
@pytest.mark.parametrize("origin", ["http://127.0.0.1:7860", "http://evil.example"])
def test_every_answer_says_what_a_browser_may_do_with_it(tmp_path: Path, path: str, origin: str) -> None:
    headers = client(tmp_path).get(path, headers={"origin": origin}).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["connect-src"] == policy["base-uri"] == policy["form-action"] == "'self'"
    assert policy["object-src"] == policy["frame-ancestors"] == "'none'"
    assert not any("http" in rule or "*" in rule for rule in policy.values())


def test_a_space_may_stand_in_a_frame_of_the_hub_and_of_nobody_else(data_dir: Path) -> None:
    tenants = VisitorTenants(data_dir, JobQueue(Worker(RunStore(data_dir))))
    policy = client(data_dir, is_public=True, tenants=tenants).get("/").headers["content-security-policy"]
    assert policy.endswith("frame-ancestors https://huggingface.co https://*.hf.space")
    tenants.close()


@pytest.mark.parametrize(
    ("path", "media_type"),
    [
        ("/assets/index-1.js", "text/javascript; charset=utf-8"),
        ("/assets/Index-1.css", "text/css; charset=utf-8"),
        ("/static/img/logo.svg", "image/svg+xml"),
        ("/theme.css", "text/plain; charset=utf-8"),  # left as it came
    ],
)
def test_scripts_and_styles_have_their_types_whatever_the_system_thinks(
    tmp_path: Path, path: str, media_type: str
) -> None:
    assert client(tmp_path).get(path).headers["content-type"] == media_type


def test_a_websocket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WebSocketDenialResponse) as refused, client(tmp_path, is_public=True).websocket_connect("/"):
        pass
    assert refused.value.status_code == 404
    assert refused.value.headers["x-content-type-options"] == "nosniff"


def test_the_guard_stands_before_what_was_added_after_it(tmp_path: Path) -> None:
    """Gradio's CORS middleware answers a preflight itself, and lets any origin in where the host is not this machine."""
    from gradio.route_utils import CustomCORSMiddleware

    guard = Middleware(Guard, tenants=SingleTenant(tmp_path), is_public=True)
    app = Starlette(middleware=[guard], lifespan=guard_comes_first)
    app.add_middleware(CustomCORSMiddleware, strict_cors=True)
    preflight = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    with TestClient(app, base_url="https://me-apt.hf.space") as browser:
        reply = browser.options("/gradio_api/queue/join", headers=preflight)
    assert reply.status_code == 403
    assert "access-control-allow-origin" not in reply.headers


@pytest.mark.parametrize(
    "error",
    [KeyError(99999), TypeError("half a letter"), ValueError("NaN"), FnIndexInferError()],
    ids=lambda error: type(error).__name__,
)
def test_an_event_that_does_not_exist_is_a_sentence_with_all_that_an_answer_says(
    tmp_path: Path, error: Exception
) -> None:
    def look_up(_: Request) -> Response:
        raise error

    paths = *sorted(ORDER_ROUTES), "/photos"
    guard = Middleware(Guard, tenants=SingleTenant(tmp_path), is_public=False)
    page = Starlette(routes=[Route(path, look_up, methods=["POST"]) for path in paths], middleware=[guard])
    browser = TestClient(page, base_url="http://127.0.0.1:7860")
    for path in ORDER_ROUTES:
        reply = browser.post(path)
        assert (reply.status_code, reply.headers["x-content-type-options"]) == (404, "nosniff")
        assert "load it again" in reply.text
    with pytest.raises(type(error)):
        browser.post("/photos")


def test_an_order_whose_values_cannot_be_used_is_its_senders_mistake(tmp_path: Path) -> None:
    """As Gradio answers one that is handled at once; where the page itself fails that is still told as it is."""
    routes = [
        Route("/gradio_api/run/predict", lambda _: PlainTextResponse("no", 500), methods=["POST"]),
        Route("/photos", lambda _: PlainTextResponse("no", 500), methods=["POST"]),
    ]
    guard = Middleware(Guard, tenants=SingleTenant(tmp_path), is_public=False)
    browser = TestClient(Starlette(routes=routes, middleware=[guard]), base_url="http://127.0.0.1:7860")
    assert [browser.post(path).status_code for path in ("/gradio_api/run/predict", "/photos")] == [400, 500]


def test_a_page_belongs_to_the_visitor_who_used_its_name_first(data_dir: Path) -> None:
    async def echo(request: Request) -> Response:
        return Response(await request.body())

    tenants = VisitorTenants(data_dir, JobQueue(Worker(RunStore(data_dir))))
    guard = Middleware(Guard, tenants=tenants, is_public=True)
    routes = [Route("/{path:path}", echo, methods=["GET", "POST"])]
    app = Starlette(routes=routes, middleware=[guard])
    ada, bob, nobody = (TestClient(app, base_url="https://me-apt.hf.space") for _ in range(3))
    order = {"session_hash": "adas", "fn_index": 1, "data": ["x" * 300_000], "event_id": "e"}
    assert ada.post("/gradio_api/queue/join", json=order).json() == order
    watched = ("/gradio_api/queue/data?session_hash=adas", "/gradio_api/heartbeat/adas")
    for path in watched:
        assert ada.get(path).status_code == 200
    for stranger in (bob, nobody):
        nobody.cookies.clear()
        for path in (*watched, "/gradio_api/queue/data?session_hash=own&session_hash=adas"):
            assert stranger.get(path).status_code == 403
        for path in ORDER_ROUTES:
            reply = stranger.post(path, json=order)
            assert (reply.status_code, "another visitor's" in reply.text) == (403, True)
    assert bob.post("/gradio_api/queue/join", json={**order, "session_hash": "bobs"}).status_code == 200
    for odd in (b"", b"{", b"[" * 100_000, b"[]", b'{"session_hash": 5}', b'{"session_hash": NaN}'):
        assert bob.post("/gradio_api/cancel", content=odd).content == odd
    assert bob.post("/gradio_api/cancel", content=b"x" * (LARGEST_ORDER + 1)).status_code == 413
    tenants.close()


def test_no_number_and_no_length_of_pages_names_fills_the_memory() -> None:
    pages = Pages()
    for number in range(PAGES_REMEMBERED + 5):
        assert pages.are_of("ada", [f"{number}{'x' * 1000}"])
    assert len(pages._visitors) == PAGES_REMEMBERED
    assert max(len(key) for key in pages._visitors) == 32
    assert not pages.are_of("bob", [f"{PAGES_REMEMBERED}{'x' * 1000}"])
