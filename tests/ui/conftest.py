"""A Space without Gradio, for the tests of who reaches what; the Generate tab and the whole page, built."""

from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse
from starlette.routing import Route

from apt_engine.jobs.queue import JobQueue
from apt_engine.jobs.worker import Worker
from apt_engine.runs.store import RunStore
from ui import picture_view
from ui.context import AppContext
from ui.layout import PageView, build
from ui.serving.guard import Guard
from ui.serving.routes import routes
from ui.serving.tenants import VisitorTenants


@pytest.fixture
def tenants(data_dir: Path) -> Iterator[VisitorTenants]:
    tenants = VisitorTenants(data_dir, JobQueue(Worker(RunStore(data_dir))))
    yield tenants
    tenants.close()


@pytest.fixture
def page(data_dir: Path, tenants: VisitorTenants) -> Starlette:
    """The guard and the routes, before something that would serve any file, as Gradio might."""

    def serve(request: Request) -> FileResponse:
        return FileResponse("/" + request.path_params["path"])

    guard = Middleware(Guard, tenants=tenants, is_public=True)
    own = routes(tenants, data_dir / "cache")
    app = Starlette(routes=[*own, Route("/gradio_api/file={path:path}", serve)], middleware=[guard])
    vars(app)["auth"] = None  # as Gradio's own app has it where there is no password
    return app


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "my cat.png"
    Image.new("RGB", (80, 80), "red").save(path)
    return path


@pytest.fixture
def generate_view(context: AppContext) -> picture_view.GenerateView:
    with gr.Blocks(analytics_enabled=False):
        return picture_view.build(context)


@pytest.fixture
def page_view(context: AppContext) -> PageView:
    with gr.Blocks(analytics_enabled=False):
        return build(context)
