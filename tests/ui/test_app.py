"""Flags of app.py, and what its process is and is not: quick, alone with itself, and free of torch."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app import main
from apt_engine.jobs.worker import ROOT
from tools.browser import PATIENCE_SECONDS

# Serves the page to itself, with a run in view, and then names which of the libraries its process has loaded.
SERVE_AND_LIST = """
import app, sys, urllib.request
from pathlib import Path
import gradio as gr
from apt_engine.settings.training import TrainingConfig
from ui.context import open_context
from ui.launch import launch_options
from ui.layout import build_app
from ui.serving.tenants import SingleTenant
from ui.tabs import watch

data_dir = Path(sys.argv[1])
context = open_context(SingleTenant(data_dir))
run = context.store.create(TrainingConfig(subject="car"), lambda folder: None)
page = build_app(context)
_, address, _ = page.launch(server_name="127.0.0.1", **launch_options(context, data_dir, None))
print(urllib.request.urlopen(address).status)
with gr.Blocks(analytics_enabled=False):
    view = watch.build()
watch.open_run(view, context, run.id)
for name in ("gradio", "PIL", "torch", "diffusers", "transformers", "peft", "accelerate"):
    if name in sys.modules:
        print(name)
page.close(verbose=False)
"""


def app(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "app.py", "--no-browser", *arguments]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@contextlib.contextmanager
def started(data_dir: Path, *arguments: str) -> Iterator[str]:
    """A started app: where it answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = app("--port", str(port), "--data-dir", str(data_dir), *arguments)
    assert process.stdout
    try:
        assert f"http://localhost:{port}" in process.stdout.readline()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        assert process.wait(PATIENCE_SECONDS) == 0
        process.stdout.close()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with started(tmp_path_factory.mktemp("Ünï data")) as address:
        yield address


def fetch(url: str, **headers: str) -> str:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=PATIENCE_SECONDS) as reply:
        return reply.read().decode()


def test_a_taken_port_is_one_sentence(taken_port: int, data_dir: Path) -> None:
    process = app("--port", str(taken_port), "--data-dir", str(data_dir))
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 1
    assert len(said.splitlines()) == 1
    assert f"Port {taken_port} is taken" in said
    assert "--port" in said


def test_letting_others_in_needs_a_long_password(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--no-browser", "--listen", "--password", "s3cret"]) == 1
    (said,) = capsys.readouterr().err.splitlines()
    assert "take 12 or more" in said


def test_with_a_password_no_route_answers_before_it(data_dir: Path) -> None:
    with (
        started(data_dir, "--listen", "--password", "s3cret-of-twelve") as address,
        httpx.Client(base_url=address, timeout=PATIENCE_SECONDS) as browser,
    ):
        for route in ("/pulse?run=", "/export/r1/zip-with-photos", "/log"):
            assert browser.get(route).status_code == 401
        assert browser.post("/photos", files={"file": b"x"}).status_code == 401
        assert not (data_dir / "uploads").exists()
        assert browser.post("/login", data={"username": "apt", "password": "wrong"}).status_code == 400
        assert browser.get("/pulse?run=").status_code == 401
        assert browser.post("/login", data={"username": "apt", "password": "s3cret-of-twelve"}).status_code == 200
        assert browser.get("/pulse?run=").status_code == 200
        assert "There is no run r1" in browser.get("/export/r1/zip-with-photos").text


def test_the_served_page_names_no_other_host(address: str) -> None:
    page = fetch(address)
    loaded = re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="([^"]+)"', page)
    assert loaded
    assert [link for link in loaded if re.match(r"(https?:)?//", link)] == []
    assert "fonts.googleapis" not in page
    assert "fonts.googleapis" not in fetch(f"{address}/theme.css?v=1")


def test_another_name_for_this_machine_is_refused(address: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="403"):
        fetch(address, Host="evil.example")


def test_the_process_that_served_the_page_holds_no_model_library(data_dir: Path) -> None:
    said = subprocess.check_output([sys.executable, "-c", SERVE_AND_LIST, str(data_dir)], cwd=ROOT, encoding="utf-8")
    assert said.split() == ["200", "gradio", "PIL"]
