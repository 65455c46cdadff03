"""Several LoRAs on one base at once, each at a strength of its own; what they change is added up, by PEFT.

Ours and other programs' files go together: LoRA, LoHa, LoKr, and one DoRA. A DoRA scales what the layer puts out before it, so it
comes first, where that is the base's own; a second one would scale the first, in whatever order, and is refused. LoHa and LoKr
are layers of their own around the others.
"""

from collections.abc import Sequence
from pathlib import Path

from apt_engine.bases.base import BaseModel
from apt_engine.errors import LoraError
from apt_engine.lora import files, foreign, lycoris
from apt_engine.lora.adapter import ADAPTER
from apt_engine.reading.tensor_files import read_header


def put_on(base: BaseModel, loras: Sequence[tuple[Path, float]]) -> list[str]:
    """Give a base the LoRAs of some files in place of those it has, text encoders included.

    Args:
        base: which.
        loras: each file with its strength: 0 is the base model, 1 as trained, 2 twice that.

    Returns:
        Sentences: what of the files is not applied.

    Raises:
        LoraError: one cannot be read, belongs to another base model, or does not go with another; the base is then without any.
    """
    foreign.remove(base)
    kinds = {path: _kind(path) for path, _ in loras}
    doras = [path.name for path, kind in kinds.items() if kind == "dora"]
    if len(doras) > 1:
        raise LoraError(
            f"{doras[0]} and {doras[1]} are both DoRA files, each of which sets the length of the weights alone; take one out."
        )
    told: list[str] = []
    names: list[str] = []
    for path, strength in sorted(loras, key=lambda lora: ("dora", "lora", "lycoris").index(kinds[lora[0]])):
        names.append(f"{ADAPTER}{len(names) + 1}" if names else ADAPTER)
        told += _add(base, path, names[-1])
        foreign.set_strength(base, strength, names[-1])
    foreign.activate(base, names)
    return told


def _add(base: BaseModel, path: Path, name: str) -> list[str]:
    try:
        files.add(base, path, name)
    except LoraError:  # none of ours
        return foreign.add(base, path, name)
    return []


def _kind(path: Path) -> str:
    """What a file is, by its keys; of one that cannot be read its reader will say why."""
    try:
        keys, _ = read_header(path)
    except (OSError, ValueError):
        return "lora"
    if lycoris.is_lycoris(keys):
        return "lycoris"
    return "dora" if any(key.endswith(lycoris.MAGNITUDE) for key in keys) else "lora"
