"""Memory that the server no longer needs goes back to the computer."""

import ctypes
import sys

ARENA_MAX, MMAP_THRESHOLD = -8, -3  # names of mallopt(3)
LARGE_BYTES = 256 * 1024


def give_memory_back() -> None:
    """Have glibc serve all threads from two arenas, and large buffers by themselves; elsewhere nothing is done.

    Its own way is an arena a thread, kept as large as it ever was: a page that was opened anew 100 times beside a long training
    cost 20 MB for good, and no object of ours was among them.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(ARENA_MAX, 2)
        libc.mallopt(MMAP_THRESHOLD, LARGE_BYTES)
