"""The weights of RS and AA, which the paper does not print: found once, then frozen.

    lambda = 0.2 |grad L_aptDM| / |grad L_RS or L_AA|, norms over the LoRA's parameters

summed over the steps up to the calibration step, since one step's gradient says little.
"""

import torch
from torch import Tensor, nn

from apt_engine.settings.training import TrainingConfig
from apt_engine.training.processes import Processes

SHARE = 0.2
STEPS = 5
NAMES: tuple[str, ...] = ("stabilization", "alignment")


class Lambdas:
    """Lambda of RS and AA at strength 1. Those set in the config hold from the first step, others from their calibration."""

    def __init__(self, config: TrainingConfig, processes: Processes) -> None:
        self._processes = processes
        self._strengths = {name: getattr(config, name) for name in NAMES}
        self._last_step = config.calibration_step
        self.values = {name: getattr(config, f"{name}_lambda") for name in NAMES}
        self._norms = torch.zeros(len(NAMES), 2, dtype=torch.float64)  # of each: denoising's gradient, and its own

    @property
    def open(self) -> list[str]:
        """The ones in use that are not known yet."""
        return [name for name in NAMES if self._strengths[name] and not self.values[name]]

    def total(
        self, step: int, denoising: Tensor, stabilization: Tensor, alignment: Tensor, denoiser: nn.Module
    ) -> Tensor:
        """L_aptDM + lambda_rs L_RS + lambda_aa L_AA, scalars; around the calibration step it also measures."""
        losses: dict[str, Tensor] = dict(zip(NAMES, (stabilization, alignment), strict=True))
        if self.open and self._last_step - STEPS < step <= self._last_step:
            self._measure(denoising, losses, [item for item in denoiser.parameters() if item.requires_grad])
            if step == self._last_step:
                self._freeze()
        total = denoising
        for name, loss in losses.items():
            if self._strengths[name] and self.values[name]:
                total = total + self._strengths[name] * self.values[name] * loss
        return total

    def state_dict(self) -> dict[str, Tensor]:
        """Values and the sums they come from."""
        return {
            "lambdas": torch.tensor([self.values[name] for name in NAMES], dtype=torch.float64),
            "norms": self._norms,
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a saved state, exactly."""
        self.values = dict(zip(NAMES, state["lambdas"].tolist(), strict=True))
        self._norms = state["norms"].clone()

    def _measure(self, denoising: Tensor, losses: dict[str, Tensor], parameters: list[nn.Parameter]) -> None:
        ours = self._gradient_norm(denoising, parameters)
        for index, name in enumerate(NAMES):
            if name in self.open:
                pair = torch.tensor([ours, self._gradient_norm(losses[name], parameters)])
                self._norms[index] += pair if torch.isfinite(pair).all() else 0

    def _freeze(self) -> None:
        for index, name in enumerate(NAMES):
            ours, theirs = self._norms[index].tolist()
            if name in self.open and theirs > 0:
                self.values[name] = SHARE * ours / theirs

    def _gradient_norm(self, loss: Tensor, parameters: list[nn.Parameter]) -> float:
        """Norm over all parameters of the joint batch's gradient; the graph is kept."""
        gradients = torch.autograd.grad(loss, parameters, retain_graph=True, materialize_grads=True)
        return float(self._processes.mean(torch.cat([gradient.flatten() for gradient in gradients])).norm())
