"""Which LoRAs a request for pictures means: their files, their strengths, their names. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path

from apt_engine.errors import LoraError
from apt_engine.reading.regular import is_named
from apt_engine.runs.history import checkpoint_of
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.settings.sampling import LORA_FILE, SampleRequest, read_lora

PICKLES = (".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Worn:
    """A LoRA that pictures are drawn with.

    Attributes:
        path: its file.
        strength: 0 is the base model, 1 as trained.
        name: what other programs would call it: its file's name, for a run's that of the file written for them.
    """

    path: Path
    strength: float
    name: str


def loras_of(store: RunStore, request: SampleRequest) -> list[Worn]:
    """The LoRAs of a request, that of its run or its own file first; runs are those of `store`.

    Raises:
        LoraError: one is not there, or given twice.
        RunError: there is no such run, or it has no such checkpoint.
    """
    found: list[Worn] = []
    if request.run:
        found.append(_of_run(store.open(request.run), request.checkpoint, request.strength))
    elif request.lora:
        found.append(_of_file(Path(request.lora), request.strength))
    for source, strength in map(read_lora, request.loras):
        if source.lower().endswith(LORA_FILE):
            found.append(_of_file(Path(source), strength))
        elif source.lower().endswith(PICKLES):
            raise LoraError(f"{source} is a PyTorch file, which can run code; get the LoRA as .safetensors.")
        else:
            run, _, checkpoint = source.partition("@")
            found.append(_of_run(store.open(run), checkpoint or "kept", strength))
    paths = [lora.path.resolve() for lora in found]
    twice = next((lora for lora in found if paths.count(lora.path.resolve()) > 1), None)
    if twice:
        raise LoraError(f"The LoRA {twice.name} is given twice; give it once, at the strength you want.")
    return found


def _of_file(path: Path, strength: float) -> Worn:
    try:
        is_there, is_file = path.exists(), path.is_file()
    except OSError as error:  # of a drive that went away
        reason = error.strerror or error
        raise LoraError(f"The LoRA file {path} cannot be read ({reason}); check the drive it is on.") from error
    if not is_there:
        raise LoraError(f"The LoRA file {path.name} is not there any more; choose another, or take it out.")
    if not is_file:
        raise LoraError(f"{path} is not a file; give the .safetensors file of the LoRA.")
    return Worn(path, strength, path.stem)


def _of_run(run: Run, checkpoint: str, strength: float) -> Worn:
    written = [path.stem for path in sorted(filter(is_named, (run.path / "exports").glob(f"*{LORA_FILE}")))]
    name = next((name for name in written if not name.endswith(("-diffusers", "-merged"))), run.id)
    return Worn(checkpoint_of(run, checkpoint).lora_path, strength, name)
