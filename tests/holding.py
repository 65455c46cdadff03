"""Another process that holds the right to train."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from apt_engine.jobs.worker import ROOT
from apt_engine.runs.store import RunStore

SCRIPT = """
import sys
from pathlib import Path
from apt_engine.runs.store import RunStore
from apt_engine.runs.training_lock import training_lock
with training_lock(RunStore(Path(sys.argv[1])), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def held(store: RunStore, run_id: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """The process; at the end of the context it lets go, if it was not killed before."""
    command = [sys.executable, "-c", SCRIPT, str(Path(store.data_dir)), run_id]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout
    try:
        assert process.stdout.readline() == b"held\n"
        yield process
    finally:
        process.communicate()
