"""A run's numbers to TensorBoard or trackio as well, where that is wished. Whatever happens there, the run goes on.

The libraries are extras (`requirements-metrics.txt`). They work in a thread of their own: one that fails, waits or hangs costs
the training nothing, and is told once.
"""

import importlib.util
import math
import queue
import threading
from collections.abc import Callable
from typing import Any, Protocol

from apt_engine.runs.events import DriftMeasured, Event, RunStarted, SplitMeasured, StepFinished
from apt_engine.runs.run import Run

MODULES = {"tensorboard": "tensorboard", "trackio": "trackio"}
TITLES = {"tensorboard": "TensorBoard", "trackio": "trackio"}
MOST_WAITING = 10_000  # events; a library that falls so far behind hangs
SECONDS_TO_CLOSE = 10.0
PROJECT = "apt-studio"


class Writer(Protocol):
    """Where numbers go."""

    def write(self, numbers: dict[str, float], step: int) -> None:
        """Those of a step."""
        ...

    def close(self) -> None:
        """Write what is not written yet."""
        ...


class TensorBoardWriter:
    """Event files in the run's own folder, `tensorboard/`; steps that a resumed session does again replace the old ones."""

    def __init__(self, run: Run, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(run.path / "tensorboard"), purge_step=first_step + 1 if first_step else None)

    def write(self, numbers: dict[str, float], step: int) -> None:
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)

    def close(self) -> None:
        self._writer.close()


class TrackioWriter:
    """A run of the project `apt-studio`, where trackio keeps its projects; it goes on when the run is resumed."""

    def __init__(self, run: Run, first_step: int) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        self._run = trackio.init(
            project=PROJECT,
            name=run.id,
            config=run.config.to_dict(),
            resume="allow" if first_step else "never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def write(self, numbers: dict[str, float], step: int) -> None:
        self._run.log(dict(numbers), step=step)

    def close(self) -> None:
        self._run.finish()


WRITERS: dict[str, Callable[[Run, int], Writer]] = {"tensorboard": TensorBoardWriter, "trackio": TrackioWriter}


class Reporter:
    """Hands events on to what the run's setting `report_to` names; does nothing where that is none.

    Args:
        run: whose numbers they are.
    """

    def __init__(self, run: Run) -> None:
        self._target = run.config.report_to
        self._waiting: queue.Queue[Event | None] = queue.Queue(MOST_WAITING)
        self._problem = ""
        self._thread: threading.Thread | None = None
        if self._target == "none":
            return
        if importlib.util.find_spec(MODULES[self._target]) is None:
            self._problem = (
                f"The numbers cannot go to {TITLES[self._target]}, which is not installed; the run goes on without. Run: "
                "python -m pip install -r requirements-metrics.txt"
            )
            return
        self._thread = threading.Thread(target=self._work, args=(run,), daemon=True)
        self._thread.start()

    def tell(self, event: Event) -> None:
        """Hand on an event; returns at once."""
        if self._thread and self._thread.is_alive() and (isinstance(event, RunStarted) or numbers_of(event)):
            try:
                self._waiting.put_nowait(event)
            except queue.Full:
                self._problem = f"{TITLES[self._target]} does not keep up; the run goes on without it."
                self._thread = None

    def problem(self) -> str:
        """What went wrong since this was last asked, as a sentence; empty as a rule."""
        told, self._problem = self._problem, ""
        return told

    def close(self) -> None:
        """Let what waits be written, for a few seconds."""
        if self._thread and self._thread.is_alive():
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                return
            self._thread.join(SECONDS_TO_CLOSE)

    def _work(self, run: Run) -> None:
        writer: Writer | None = None
        try:
            while event := self._waiting.get():
                if isinstance(event, RunStarted) and writer is None:
                    writer = WRITERS[self._target](run, event.first_step)
                elif writer and (numbers := numbers_of(event)):
                    writer.write(numbers, getattr(event, "step", 0))
            if writer:
                writer.close()
        except Exception as error:  # noqa: BLE001 - another program's library, which may raise anything
            reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            self._problem = (
                f"The numbers cannot go to {TITLES[self._target]} any more ({reason}); the run goes on without."
            )


def numbers_of(event: Event) -> dict[str, float]:
    """The finite numbers of an event by their names, as in a run's CSV; none of most events."""
    found: dict[str, Any] = {}
    match event:
        case StepFinished():
            found = {
                "loss": event.loss,
                "untrained_loss": event.reference_loss,
                "prior_loss": event.prior_loss,
                "stabilization": event.stabilization,
                "alignment": event.alignment,
                "gradient_norm": event.gradient_norm,
                "learning_rate": event.learning_rate,
                "warp_chance": sum(event.chances) / len(event.chances) if event.chances else None,
                **{f"indicator_{number}": value for number, value in enumerate(event.gamma)},
            }
        case DriftMeasured():
            found = {"drift": event.drift}
        case SplitMeasured():
            found = {"gain_on_photos": event.shots, "gain_on_new_views": event.views, "kept_step": event.kept_step}
        case _:
            pass
    return {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}
