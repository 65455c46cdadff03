"""The lambdas of RS and AA, which the paper does not print: found once, by the force of each term, then frozen.

    lambda = 0.2 |grad L_aptDM| / |grad L_RS or L_AA|, norms over the LoRA's parameters

summed over the steps up to the calibration step, since one step's gradient says little. Each lambda is the one at strength 1;
what counts in the objective is that times the strength in the config.
"""

import torch
from torch import Tensor, nn

from apt_engine.apt.objective import Terms
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.processes import Processes

SHARE = 0.2
STEPS = 5
NAMES: tuple[str, ...] = ("stabilization", "alignment")


class LossWeights:
    """The lambdas. Those set in the config hold from the first step, others from their calibration; until then they are 0.

    Attributes:
        values: lambda of each name at strength 1.
    """

    def __init__(self, config: TrainingConfig, processes: Processes) -> None:
        self._processes = processes
        self._strengths = {name: float(getattr(config, name)) for name in NAMES}
        self._last_step = config.calibration_step
        self.values = {name: float(getattr(config, f"{name}_lambda")) for name in NAMES}
        self._norms = torch.zeros(len(NAMES), 2, dtype=torch.float64)  # rows as NAMES; norms of L_aptDM and of the term

    @property
    def lambda_rs(self) -> float:
        """Weight of L_RS in the objective."""
        return self._strengths["stabilization"] * self.values["stabilization"]

    @property
    def lambda_aa(self) -> float:
        """Weight of L_AA in the objective."""
        return self._strengths["alignment"] * self.values["alignment"]

    @property
    def unknown(self) -> list[str]:
        """Terms that are in use and have no lambda yet."""
        return [name for name in NAMES if self._strengths[name] and not self.values[name]]

    def calibrate(self, step: int, terms: Terms, denoiser: nn.Module) -> None:
        """Measure at the steps up to the calibration step, and find the unknown lambdas there; else nothing."""
        if not self.unknown or not self._last_step - STEPS < step <= self._last_step:
            return
        self._measure(terms, [parameter for parameter in denoiser.parameters() if parameter.requires_grad])
        if step == self._last_step:
            self._freeze()

    def state_dict(self) -> dict[str, Tensor]:
        """Lambdas and the sums they come from."""
        return {
            "lambdas": torch.tensor([self.values[name] for name in NAMES], dtype=torch.float64),
            "norms": self._norms,
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a saved state, exactly."""
        self.values = dict(zip(NAMES, state["lambdas"].tolist(), strict=True))
        self._norms = state["norms"].clone()

    def _measure(self, terms: Terms, parameters: list[nn.Parameter]) -> None:
        """Add the norms of this step, unless one is not finite."""
        adapted = self._gradient_norm(terms.adapted, parameters)
        for index, name in enumerate(NAMES):
            if name in self.unknown:
                pair = torch.tensor([adapted, self._gradient_norm(getattr(terms, name), parameters)])
                self._norms[index] += pair if torch.isfinite(pair).all() else 0

    def _freeze(self) -> None:
        for index, name in enumerate(NAMES):
            adapted, own = self._norms[index].tolist()
            if name in self.unknown and own > 0:
                self.values[name] = SHARE * adapted / own

    def _gradient_norm(self, term: Tensor, parameters: list[nn.Parameter]) -> float:
        """Norm over all parameters of the joint batch's gradient of a term (); the graph is kept."""
        gradients = torch.autograd.grad(term, parameters, retain_graph=True, materialize_grads=True)
        return float(self._processes.mean(torch.cat([gradient.flatten() for gradient in gradients])).norm())  # (all,)
