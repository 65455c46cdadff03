"""What many threads and large buffers leave behind in glibc."""

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

# Eight threads hold small pieces; a large buffer comes and goes, which teaches glibc to keep the next one; it tells what it has.
PROGRAM = """
import ctypes, sys, threading
from ui.serving.memory import give_memory_back
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
if sys.argv[2:] == ["given back"]:
    give_memory_back()
together = threading.Barrier(8)
def take():
    together.wait()
    for _ in range(300):
        libc.malloc(5_000)
threads = [threading.Thread(target=take) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.free(ctypes.c_void_p(libc.malloc(4 * 2**20)))
libc.malloc(2 * 2**20)
told = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, told)
libc.fclose(told)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no arenas")
def test_threads_share_two_arenas_and_a_large_buffer_is_its_own(tmp_path: Path) -> None:
    arenas, mapped = {}, {}
    for way in ("as it is", "given back"):
        subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / "told"), way], check=True)
        told = (tmp_path / "told").read_text(encoding="ascii")
        arenas[way] = told.count("<heap nr=")
        mapped[way] = max(int(size) for size in re.findall(r'<total type="mmap" count="\d+" size="(\d+)"/>', told))
    assert arenas["given back"] == 2 < arenas["as it is"]
    assert mapped["as it is"] < 2 * 2**20 <= mapped["given back"]
