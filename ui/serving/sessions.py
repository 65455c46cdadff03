"""What the server keeps of each open page: its `gr.State` values, and no copy of all that the page shows, which Gradio keeps."""

from types import SimpleNamespace
from typing import Any

from gradio.blocks import Block
from gradio.state_holder import SessionState, StateHolder
from starlette.applications import Starlette

# A page that was closed is forgotten first; one that is still open and of which nothing is known begins anew.
SESSIONS_KEPT = 500
EVENTS_TIMED = 100  # Gradio's 10,000 are put into a table after each event, which takes longer and longer


class Session(SessionState):
    """Of one page. Gradio also describes each component with its value here, 0.4 MB and more, for links that do not exist here.

    Args:
        page: the Blocks.
    """

    def __init__(self, page: Any) -> None:
        super().__init__(SimpleNamespace(default_config=page.default_config, blocks={}))  # pyright: ignore[reportArgumentType]

    def __setitem__(self, key: int, value: Any) -> None:
        """Keep a state's value, or a component that an event changed; for outputs left as they were Gradio makes copies, too."""
        known = self.blocks_config.blocks.get(key)
        if isinstance(value, Block) and known and _options(value) == _options(known):
            return
        super().__setitem__(key, value)
        self.config_values.clear()

    def _update_config(self, key: int) -> None:
        del key

    def _update_value_in_config(self, key: int, value: Any) -> None:
        del key, value


class Sessions(StateHolder):
    """Those of the last SESSIONS_KEPT pages."""

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = Session(self.blocks)
        return super().__getitem__(session_id)

    def update(self, session_id: str) -> None:
        """Note that a page was used; one too many is forgotten, with what waits for it in Gradio's queue."""
        with self.lock:
            used = self.session_data[session_id]
            used.is_closed = False  # Gradio never takes this back from a page whose connection broke for a moment
            self.session_data.move_to_end(session_id)
            while len(self.session_data) > self.capacity:
                closed = (name for name, session in self.session_data.items() if session.is_closed)
                self._forget(next(closed, next(iter(self.session_data))))

    def _forget(self, session_id: str) -> None:
        del self.session_data[session_id]
        self.time_last_used.pop(session_id, None)
        queue = self.blocks._queue  # noqa: SLF001 - Gradio has no public name for it
        queue.pending_messages_per_session.pop(session_id, None)
        queue.pending_event_ids_session.pop(session_id, None)


def _options(block: Block) -> dict[str, Any]:
    """What a component was made with, but for its value, which the browser keeps."""
    return {name: value for name, value in block.constructor_args.items() if name not in ("value", "render")}


def keep_little(app: Starlette) -> None:
    """Let Gradio's app, before it has answered anything, keep of its pages what is said here."""
    page: Any = app.get_blocks()  # pyright: ignore[reportAttributeAccessIssue]
    sessions = Sessions()
    sessions.set_blocks(page)
    vars(app)["state_holder"] = sessions
    page._queue.ANALYTICS_MAX_EVENTS = EVENTS_TIMED  # noqa: SLF001
