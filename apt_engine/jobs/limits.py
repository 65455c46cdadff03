"""What a guest of a Space may ask for: bases by name, steps, sizes, and so many jobs an hour. Imports no torch."""

import contextlib
import os
import shutil
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator
from pathlib import Path

from apt_engine.errors import BusyError
from apt_engine.runs.store import RunStore
from apt_engine.settings.presets import Preset, load_presets
from apt_engine.settings.sampling import LORA_FILE, SampleRequest, read_lora
from apt_engine.settings.training import TrainingConfig

MOST_STEPS = 1500
MOST_DRAWING_STEPS = 50
MOST_PICTURES = 8
MOST_BATCH = 8
MOST_VIEWS = 64
MOST_RANK = 64
SECONDS_BETWEEN_LOOKS = 2.0  # at a visitor's folder, while a job of theirs fills it
SIDES = 2  # a picture's side over the one the base was made for
JOB_SECONDS = 30 * 60.0
JOBS_AN_HOUR = 12  # of a visitor
ADDRESS_JOBS_AN_HOUR = 30  # of all visitors from one address
MOST_WAITING = 30  # jobs of all visitors
ADDRESSES_REMEMBERED = 10_000
MOST_BYTES = 1_000_000_000  # of a visitor's folder
ADDRESS_BYTES_A_DAY = 3_000_000_000  # of photos that all visitors from one address bring
KEPT_FREE = 2_000_000_000  # bytes of the disk that visitors do not get


class LimitError(BusyError):
    """More than a guest may ask for."""


def check_training(config: TrainingConfig, photo_count: int) -> None:
    """Refuse a training that is more than a guest's.

    Raises:
        LimitError: says which setting, and how much is allowed.
    """
    if config.start_from:
        raise LimitError("LoRA files of your own cannot be used here; run the app on your own computer for that.")
    if config.report_to != "none":
        raise LimitError("Numbers go to no other program here; the run's CSV holds them, so set report_to to none.")
    base = _base(config.base)
    side = SIDES * int(base.overrides.get("resolution", 512))
    asked = {
        "steps": (config.steps_for(photo_count), MOST_STEPS),
        "batch_size": (config.batch_size, MOST_BATCH),
        "rank": (config.rank, MOST_RANK),
        "resolution": (config.resolution, side),
        "warped_views": (config.warped_views, MOST_VIEWS),
    }
    _check(asked)


def check_request(request: SampleRequest, store: RunStore) -> None:
    """Refuse a request for pictures that is more than a guest's.

    Raises:
        LimitError: says which setting, and how much is allowed.
        RunError: its run does not exist.
    """
    if request.lora or any(read_lora(words)[0].lower().endswith(LORA_FILE) for words in request.loras):
        raise LimitError("LoRA files of your own cannot be used here; train one, or run the app on your own computer.")
    base = _base(store.open(request.run).config.base if request.run else request.base)
    side = SIDES * int(base.overrides.get("resolution", 512))
    _check(
        {
            "count": (request.count, MOST_PICTURES),
            "steps": (request.steps, MOST_DRAWING_STEPS),
            "width": (request.width, side),
            "height": (request.height, side),
        }
    )


def check_room(folder: Path, more: int = 0) -> None:
    """Refuse a visitor whose folder is full, or any while the disk nearly is.

    Args:
        folder: of the visitor.
        more: bytes that are about to come.

    Raises:
        LimitError: says how much there is.
    """
    refuse_full(folder, size_of(folder), more, more)


def refuse_full(folder: Path, used: int, more: int, more_on_disk: int) -> None:
    """As `check_room`, for a folder of a known size, while `more_on_disk` bytes come for all visitors together."""
    if used + more > MOST_BYTES:
        raise LimitError(
            f"Your runs, photos and pictures take {used / 1e6:,.0f} of {MOST_BYTES / 1e6:,.0f} MB; delete some of the runs."
        )
    disk = next(path for path in (folder, *folder.parents) if path.exists())
    if shutil.disk_usage(disk).free - more_on_disk < KEPT_FREE:
        raise LimitError("This Space has no room left at the moment; try again tomorrow.")


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder, which may come and go meanwhile; links are not followed. 10 ms for a thousand files."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(f"{place}/{name}").st_size
    return total


