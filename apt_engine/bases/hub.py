"""Models of the Hugging Face hub: whether one lies in this computer's cache, and fetching it with a bar. Imports no torch.

A process of its own (`download.py`) asks the hub and loads, so that a wish to stop is obeyed at once wherever it waits.
"""

import contextlib
import json
import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from apt_engine.errors import BaseModelError
from apt_engine.settings.presets import is_hub_id

NOT_NEEDED = ("safety_checker", "feature_extractor", "image_encoder")
WITHOUT_WEIGHTS = ("scheduler", "tokenizer")  # how such names begin
SECONDS_BETWEEN_LOOKS = 0.25
SECONDS_OF_SILENCE = 20.0
TRIES = 3
ROOT = Path(__file__).resolve().parents[2]
SHARD = re.compile(r"-\d+-of-(\d+)\.safetensors$")


def is_downloaded(name: str) -> bool:
    """Whether the cache holds a snapshot of a model, with the weights of all its parts."""
    return folder_of(name) is not None


def folder_of(name: str) -> Path | None:
    """The folder of a model in the cache, in diffusers layout; None unless all its parts are there."""
    found = [index.parent for index in (_cache(name) / "snapshots").glob("*/model_index.json") if _is_whole(index)]
    return max(found, key=lambda folder: folder.stat().st_mtime, default=None)


def snapshot_of(name: str, files: Sequence[str]) -> Path | None:
    """The newest folder of a model in the cache that holds all of these files; None where none does."""
    found = [
        folder for folder in (_cache(name) / "snapshots").glob("*") if all((folder / file).is_file() for file in files)
    ]
    return max(found, key=lambda folder: folder.stat().st_mtime, default=None)


def fetch(
    name: str, *, is_half: bool = False, should_stop: Callable[[], bool] = lambda: False
) -> Iterator[tuple[int, int]]:
    """Download a model that is not here yet; yields the bytes so far and in all, a few times a second.

    Files that arrived whole before a stop or a break are kept; of the one in between nothing is, by the hub's own library.

    Args:
        name: a hub id; of anything else there is nothing to do.
        is_half: whether weights in half precision do, where the hub has them.
        should_stop: asked again and again; once true, the download ends there, without an error.

    Raises:
        BaseModelError: the model cannot be had or cannot be used; says why.
    """
    if not is_hub_id(name) or is_downloaded(name):
        return
    for attempt in range(1, TRIES + 1):
        try:
            yield from _attempt(name, is_half, should_stop)
        except _Interrupted as error:
            if attempt == TRIES:
                raise BaseModelError(
                    f"The download of {name} broke off ({error}); start again, the files that arrived are kept."
                ) from None
        else:
            return


def parts_of(index: dict[str, Any]) -> list[str]:
    """The folders that a pipeline's `model_index.json` names and that are loaded."""
    named = [name for name, value in index.items() if isinstance(value, list) and value[:1] != [None]]
    return [name for name in named if name not in NOT_NEEDED]


def described(name: str, done: int, total: int) -> str:
    """How far a download is, as a sentence."""
    unit, size = ("GB", 1e9) if total >= 1e9 else ("MB", 1e6)
    return f"Downloading {name}, once: {done / size:.1f} of {total / size:.1f} {unit}."


class _Interrupted(Exception):
    """The network, and not the model, is why a download ended; another try may go on."""


def _attempt(name: str, is_half: bool, should_stop: Callable[[], bool]) -> Iterator[tuple[int, int]]:
    """One start of the child, until it is done, fails, falls silent, or is to stop."""
    total, done, heard = 0, -1, time.monotonic()
    with _started(name, is_half) as (child, lines):
        while child.poll() is None or not lines.empty():
            if should_stop():
                return
            with contextlib.suppress(queue.Empty):
                line = lines.get(timeout=SECONDS_BETWEEN_LOOKS)
                _obey(line)
                total, heard = int(line.get("total", total)), time.monotonic()
            if total and (grown := min(_bytes_below(_cache(name) / "blobs"), total)) != done:
                done, heard = grown, time.monotonic()
                yield done, total
            if time.monotonic() - heard > SECONDS_OF_SILENCE:
                silence = f"the hub did not answer for {SECONDS_OF_SILENCE:.0f} seconds"
                if not total:
                    raise BaseModelError(
                        f"{name} cannot be downloaded: {silence}; check the network, or give a local folder."
                    )
                raise _Interrupted(silence)
        if child.returncode:
            raise _Interrupted("its process ended")


def _obey(line: dict[str, Any]) -> None:
    """Raise what the child met."""
    if "error" in line:
        raise BaseModelError(str(line["error"]))
    if "interrupted" in line:
        raise _Interrupted(str(line["interrupted"]))


@contextlib.contextmanager
def _started(name: str, is_half: bool) -> "Iterator[tuple[subprocess.Popen[str], queue.Queue[dict[str, Any]]]]":
    """A child that downloads, and the lines it writes; it is gone afterwards, whatever happens."""
    environment = {
        **os.environ,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    if "SPACE_ID" in os.environ:  # what a visitor asks for is not fetched in the owner's name
        environment["HF_HUB_DISABLE_IMPLICIT_TOKEN"] = "1"
    command = [sys.executable, "-m", "apt_engine.bases.download", name, "half" if is_half else "full"]
    child = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", cwd=ROOT, env=environment
    )
    before = set(_unfinished(name))
    lines: queue.Queue[dict[str, Any]] = queue.Queue()
    reader = threading.Thread(target=_read_lines, args=(child, lines), daemon=True)
    reader.start()
    try:
        yield child, lines
    finally:
        child.kill()
        child.wait()
        reader.join()
        for path in set(_unfinished(name)) - before:  # their names are its own, so nobody goes on with them
            path.unlink(missing_ok=True)


def _read_lines(child: "subprocess.Popen[str]", lines: "queue.Queue[dict[str, Any]]") -> None:
    assert child.stdout
    for line in child.stdout:
        with contextlib.suppress(ValueError):
            lines.put(json.loads(line))


def _cache(name: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"


def _unfinished(name: str) -> Iterator[Path]:
    return (_cache(name) / "blobs").glob("*.incomplete")


def _bytes_below(folder: Path) -> int:
    return sum(_size(path) for path in folder.iterdir()) if folder.is_dir() else 0


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # renamed since it was listed: from .incomplete to its name
        return 0


def _is_whole(index: Path) -> bool:
    try:
        parts = parts_of(json.loads(index.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False
    models = [name for name in parts if not name.startswith(WITHOUT_WEIGHTS)]
    return all((index.parent / name).is_dir() for name in parts) and all(
        _has_weights(index.parent / name) for name in models
    )


def _has_weights(part: Path) -> bool:
    """A file of weights, or all shards of one."""
    names = [path.name for path in part.glob("*.safetensors")]
    shards = {int(match[1]) for name in names if (match := SHARD.search(name))}
    return bool(names) and all(sum(f"-of-{count:05d}." in name for name in names) >= count for count in shards)
