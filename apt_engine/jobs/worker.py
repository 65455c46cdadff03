"""The engine as a child process: started when it is needed, given one job at a time, reported when it dies.

Parent and child exchange lines of JSON: jobs on its standard input, answers on its standard output. What a
training run reports goes to the run's own events, not through here. This module never imports torch.
"""

import atexit
import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from apt_engine.errors import BusyError, EngineError
from apt_engine.jobs.engine import EngineStatus, SampleProgress, SharedEngine
from apt_engine.jobs.leaving import SECONDS_TO_SAVE
from apt_engine.jobs.session import tell_death
from apt_engine.runs.history import refuse_restart
from apt_engine.runs.store import RunStore
from apt_engine.runs.training_lock import refuse_if_trained
from apt_engine.settings.sampling import SampleRequest

ROOT = Path(__file__).resolve().parents[2]
# Spinning OpenMP threads make torch several times slower on a busy machine; must be set before torch is imported.
CHILD_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "GOMP_SPINCOUNT": "0",
    "PYTHONUTF8": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
SECONDS_TO_QUIT = SECONDS_TO_SAVE + 10  # it ends itself before
CLASS_OF_ERROR = re.compile(r"^[\w.]*(Error|Exception): ")


class Worker(SharedEngine):
    """Owner of the engine process.

    Args:
        store: whose runs it works on, unless a job names another; the engine's log lies beside it.
    """

    def __init__(self, store: RunStore) -> None:
        self._default_store = store
        self._store = store
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._is_closing = False
        self._status = EngineStatus()
        self._answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        atexit.register(self.close)

    @property
    def status(self) -> EngineStatus:
        return self._status

    @property
    def process_id(self) -> int | None:
        """Process id of the engine, or None while there is none."""
        return self._process.pid if self._process and self._process.poll() is None else None

    def refuse_if_busy(self) -> None:
        status = self._status
        if status.job == "training":
            raise BusyError(f"The engine is training {status.run_id}; wait for it to finish, or stop it first.")
        if status.job == "sampling":
            raise BusyError("The engine is drawing pictures; wait until they are done.")
        if status.job == "exporting":
            raise BusyError("The engine is writing LoRA files; wait until they are done.")
        if status.job == "judging":
            raise BusyError("The engine is judging a run; wait for its verdict, or stop it first.")
        if status.job == "describing":
            raise BusyError("The engine is describing photos; wait until that is done.")

    def start_training(self, run_id: str, *, resume: bool = False, store: RunStore | None = None) -> None:
        store = store or self._default_store
        run = store.open(run_id)
        with self._lock:
            self.refuse_if_busy()
            refuse_if_trained(store)
            if not resume:
                refuse_restart(run)
            self._store = store
            self._begin(EngineStatus("training", run.id), {"job": "train", "run": run.id})

    def sample(self, request: SampleRequest, store: RunStore | None = None) -> Iterator[SampleProgress]:
        store = store or self._default_store
        folder = store.next_pictures_dir()
        with self._lock:
            self.refuse_if_busy()
            self._store = store
            self._answers = answers = queue.SimpleQueue()
            self._begin(
                EngineStatus("sampling"), {"job": "sample", "request": request.to_dict(), "folder": str(folder)}
            )
        return _follow(answers)

    def export(self, run_id: str, checkpoint: str, store: RunStore | None = None) -> Iterator[SampleProgress]:
        store = store or self._default_store
        run = store.open(run_id)
        with self._lock:
            self.refuse_if_busy()
            self._store = store
            self._answers = answers = queue.SimpleQueue()
            self._begin(EngineStatus("exporting"), {"job": "export", "run": run.id, "checkpoint": checkpoint})
        return _follow(answers)

    def judge(self, run_id: str, store: RunStore | None = None) -> Iterator[SampleProgress]:
        store = store or self._default_store
        run = store.open(run_id)
        with self._lock:
            self.refuse_if_busy()
            refuse_if_trained(store)
            self._store = store
            self._answers = answers = queue.SimpleQueue()
            self._begin(EngineStatus("judging"), {"job": "judge", "run": run.id})
        return _follow(answers)

    def describe(self, captioner: str, photos: Sequence[Path]) -> Iterator[SampleProgress]:
        with self._lock:
            self.refuse_if_busy()
            self._store = self._default_store
            self._answers = answers = queue.SimpleQueue()
            job = {"job": "describe", "captioner": captioner, "photos": [str(path) for path in photos]}
            self._begin(EngineStatus("describing"), job)
        return _follow(answers)

    def stop(self) -> None:
        with self._lock:
            if self._status.job != "idle":
                self._send({"job": "stop"})

    def close(self) -> None:
        """End the engine process; a run that trains finishes its step and saves it first. A Ctrl-C meanwhile ends it at once."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        self._is_closing = True
        with contextlib.suppress(OSError):
            assert process.stdin
            process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            process.wait(SECONDS_TO_QUIT)
        process.kill()
        process.wait()

    def _begin(self, status: EngineStatus, job: dict[str, Any]) -> None:
        if self._process is None or self._process.poll() is not None:
            self._process = self._spawn()
            self._is_closing = False
        self._status = status
        self._send({**job, "data_dir": str(self._store.data_dir)})

    def _send(self, job: dict[str, Any]) -> None:
        process = self._process
        assert process and process.stdin
        with contextlib.suppress(BrokenPipeError):  # `_listen` notices that the process is gone and reports it
            process.stdin.write(json.dumps(job) + "\n")
            process.stdin.flush()

    def _spawn(self) -> subprocess.Popen[str]:
        data_dir = self._default_store.data_dir
        try:
            data_dir.mkdir(parents=True, exist_ok=True)
            log = (data_dir / "engine.log").open("wb")
        except OSError as error:
            raise EngineError(f"Cannot write to {data_dir} ({error.strerror}); choose another --data-dir.") from error
        with log:
            process = subprocess.Popen(
                [sys.executable, "-m", "apt_engine.jobs.worker_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                cwd=ROOT,
                env={**os.environ, **CHILD_ENVIRONMENT},
            )
        threading.Thread(target=self._listen, args=(process,), daemon=True).start()
        return process

    def _listen(self, process: subprocess.Popen[str]) -> None:
        """Read the child's answers until it ends."""
        assert process.stdout
        for line in process.stdout:
            answer = json.loads(line)
            if answer["kind"] in ("done", "stopped", "failed"):
                self._status = _after(self._status, answer)
            self._answers.put(answer)
        code = process.wait()
        if self._process is process and self._status.job != "idle":
            self._report_death(self._explain_death(code))

    def _report_death(self, reason: str) -> None:
        if self._status.job == "training" and not self._is_closing:  # one that was closed has saved what it could
            tell_death(self._store, self._status.run_id, f"{reason} Press Resume to go on from the last checkpoint.")
        self._status = EngineStatus(run_id=self._status.run_id, message=reason)
        self._answers.put({"kind": "failed", "message": reason})

    def _explain_death(self, code: int) -> str:
        if hasattr(signal, "SIGBUS") and code == -signal.SIGBUS:
            return (
                "The engine was ended, as a file in use, most likely the base model's, was cut short or its drive went away; put "
                "it back whole."
            )
        if code < 0:
            cause = "killed; if nobody did that, the memory ran out" if code == -9 else f"ended by signal {-code}"
            return f"The engine was {cause}."
        lines = (
            (self._default_store.data_dir / "engine.log")
            .read_text(encoding="utf-8", errors="replace")
            .strip()
            .splitlines()
        )
        last = CLASS_OF_ERROR.sub("", lines[-1])[:300] if lines else f"exit code {code}"
        return (
            f"The engine ended unexpectedly ({last}); start the app again, and if that does not help delete .venv "
            "and let the launcher install it anew."
        )


def _after(status: EngineStatus, answer: dict[str, Any]) -> EngineStatus:
    """The status once a job has ended."""
    is_failed = answer["kind"] == "failed"
    return EngineStatus(run_id=status.run_id, message=answer["message"]) if is_failed else EngineStatus()


def _follow(answers: "queue.SimpleQueue[dict[str, Any]]") -> Iterator[SampleProgress]:
    progress = SampleProgress("Starting the engine", None, ())
    yield progress
    while True:
        answer = answers.get()
        match answer["kind"]:
            case "progress":
                progress = replace(progress, message=answer["message"], fraction=answer["fraction"])
            case "image":
                progress = replace(progress, images=(*progress.images, Path(answer["path"])), preview=None)
            case "preview":
                progress = replace(progress, preview=Path(answer["path"]))
            case "caption":
                progress = replace(progress, captions=(*progress.captions, answer["words"]))
            case "failed":
                raise EngineError(answer["message"])
            case "stopped":
                yield replace(progress, message="Stopped", preview=None)
                return
            case _:
                yield replace(progress, message="Done", fraction=1.0, preview=None)
                return
        yield progress
