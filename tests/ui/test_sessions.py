"""What stays in memory of a page that was opened."""

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio.routes import App
from gradio.state_holder import StateHolder
from starlette.testclient import TestClient

from ui.launch import lifespan
from ui.serving.sessions import EVENTS_TIMED, Sessions

LONG = "a long text " * 10_000


@pytest.fixture
def page() -> gr.Blocks:
    with gr.Blocks(analytics_enabled=False) as page:
        shown, kept = gr.HTML("", elem_id="shown"), gr.State("")
        left, renamed = gr.Number(3, label="left as it is"), gr.Dropdown(["a"], label="before")
        changes = {shown: LONG, kept: "found", left: gr.skip(), renamed: gr.Dropdown(["a", "b"], label="after")}
        page.load(lambda: changes, None, [shown, kept, left, renamed])
    return page


@pytest.fixture
def client(page: gr.Blocks) -> Iterator[TestClient]:
    page.state_session_capacity = 3
    with TestClient(App.create_app(page, app_kwargs={"lifespan": lifespan})) as client:
        yield client


def sessions_of(client: TestClient) -> StateHolder:
    app: Any = client.app
    return app.state_holder


def opened(client: TestClient, page: gr.Blocks, name: str) -> Any:
    """The session of a page after its load event."""
    sessions = sessions_of(client)
    assert client.portal
    client.portal.call(page.process_api, page.fns[0], [], sessions[name])
    return sessions[name]


def test_of_all_that_a_page_shows_nothing_is_kept_but_states_and_changed_components(
    client: TestClient, page: gr.Blocks
) -> None:
    session = opened(client, page, "one")
    assert session.config_values == {}
    assert list(session.state_data.values()) == ["found"]
    blocks, made = session.blocks_config.blocks, page.default_config.blocks
    changed = [blocks[key] for key in made if blocks[key] is not made[key]]
    assert [(block.label, block.choices) for block in changed] == [("after", [("a", "a"), ("b", "b")])]
    again = opened(client, page, "one")
    assert again is session


def test_a_closed_page_is_forgotten_before_an_open_one_and_with_all_that_waits_for_it(
    client: TestClient, page: gr.Blocks
) -> None:
    sessions: Any = sessions_of(client)
    assert isinstance(sessions, Sessions)
    for name in ("open", "closed", "new"):
        opened(client, page, name)
    queue = page._queue
    queue.pending_event_ids_session["closed"] = {"event"}
    sessions["closed"].is_closed = True
    opened(client, page, "newer")
    assert [*sessions.session_data] == ["open", "new", "newer"]
    assert "closed" not in queue.pending_event_ids_session
    assert [*sessions.time_last_used] == ["open", "new", "newer"]
    opened(client, page, "newest")
    assert [*sessions.session_data] == ["new", "newer", "newest"]


def test_a_page_whose_connection_broke_for_a_moment_is_open_again(client: TestClient, page: gr.Blocks) -> None:
    opened(client, page, "one").is_closed = True
    assert not opened(client, page, "one").is_closed


def test_few_events_are_timed(client: TestClient, page: gr.Blocks) -> None:
    assert page._queue.ANALYTICS_MAX_EVENTS == EVENTS_TIMED


def test_an_address_in_place_of_a_file_is_asked_by_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradio would fetch it, whatever it is, into the folder that the page's own pictures lie in."""
    asked: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *place, **_: asked.append(place) or [])
    with gr.Blocks(analytics_enabled=False) as page:
        source = gr.File(elem_id="source")
        source.upload(lambda _: None, source, None)
    client = TestClient(App.create_app(page, app_kwargs={"lifespan": lifespan}))
    file = {"path": "http://example.org/x.png", "meta": {"_type": "gradio.FileData"}}
    with client:
        assert client.portal
        for given in (file, {**file, "url": file["path"]}):
            with pytest.raises(gr.Error, match="taken from this computer only"):
                client.portal.call(page.process_api, page.fns[0], [given], sessions_of(client)["one"])
    assert not asked
    assert not [*tmp_path.rglob("*")]
