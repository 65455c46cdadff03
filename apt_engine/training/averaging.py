"""A running mean of the LoRA's weights over the steps: steadier than the weights, which tremble with each step's few samples.

    mean <- d mean + (1 - d) weights,  d = min(decay, (1 + step) / (10 + step))

The second term keeps the first steps from being remembered for ever. The optimizer goes on with the weights themselves.
"""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

TRAINED = "trained."  # before the names of weights whose mean is what a checkpoint's LoRA holds


def decay_at(step: int, decay: float) -> float:
    """What the mean keeps of itself at a step, the first one being 1."""
    return min(decay, (1 + step) / (10 + step))


class Average:
    """The running mean of some parameters; with a decay of 0 it is the parameters themselves, and costs nothing.

    Args:
        parameters: by name.
        decay: 0 .. 1.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters = parameters
        self._decay = decay
        self._means = {name: parameter.detach().clone() for name, parameter in parameters.items()} if decay else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step."""
        for name, mean in self._means.items():
            mean.lerp_(self._parameters[name], 1 - decay_at(step, self._decay))

    @contextlib.contextmanager
    def worn(self) -> Iterator[None]:
        """The mean in place of the weights inside; afterwards, also after an exception, they are back to the bit."""
        trained = self.state_dict()
        self._put(self._means)
        try:
            yield
        finally:
            self._put({name.removeprefix(TRAINED): value for name, value in trained.items()})

    def state_dict(self) -> dict[str, Tensor]:
        """The weights themselves, to be kept beside a checkpoint of the mean; nothing where they are the same."""
        return {TRAINED + name: self._parameters[name].detach().clone() for name in self._means}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint whose LoRA the parameters have by now: that is the mean, and `state` has the weights."""
        for name, mean in self._means.items():
            mean.copy_(self._parameters[name].detach())
        self._put({name.removeprefix(TRAINED): value for name, value in state.items() if name.startswith(TRAINED)})

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, value in values.items():
            self._parameters[name].copy_(value)
