"""A LoRA file as the beginning of a training: ours or another program's, of any rank, brought into the LoRA to be trained."""

from dataclasses import dataclass
from pathlib import Path

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from apt_engine.bases.base import BaseModel
from apt_engine.errors import LoraError
from apt_engine.lora import adapter, files, foreign


@dataclass(frozen=True)
class Factors:
    """What a layer of a file adds to its weight: scale times B (out, r, ...) A (r, in, ...), in fp32 on the host."""

    down: Tensor
    up: Tensor
    scale: float


@dataclass(frozen=True)
class Beginning:
    """The layers of a file by the denoiser's names, and sentences on what of it is not there."""

    path: Path
    layers: dict[str, Factors]
    told: list[str]


def read(base: BaseModel, path: Path) -> Beginning:
    """What a file holds for the denoiser of a base; the base is without a LoRA afterwards.

    Raises:
        LoraError: the file cannot be read, is no LoRA, or belongs to another base model.
    """
    told: list[str] = []
    try:
        files.load(base, path)
    except LoraError:  # none of ours
        told = foreign.load(base, path)
    try:
        layers = {name: _copied(layer) for name, layer in base.denoiser.named_modules() if isinstance(layer, LoraLayer)}
        others = foreign.layers_elsewhere(base)
    finally:
        foreign.remove(base)
    if not layers:
        raise LoraError(
            f"{path} cannot be trained further, it is not a LoRA of the layers that draw; choose another file."
        )
    if others:
        told.append(f"{others} layers of {path.name} are of text encoders, which are not trained, and were left out.")
    return Beginning(path, layers, told)


def take_over(base: BaseModel, beginning: Beginning) -> list[str]:
    """Give the attached LoRA, which changes nothing yet, what a file adds to the same layers.

    A file of a lower rank is taken over exactly, and the ranks left are as new; of a higher one, the best that the rank holds.

    Returns:
        Sentences: what of the file was not taken over.

    Raises:
        LoraError: it has none of the layers that are trained.
    """
    own = {name: layer for name, layer in base.denoiser.named_modules() if isinstance(layer, LoraLayer)}
    shared = own.keys() & beginning.layers.keys()
    if not shared:
        raise LoraError(
            f"{beginning.path} has none of the layers that are trained; turn feed_forward or convolutions on, or begin anew."
        )
    shortened = 0
    for name in sorted(shared):
        layer, factors = own[name], beginning.layers[name]
        shortened += _set(layer, factors)
    told = list(beginning.told)
    left = len(beginning.layers) - len(shared)
    if left:
        told.append(f"{left} layers of {beginning.path.name} are not trained with these settings and were left out.")
    if shortened:
        told.append(
            f"{shortened} layers of {beginning.path.name} have a higher rank; what rank holds of them was taken."
        )
    return told


def _copied(layer: LoraLayer) -> Factors:
    down, up, scale = adapter.factors(layer)
    return Factors(down.detach().float().cpu().clone(), up.detach().float().cpu().clone(), scale)


def _set(layer: LoraLayer, factors: Factors) -> bool:
    """Set A and B of one layer; returns whether something of the file was lost."""
    down, up, scale = adapter.factors(layer)
    rank = len(down)
    wanted_down, wanted_up = factors.down.flatten(1), factors.up.flatten(1) * (factors.scale / scale)
    is_shortened = len(wanted_down) > rank
    if is_shortened:
        wanted_down, wanted_up = _best(wanted_down, wanted_up, rank)
    count = len(wanted_down)
    with torch.no_grad():
        down[:count] = wanted_down.view(count, *down.shape[1:]).to(down)
        up.zero_()
        up[:, :count] = wanted_up.view(len(up), count, *up.shape[2:]).to(up)
    return is_shortened


def _best(down: Tensor, up: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """A and B of a lower rank whose product is nearest to up @ down, the weight between them shared out evenly."""
    left, left_rest = torch.linalg.qr(up)
    right, right_rest = torch.linalg.qr(down.T)
    inner_left, sizes, inner_right = torch.linalg.svd(left_rest @ right_rest.T)
    roots = sizes[:rank].sqrt()
    return (right @ inner_right[:rank].T * roots).T, left @ inner_left[:, :rank] * roots
