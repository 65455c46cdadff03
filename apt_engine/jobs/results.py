"""What is made of a trained run: pictures, and files for other programs. Torch is imported when the first is asked for."""

from collections.abc import Callable, Iterator
from pathlib import Path

from apt_engine.runs.events import ExportReady
from apt_engine.runs.history import checkpoint_of
from apt_engine.runs.store import RunStore
from apt_engine.settings.sampling import SampleRequest


def draw(
    store: RunStore, request: SampleRequest, folder: Path, on_progress: Callable[[str, float | None], None]
) -> Iterator[Path]:
    """Draw the pictures of a request, each told as soon as its file is there; the rest is as of `Generator.generate`."""
    from apt_engine.sampling.generation import Generator

    return Generator().generate(store, request, folder, on_progress)


def export(
    store: RunStore, run_id: str, checkpoint: str, folder: Path | None = None, *, merged: bool = False
) -> Iterator[ExportReady]:
    """Write a checkpoint for other programs; errors as of `export_checkpoint`.

    Args:
        store: where the run is.
        run_id: of the run, or `latest`.
        checkpoint: kept, last, or a step.
        folder: where the files go; without one, into the run.
        merged: whether a whole model with the LoRA inside is written too.
    """
    from apt_engine.training.exports import export_checkpoint

    run = store.open(run_id)
    if folder is None:
        run.refuse_links()
    return export_checkpoint(run, checkpoint_of(run, checkpoint), folder, merged=merged)
