"""The judge: a small network that tells object, place and treatment of a picture of the pocket model's world.

It has never seen the pocket model. `tools/pocket` trains it on drawn pictures, on blurred and noisy ones and on the
autoencoder's reconstructions, so that softness alone does not fool it. Its own accuracy on pictures it was not trained
on is in its file; print it beside every figure that rests on it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from tools.pocket.judge_network import HEADS, JUDGE_FILE, SIDE, JudgeNetwork


@dataclass(frozen=True)
class Verdict:
    """What the judge sees in one picture; an object of None is an empty place."""

    object: str | None
    place: str
    treatment: str


class Judge:
    """The trained judge.

    Args:
        path: Its weights, with the names of the answers and its own accuracies in the metadata.
    """

    def __init__(self, path: Path = JUDGE_FILE) -> None:
        """Loads the weights."""
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["facts"])
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 - not a dict
        self.accuracy: dict[str, dict[str, float]] = facts["accuracy"]
        self._names: list[list[str | None]] = [facts["names"][head] for head in HEADS]
        self._network = JudgeNetwork([len(names) for names in self._names]).eval()
        self._network.load_state_dict(weights)

    def look(self, pictures: Sequence[Image.Image]) -> list[Verdict]:
        """Tells what each picture shows."""
        answers: list[Verdict] = []
        for row in zip(*(head.argmax(1).tolist() for head in self._scores(pictures)), strict=True):
            thing, place, treatment = (names[index] for names, index in zip(self._names, row, strict=True))
            assert place is not None
            assert treatment is not None
            answers.append(Verdict(thing, place, treatment))
        return answers

    def chances(self, pictures: Sequence[Image.Image], asked: Sequence[tuple[str, str]]) -> list[float]:
        """For each picture how likely it shows the place and the treatment that were asked for, both, from 0 to 1."""
        _, places, treatments = self._scores(pictures)
        _, place_names, treatment_names = self._names
        rows = zip(places.softmax(1), treatments.softmax(1), asked, strict=True)
        return [
            float(in_places[place_names.index(place)] * treated[treatment_names.index(treatment)])
            for in_places, treated, (place, treatment) in rows
        ]

    @torch.no_grad()
    def _scores(self, pictures: Sequence[Image.Image]) -> list[Tensor]:
        """Of objects, places and treatments, (pictures, names) each."""
        batches = [
            self._network(pictures_to_batch(pictures[start : start + 100])) for start in range(0, len(pictures), 100)
        ]
        return [torch.cat(heads) for heads in zip(*batches, strict=True)]


def pictures_to_batch(pictures: Sequence[Image.Image]) -> Tensor:
    """Pictures of any size as (batch, 3, 64, 64) from -1 to 1."""
    small = [np.asarray(picture.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)) for picture in pictures]
    return torch.from_numpy(np.stack(small)).permute(0, 3, 1, 2).float() / 127.5 - 1
