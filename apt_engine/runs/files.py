"""Files that are whole or not there, and the operating system's refusals as sentences."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from apt_engine.errors import DiskError
from apt_engine.reading.regular import open_regular


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write into a sentence.

    Raises:
        DiskError: the disk is full, or `path` may not be written.
    """
    try:
        yield
    except OSError as error:
        free = _free(path) / 1e6
        raise DiskError(
            f"Cannot write {path} ({error.strerror or error}; {free:,.0f} MB free); "
            "free some disk space or choose another folder (--data-dir, --out)."
        ) from error


def write_atomically(path: Path, content: bytes | Iterable[bytes | memoryview]) -> None:
    """Write a file that is either the old one or the whole new one, whatever happens meanwhile.

    Args:
        path: where to.
        content: of the file, or its pieces in their order, which need not fit into memory together.

    Raises:
        DiskError: it cannot be written; the old file is untouched.
    """
    aside = path.with_name(f".{path.name}.part")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.unlink(missing_ok=True)  # left by a kill, or put there as a link to another file
            with aside.open("xb") as file:
                file.writelines([content] if isinstance(content, bytes) else content)
            sync(aside)
            aside.replace(path)
            sync(path.parent)
        finally:
            aside.unlink(missing_ok=True)


def free_path(wanted: Path) -> Path:
    """A path that is not taken: the wanted one, or with a number behind it."""
    path, number = wanted, 2
    while path.exists():
        path, number = wanted.with_name(f"{wanted.name}-{number}"), number + 1
    return path


def sha256(path: Path) -> str:
    """The hash of a file's bytes, as hexadecimal digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush a file, or on POSIX a folder's entries, to the disk."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _free(path: Path) -> int:
    """Bytes free where a path is or would be; 0 where nothing of it can be asked, as on a drive that went away."""
    for folder in (path, *path.parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(folder).free
    return 0
