"""Reading what others wrote: regular files alone, of a bounded size. A pipe, a device or a folder of that name is an OSError.

To open a named pipe for reading would wait for ever for somebody who writes into it, and a device may never end.
"""

import contextlib
import errno
import json
import os
import re
import stat
from collections.abc import Iterable
from io import BufferedReader
from pathlib import Path
from typing import IO, Any

LARGEST_JSON = 1_000_000  # bytes; settings and the like are a few thousand
# Windows has no pipes among its files, and opens them as text unless told otherwise.
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)

# Control characters, and what stands for a byte that is no UTF-8.
_NOT_SHOWN = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def open_regular(path: Path) -> BufferedReader:
    """Open a file for reading.

    Raises:
        OSError: it is not there, may not be read, or is no regular file.
    """
    _refuse_others(path, path.stat().st_mode)  # first: to open a device may already do something
    descriptor = os.open(path, _FLAGS)
    try:
        _refuse_others(path, os.fstat(descriptor).st_mode)
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, most: int) -> bytes:
    """All bytes of a file of at most `most` bytes.

    Raises:
        OSError: it cannot be read, or is larger.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
    return content


def read_json(path: Path, most: int = LARGEST_JSON) -> Any:
    """What a JSON file says.

    Raises:
        OSError: it cannot be read, or is larger than `most` bytes.
        ValueError: it is no JSON, is nested too deeply to be any of ours, or holds text that cannot be written again.
    """
    try:
        content = json.loads(read_regular(path, most))
        json.dumps(content, ensure_ascii=False).encode()  # fails at half of a surrogate pair
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return content


def open_for_appending(path: Path) -> IO[bytes]:
    """Open a file, or make one, to read its end and write after it.

    Raises:
        OSError: it cannot be written, or is no regular file, or a link, behind which another file would grow.
    """
    if os.path.lexists(path):
        _refuse_others(path, path.lstat().st_mode)
    return path.open("ab+")


def is_regular(path: Path) -> bool:
    """Whether there is a regular file; not if that cannot be told."""
    return stat.S_ISREG(_mode_of(path))


def is_folder(path: Path) -> bool:
    """Whether there is a folder; not if that cannot be told, as on a drive that went away."""
    return stat.S_ISDIR(_mode_of(path))


def is_named(path: Path) -> bool:
    """Whether the name of a file, or of all folders of a relative path, can be shown; one with half a letter is none of ours."""
    return not _NOT_SHOWN.search(path.name if path.is_absolute() else str(path))


def newest_first(paths: Iterable[Path]) -> list[Path]:
    """The regular files among these whose names can be shown, the one that was changed last before the others."""
    found: list[tuple[float, Path]] = []
    for path in filter(is_named, paths):
        with contextlib.suppress(OSError):  # gone meanwhile, a link to a drive that is gone, or one in a circle
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                found.append((status.st_mtime, path))
    return [path for _, path in sorted(found, reverse=True)]


def _mode_of(path: Path) -> int:
    try:
        return path.stat().st_mode
    except (OSError, ValueError):
        return 0


def _refuse_others(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
