"""Muon: a step for weight matrices along their orthogonalized momentum (Jordan et al. 2024), AdamW for everything else.

torch's own Muon always multiplies in bfloat16, which a processor without instructions for it does ten times slower.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor

MOMENTUM = 0.95
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalize(matrices: Tensor) -> Tensor:
    """Matrices (..., rows, columns) with all singular values moved to about 1: five Newton-Schulz iterations."""
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    result = matrices.mT if is_tall else matrices
    result = result / (result.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    linear, cubic, quintic = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = result @ result.mT
        result = linear * result + (cubic * gram + quintic * gram @ gram) @ result
    return result.mT if is_tall else result


class Muon(torch.optim.AdamW):
    """Two kinds of step in one optimizer; an orthogonal step is scaled to the size of AdamW's (Liu et al. 2025).

    Args:
        matrices: Weights of linear layers between hidden states.
        others: All other parameters.
        rates: The rates of the matrices and of the others.
        weight_decay: Of both.
        multiplied_as: The format in which momentum is orthogonalized.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: Iterable[Tensor],
        rates: tuple[float, float],
        weight_decay: float = 0.01,
        multiplied_as: torch.dtype = torch.float32,
    ) -> None:
        """Keeps matrices of one shape together: they are orthogonalized at once."""
        matrices = list(matrices)
        groups = [{"params": matrices, "peak": rates[0]}, {"params": list(others), "peak": rates[1]}]
        super().__init__(groups, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True)
        self.set_rate(1.0)
        self._multiplied_as = multiplied_as
        alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
        for matrix in matrices:
            alike[matrix.shape].append(matrix)
        self._alike = list(alike.values())

    def set_rate(self, share: float) -> None:
        """Sets both rates to a share of their peaks."""
        for group in self.param_groups:
            group["lr"] = share * group["peak"]

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Steps, and leaves matrices without gradients, which AdamW passes over."""
        rate, decay = self.param_groups[0]["lr"], self.param_groups[0]["weight_decay"]
        for matrices in self._alike:
            momenta = torch.stack([self._momentum(matrix) for matrix in matrices])
            directions = orthogonalize(momenta.to(self._multiplied_as)).float()
            directions *= -rate * 0.2 * max(directions.shape[-2:]) ** 0.5
            torch._foreach_mul_(matrices, 1 - rate * decay)
            torch._foreach_add_(matrices, list(directions))
            for matrix in matrices:
                matrix.grad = None
        super().step(closure)

    def _momentum(self, matrix: Tensor) -> Tensor:
        """Nesterov's: the running mean, then the gradient once more."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if not state:
            state |= {
                "momentum": torch.zeros_like(matrix),
                "step": torch.zeros(()),
            }  # AdamW loads no state without step
        mean = state["momentum"].lerp_(matrix.grad, 1 - MOMENTUM)
        return matrix.grad.lerp(mean, MOMENTUM)