def why_to_end(folder: Path, stopped_at: float) -> str:
    """Why a job under way has to end: its time is over, or its visitor's folder or the disk is full; empty while it may go on.

    Args:
        folder: of the visitor.
        stopped_at: when it has had its time, on the monotonic clock.
    """
    if time.monotonic() > stopped_at:
        minutes = round(JOB_SECONDS / 60)
        return f"Ended early, with all it made kept: A job may take {minutes} minutes here; begin another to go on."
    try:
        check_room(folder)
    except LimitError as error:
        return f"Ended early, with all it made kept: {error}"
    return ""


class Uploads:
    """What is on its way into the folders of visitors: it counts as it comes, or many at once would pass together.

    Args:
        clock: seconds that only rise.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._coming = Counter[Path]()
        self._brought: OrderedDict[str, Counter[int]] = OrderedDict()  # by each address in each of its last hours

    @contextlib.contextmanager
    def into(self, folder: Path, announced: int, address: str = "") -> Iterator[Callable[[int], None]]:
        """An upload into a visitor's folder; yields what is to be called with the size of each piece that has come.

        Args:
            folder: of the visitor.
            announced: bytes that are said to come, 0 if nothing is said.
            address: where it comes from; empty for what is made here.

        Raises:
            LimitError: there is no room for what is announced, or no longer for what comes.
        """
        used, taken = size_of(folder), 0
        check_room(folder, announced)
        with self._lock:
            self._count(address, 0, announced)

        def count(size: int) -> None:
            nonlocal taken
            with self._lock:
                taken += size
                self._coming[folder] += size
                self._count(address, size)
                refuse_full(folder, used, self._coming[folder], self._coming.total())

        try:
            yield count
        finally:
            with self._lock:
                self._coming[folder] -= taken
                if not self._coming[folder]:
                    del self._coming[folder]

    def _count(self, address: str, size: int, more: int = 0) -> None:
        """Note bytes that came from an address; refuse them, or `more` that are announced, where a day's are used up."""
        if not address:
            return
        hour = int(self._clock() // 3600)
        brought = self._brought.setdefault(address, Counter())
        for old in [then for then in brought if then <= hour - 24]:
            del brought[old]
        brought[hour] += size
        self._brought.move_to_end(address)
        if len(self._brought) > ADDRESSES_REMEMBERED:
            self._brought.popitem(last=False)
        if brought.total() + more > ADDRESS_BYTES_A_DAY:
            raise LimitError(
                f"{ADDRESS_BYTES_A_DAY / 1e6:,.0f} MB a day are all that is taken from one address; try again tomorrow."
            )


class Tally:
    """How many jobs were begun within the last hour, by visitor and by address."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def count(self, visitor: str, address: str) -> None:
        """One more job.

        Raises:
            LimitError: there were too many.
        """
        now = time.monotonic()
        with self._lock:
            for who, most in ((f"visitor {visitor}", JOBS_AN_HOUR), (f"address {address}", ADDRESS_JOBS_AN_HOUR)):
                times = self._times.setdefault(who, deque())
                while times and times[0] < now - 3600:
                    times.popleft()
                if len(times) >= most:
                    minutes = max(1, round((times[0] + 3600 - now) / 60))
                    raise LimitError(f"{most} jobs an hour are all that is given here; try again in {minutes} minutes.")
            for who in (f"visitor {visitor}", f"address {address}"):
                self._times[who].append(now)
                self._times.move_to_end(who)
            while len(self._times) > ADDRESSES_REMEMBERED:
                self._times.popitem(last=False)


def _base(name: str) -> Preset:
    found = next((preset for preset in load_presets().values() if name in preset.bases), None)
    if found is None:
        raise LimitError(
            "Here only the base models of the list can be used; run the app on your own computer for others."
        )
    return found


def _check(asked: dict[str, tuple[int, int]]) -> None:
    for name, (value, most) in asked.items():
        if value > most:
            raise LimitError(f"{name} can be at most {most:,} here, not {value:,}; lower it.")
