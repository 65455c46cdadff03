"""How a program that trains ends when it is told to: what was learnt is saved, whatever else was going on is left."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator

from apt_engine.runs.events import CheckpointSaved, Event, StageChanged, StepFinished

# Ctrl-C, a polite kill, a closed terminal, and a closed console window of Windows.
NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
SIGNALS = tuple(signal.Signals[name] for name in NAMES if hasattr(signal, name))
SECONDS_TO_END = 5.0  # for a program that has nothing to save: one that loads a model cannot look up from it
SECONDS_TO_SAVE = 60.0  # for the step under way, which takes 10 s for SDXL on a CPU, and its checkpoint
SECONDS_BETWEEN_LOOKS = 0.25


class Leaving:
    """A wish to end the program, which stays. Where the work does not come to its end in time, the program is cut off.

    Args:
        code: exit code of a program that was too slow.
    """

    def __init__(self, code: int = 0) -> None:
        self._code = code
        self._is_wished = False
        self._is_learning = False
        self._is_unsaved = False
        self._last_sign = time.monotonic()
        threading.Thread(target=self._end_in_time, daemon=True).start()

    def begin(self) -> None:
        """Wish for it. Takes no lock, so a handler may interrupt anything."""
        if not self._is_wished:
            self._last_sign = time.monotonic()
            self._is_wished = True

    def is_wished(self) -> bool:
        """Whether it was asked for."""
        return self._is_wished

    def note(self, event: Event) -> None:
        """Take in what a session tells: how much time it may need follows from that."""
        self._last_sign = time.monotonic()
        match event:
            case StageChanged():
                self._is_learning = event.stage == "training"
            case StepFinished():
                self._is_unsaved = True
            case CheckpointSaved():
                self._is_unsaved = False
            case _:
                pass

    def _end_in_time(self) -> None:
        while True:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            limit = SECONDS_TO_SAVE if self._is_learning or self._is_unsaved else SECONDS_TO_END
            if self._is_wished and time.monotonic() - self._last_sign > limit:
                os._exit(self._code)


@contextlib.contextmanager
def heard(react: Callable[[signal.Signals], None]) -> Iterator[None]:
    """Let `react` handle the first signal to end, inside; a second Ctrl-C is a KeyboardInterrupt.

    A terminal hangs up more than once, so other signals count once. Those that are ignored, as under nohup, stay ignored.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    mine = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]

    def handle(number: int, _frame: object) -> None:
        for other in mine:
            signal.signal(other, signal.default_int_handler if other is signal.SIGINT else signal.SIG_IGN)
        react(signal.Signals(number))

    for number in mine:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number in mine:
            signal.signal(number, before[number])
