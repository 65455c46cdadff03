"""The processes that share the samples of each step. One alone unless started by `accelerate launch`."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor

from apt_engine.errors import ConfigError


def _same(tensor: Tensor) -> Tensor:
    return tensor


@dataclass(frozen=True)
class Processes:
    """This process among all. Samples are numbered over the joint batch, so that any number of processes draws the same.

    Attributes:
        index: of this process, 0 .. count - 1; process 0 writes and draws pictures.
        add_up: sum over all processes of a small tensor, the same on each afterwards.
        join: the tensors (B, ...) of all processes one after the other.
    """

    index: int = 0
    count: int = 1
    add_up: Callable[[Tensor], Tensor] = _same
    join: Callable[[Tensor], Tensor] = _same

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and events."""
        return self.index == 0

    def samples(self, batch_size: int) -> range:
        """The samples of the joint batch that fall to this process.

        Raises:
            ConfigError: the batch cannot be cut into equal parts.
        """
        share, rest = divmod(batch_size, self.count)
        if rest or not share:
            raise ConfigError(
                f"batch_size {batch_size} cannot be shared by {self.count} processes; choose a multiple of it."
            )
        return range(self.index * share, (self.index + 1) * share)

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean over all processes."""
        return self.add_up(tensor) / self.count if self.count > 1 else tensor

    def any(self, fact: bool) -> bool:
        """Whether it holds in any process."""
        return bool(self.add_up(torch.tensor(float(fact)))) if self.count > 1 else fact

    def from_first(self, number: float | None) -> float | None:
        """What process 0 found, in all of them; None where it found nothing or no finite number."""
        if self.count == 1:
            return number
        own = math.nan if number is None else number
        shared = float(self.add_up(torch.tensor(own if self.is_first else 0.0, dtype=torch.float64)))
        return shared if math.isfinite(shared) else None

    def average_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Give each parameter the mean of its gradients over all processes, in one exchange."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        joint = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, part in zip(gradients, joint.split([item.numel() for item in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))


ALONE = Processes()


def processes_of(accelerator: Accelerator) -> Processes:
    """All that an accelerator knows of."""

    def add_up(tensor: Tensor) -> Tensor:
        total = accelerator.reduce(tensor.to(accelerator.device), "sum")
        assert isinstance(total, Tensor)
        return total.to(tensor.device)

    def join(tensor: Tensor) -> Tensor:
        joint = accelerator.gather(tensor)
        assert isinstance(joint, Tensor)
        return joint

    if accelerator.num_processes == 1:
        return ALONE
    return Processes(accelerator.process_index, accelerator.num_processes, add_up, join)
