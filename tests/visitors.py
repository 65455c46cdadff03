"""Visitors of a Space: clients with a cookie of their own, and the odd cookie headers that browsers send."""

from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from ui.serving.guard import Guard
from ui.serving.routes import routes
from ui.serving.tenants import COOKIE, VisitorTenants, Workspace

TOKEN = "0123456789abcdef" * 2
OTHER = "f" * 32
# Cookie headers as they come, with {} for a visitor's own; and whether that one is understood.
ODD_COOKIES: dict[str, tuple[list[str], bool]] = {
    "alone": (["apt-visitor={}"], True),
    "quoted": (['apt-visitor="{}"'], True),
    "beside a quoted one": (['theme="dark; mode"; apt-visitor={}'], True),
    "beside JSON": (['consent={{"a":[1,2],"b":"c d"}}; apt-visitor={}'], True),
    "beside JSON with quotes": (['{{"a":"b"}}=1; apt-visitor={}; x="'], True),
    "beside unicode": (["name=J\u00f6rg \u00df; apt-visitor={}"], True),
    "with attributes of RFC 2109": (['$Version=1; apt-visitor={}; $Path="/"'], True),
    "beside one without =": (["flag; apt-visitor={}; another"], True),
    "beside odd names": (["a[b]=1; c(d)=2; e@f:g=3; ;; =x; apt-visitor={}"], True),
    "with spaces": (["  a = 1 ;apt-visitor = {} ;  "], True),
    "with brackets and commas": (["a=1,2,3; b=[x]; apt-visitor={}"], True),
    "of two headers, second": (["a=1", "apt-visitor={}"], True),
    "of two headers, first": (["apt-visitor={}", "a=1"], True),
    "twice": (["apt-visitor={}; apt-visitor={}"], True),
    "after a made-up one": (["apt-visitor=nonsense; apt-visitor={}"], True),
    "before another": (["apt-visitor={}; apt-visitor=" + OTHER], True),
    "before another header": (["apt-visitor={}", "apt-visitor=" + OTHER], True),
    "after a very long one": (["long=" + "x" * 30_000 + "; apt-visitor={}"], True),
    "beside a password's": (["access-token-1=abc; apt-visitor={}; access-token-unsecure-1=abc"], True),
    "separated by a comma": (["a=1, apt-visitor={}"], False),
    "of another case": (["Apt-Visitor={}"], False),
    "too long": (["apt-visitor={}0"], False),
    "cut in two": (["apt-visitor={}".replace("{}", "{};")], True),
    "empty": ([""], False),
    "none": ([], False),
    "only others": (["a=1; b=2", "c"], False),
    "only =": (["=; ==; ="], False),
}


def visitor(page: Starlette) -> TestClient:
    return TestClient(page, base_url="https://me-apt.hf.space")


def workspace_of(client: TestClient, tenants: VisitorTenants) -> Workspace:
    return tenants.find({"cookie": f"{COOKIE}={client.cookies[COOKIE]}"})


def bring(client: TestClient, path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return client.post("/photos", files={"file": (path.name, file)}).json()


def page_of(tenants: Any, data_dir: Path) -> Starlette:
    async def take(request: Request) -> Response:
        return JSONResponse({"size": len(await request.body())})

    async def sign_in(request: Request) -> Response:
        return JSONResponse({}, 200 if (await request.body()) == b"right" else 400)

    own = routes(tenants, data_dir / "cache")
    page = Starlette(
        routes=[
            *own,
            Route("/gradio_api/queue/join", take, methods=["POST"]),
            Route("/login", sign_in, methods=["POST"]),
        ],
        middleware=[Middleware(Guard, tenants=tenants, is_public=True)],
    )
    vars(page)["auth"] = None
    return page
