"""The engine process: owns the device and runs one job at a time: training, sampling, exporting, judging.

Started by `worker.Worker` as `python -m apt_engine.jobs.worker_process`. Jobs arrive as lines of JSON on standard input: train,
sample, export, judge, describe, stop; each names its data directory. When standard input ends, the page is gone:
what was learnt is saved, all else is left, and the process ends. So it does on a signal.
"""

import contextlib
import json
import os
import queue
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, TextIO

from PIL import Image

from apt_engine.bases.captioner import describe
from apt_engine.errors import is_device_lost
from apt_engine.jobs.failures import explain
from apt_engine.jobs.leaving import Leaving, heard
from apt_engine.jobs.results import export
from apt_engine.jobs.session import judge, train
from apt_engine.runs.files import writing
from apt_engine.runs.store import RunStore
from apt_engine.sampling.generation import Generator
from apt_engine.sampling.sampler import Stopped
from apt_engine.settings.sampling import SampleRequest


class Child:
    """Reads jobs in a thread, runs them in the main one."""

    def __init__(self, answers: TextIO) -> None:
        self._generator = Generator()
        self._answers = answers
        self._jobs: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._stops = 0  # how often it was asked to stop
        self._leaving = Leaving()

    def serve(self) -> None:
        """Run jobs until standard input ends."""
        threading.Thread(target=self._read, daemon=True).start()
        while (job := self._jobs.get()) is not None and not self._leaving.is_wished():
            self._run(job)

    def leave(self) -> None:
        """Let the job be saved and the process end."""
        self._leaving.begin()
        self._jobs.put(None)

    def _read(self) -> None:
        for line in sys.stdin:
            job = json.loads(line)
            if job["job"] == "stop":
                self._stops += 1
            else:
                self._stops = 0
                self._jobs.put(job)
        self.leave()

    def _run(self, job: dict[str, Any]) -> None:
        """The one place that catches everything: a job may break, the engine may not."""
        try:
            store = RunStore(Path(job["data_dir"]))
            if job["job"] == "train":
                self._train(store, job["run"])
            elif job["job"] == "export":
                self._export(store, job["run"], job["checkpoint"])
            elif job["job"] == "judge":
                self._generator.forget()
                judge(store, store.open(job["run"]), self._tell_progress)
            elif job["job"] == "describe":
                self._generator.forget()
                for words in describe(job["captioner"], [*map(Path, job["photos"])], self._tell_progress):
                    self._tell("caption", words=words)
            else:
                self._sample(store, SampleRequest.from_dict(job["request"]), Path(job["folder"]))
            self._tell("done")
        except Stopped as error:
            self._tell("stopped", message=str(error))
        except Exception as error:
            self._fail(error)

    def _train(self, store: RunStore, run_id: str) -> None:
        self._generator.forget()
        told = train(
            store,
            store.open(run_id),
            lambda: self._stops > 0,
            is_leaving=self._leaving.is_wished,
            should_hurry=lambda: self._stops > 1,
        )
        for event in told:
            self._leaving.note(event)

    def _should_stop(self) -> bool:
        return self._stops > 0 or self._leaving.is_wished()

    def _export(self, store: RunStore, run_id: str, checkpoint: str) -> None:
        self._generator.forget()
        self._tell(
            "progress", message="Writing the LoRA files and checking that they draw the same picture", fraction=None
        )
        folder = store.open(run_id).path
        for written in export(store, run_id, checkpoint):
            self._tell("image", path=str(folder / written.path))

    def _tell_progress(self, message: str, fraction: float | None) -> None:
        if self._should_stop():
            raise Stopped("Stopped, as asked.")
        self._tell("progress", message=message, fraction=fraction)

    def _sample(self, store: RunStore, request: SampleRequest, folder: Path) -> None:
        def on_preview(image: Image.Image) -> None:
            nonlocal shown
            shown += 1
            path = folder / f"preview-{shown:03d}.jpg"
            with writing(path):
                image.save(path)
            self._tell("preview", path=str(path))

        shown = 0
        try:
            for path in self._generator.generate(
                store, request, folder, self._tell_progress, on_preview, self._should_stop
            ):
                self._tell("image", path=str(path))
        finally:
            for path in folder.glob("preview-*.jpg"):
                path.unlink(missing_ok=True)

    def _fail(self, error: Exception) -> None:
        traceback.print_exception(error)
        self._tell("failed", message=explain(error, "engine.log"))
        # Nothing works on it in this process any more: the next has a new one.
        if is_device_lost(error.__cause__ or error):
            self._jobs.put(None)

    def _tell(self, kind: str, **values: Any) -> None:
        with contextlib.suppress(BrokenPipeError):  # the app is gone, which `_read` notices
            self._answers.write(json.dumps({"kind": kind, **values}) + "\n")
            self._answers.flush()


def main() -> None:
    """Keep standard output for answers alone: whatever a library prints goes to the log."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    child = Child(answers)
    with heard(lambda _: child.leave()):
        child.serve()


if __name__ == "__main__":
    main()
    sys.stderr.flush()
    os._exit(0)  # to take torch apart costs half a second, for which the app waits
