"""The header of a safetensors file, checked before a library sees the file: what it holds, and that there is nothing else."""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from apt_engine.reading.regular import open_regular

LONGEST_HEADER = (
    16_000_000  # bytes; that of SDXL in one file has 300,000. Unpacked it takes some ten times as much memory
)
MOST_DIMENSIONS, MOST_TENSORS = 8, 50_000
LARGEST = 2**53  # bytes or numbers; JSON may hold some of thousands of digits, which cannot even be told
BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64"), 8),
}
FLOATS = frozenset({"F16", "BF16", "F32", "F64"})


@dataclass(frozen=True)
class Tensor:
    """One tensor of a file: its number format, its shape, and where its bytes begin and end in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class CutOffError(ValueError):
    """The end of a file is missing."""

    def __init__(self, size: int, whole: int) -> None:
        super().__init__(f"its tensors end at byte {whole:,} and it at {size:,}")
        self.size = size
        self.whole = whole


def read_header(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file by name, and what it says about itself.

    Raises:
        OSError: it cannot be read, or is no regular file.
        ValueError: it is no whole safetensors file; says why, as the end of "it is damaged: ...". A `CutOffError` if only its end
            is missing.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        length, entries = _entries(file, size)
    about = entries.pop("__metadata__", {})
    if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
        raise ValueError("what it says about itself is not text")
    _refuse_half_letters(about.values())
    tensors = {name: _tensor(name, entry, 8 + length) for name, entry in entries.items()}
    end = 8 + length
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != end:
            raise ValueError(f"{name:.80} does not begin where the one before it ends")
        end = tensor.end
    if end > size:
        raise CutOffError(size, end)
    if end < size:
        raise ValueError(f"its tensors end at byte {end:,} and it at {size:,}")
    return tensors, about


def is_pickle(start: bytes) -> bool:
    """Whether a file that begins so is PyTorch's own kind, which runs code when it is opened, whatever it is called."""
    begins_so = start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))
    return begins_so and start[2:8] != b"\0" * 6  # a header of 640 to 1,408 bytes begins alike


def _entries(file: BinaryIO, size: int) -> tuple[int, dict[str, Any]]:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or size - 8 < length <= LONGEST_HEADER:
        raise ValueError("it ends within its header")
    if length > LONGEST_HEADER:
        raise ValueError(f"its header would have {length:,} bytes")
    try:
        entries = json.loads(file.read(length), object_pairs_hook=_once)
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"its header cannot be read ({str(error)[:120]})") from None
    if not isinstance(entries, dict) or len(entries) > MOST_TENSORS:
        raise ValueError("its header is not a list of tensors, or has too many")
    _refuse_half_letters(entries)
    return length, entries


def _refuse_half_letters(texts: Iterable[str]) -> None:
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise ValueError("a name in its header cannot be written again") from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands there twice")
    return found


def _tensor(name: str, entry: Any, start: int) -> Tensor:
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{name:.80} has no format, shape or place") from None
    if dtype not in BYTES if isinstance(dtype, str) else True:
        raise ValueError(f"{name:.80} has the unknown format {dtype!r:.40}")
    numbers = [*shape, begin, end]
    if len(shape) > MOST_DIMENSIONS or not all(type(number) is int and 0 <= number <= LARGEST for number in numbers):
        raise ValueError(f"{name:.80} has an impossible shape or place")
    if end - begin != math.prod(shape) * BYTES[dtype]:
        raise ValueError(f"{name:.80} has {end - begin:,} bytes, which is not what its shape takes")
    return Tensor(dtype, shape, start + begin, start + end)
