"""The lambdas of RS and AA, which the paper does not print: found by the force of each term, and kept to it.

    lambda = 0.2 |grad L_aptDM| / |grad L_RS or L_AA|, norms over the LoRA's parameters

Its geometric mean over the steps up to the calibration step, since one step's gradient says little; how far steps differ is
told with it. From then on every 50th step moves it a quarter of the way, on a logarithmic scale, to what that step says: the
first lambdas are found while the LoRA has hardly moved, and soon pull with half of that force. Each is the lambda at strength 1;
what counts in the objective is that times the strength in the config.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from apt_engine.apt.objective import Terms
from apt_engine.errors import RunError
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.processes import Processes

SHARE = 0.2
STEPS = 20
AGAIN_EVERY = 50  # steps; one that is measured takes about 2.3 times as long, so a run 2.6 % longer
MOVED_BY = 0.25
EARLIEST = 20  # before that the LoRA has hardly moved: RS and AA, squares of what it moves, pull with next to nothing
NAMES: tuple[str, ...] = ("stabilization", "alignment")


class LossWeights:
    """The lambdas: those set in the config hold from the first step, others are 0 up to the calibration step.

    Args:
        steps: of the whole run; a short one calibrates early, to use RS and AA for four fifths of it.
        scale: as a loss is scaled before its gradients are taken. In half precision the gradients of RS and AA alone would
            vanish. It cancels in the ratio.

    Attributes:
        values: lambda of each name at strength 1.
        spreads: of calibrated ones, the factor by which single steps differ (one standard deviation), >= 1.
    """

    def __init__(
        self, config: TrainingConfig, steps: int, processes: Processes, scale: Callable[[Tensor], Tensor]
    ) -> None:
        self._processes = processes
        self._scale = scale
        self._strengths = {name: float(getattr(config, name)) for name in NAMES}
        self._steps = steps
        self._last_step = calibration_step(config, steps)
        self._set = {name: float(getattr(config, f"{name}_lambda")) for name in NAMES}
        self.values = dict(self._set)
        # How many ratios, sum of their logarithms, of the squares.
        self._logs = torch.zeros(len(NAMES), 3, dtype=torch.float64)
        self._is_whole = processes.count * config.accumulate == 1
        self._norms: list[Tensor] = []  # () of this step's terms, where a step is one batch in one process
        self._gradients: dict[str, Tensor] = {}  # else (all parameters,), summed over micro-batches

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

    @property
    def measured(self) -> list[str]:
        """Terms that are in use and whose lambda is not set."""
        return [name for name in NAMES if self._strengths[name] and not self._set[name]]

    @property
    def spreads(self) -> dict[str, float]:
        """See above."""
        found = {}
        for name, (count, total, squares) in zip(NAMES, self._logs.tolist(), strict=True):
            if count > 1:
                found[name] = math.exp(math.sqrt(max(0.0, squares - total**2 / count) / (count - 1)))
        return found

    @property
    def notice(self) -> str | None:
        """What a person should know before the start: that RS and AA are off for more than a fifth of the run."""
        if not self.unknown or 5 * self._last_step <= self._steps:
            return None
        remedy = "train longer, or set stabilization_lambda and alignment_lambda"
        if self._last_step >= self._steps:
            return (
                f"RS and AA stay off: this run of {self._steps} steps ends before their weights would be found, at step "
                f"{self._last_step}; {remedy}."
            )
        return (
            f"RS and AA are off up to step {self._last_step} of {self._steps}, where their weights are found; {remedy}."
        )

    def measure(self, step: int, terms: Terms, denoiser: nn.Module) -> None:
        """Take the gradients of a micro-batch's terms at the steps up to the calibration step and at every 50th; else nothing.

        Where no step up to there gave finite numbers, the following ones are measured until one does. Gradients are kept only
        where others are to be added: three of them take 370 MB for SDXL at rank 16, half of a checkpointed step's memory.
        """
        names = self.unknown or (self.measured if step % AGAIN_EVERY == 0 else [])
        if not names or step <= self._last_step - STEPS:
            return
        parameters = [parameter for parameter in denoiser.parameters() if parameter.requires_grad]
        for name in ("adapted", *names):
            term = self._scale(getattr(terms, name))
            parts = torch.autograd.grad(term, parameters, retain_graph=True, materialize_grads=True)
            if self._is_whole:
                self._norms.append(torch.nn.utils.get_total_norm(parts))
                continue
            gradient = torch.cat([part.flatten() for part in parts])  # (all,)
            self._gradients[name] = self._gradients[name] + gradient if name in self._gradients else gradient

    def norms(self) -> Tensor:
        """Norms (k,) of the joint batch's gradients, on the device: L_aptDM, then the unknown terms; (0,) if not measured."""
        norms = self._norms or [self._processes.mean(gradient).norm() for gradient in self._gradients.values()]
        self._norms, self._gradients = [], {}
        return torch.stack(norms) if norms else torch.zeros(0)

    def take_in(self, step: int, norms: Sequence[float]) -> None:
        """This step's norms, on the host; from the calibration step on, lambdas follow from all of them."""
        is_found = not self.unknown
        for name, own in zip(self.unknown or self.measured, norms[1:], strict=False):
            ratio = SHARE * norms[0] / own if own else math.inf
            if 0 < ratio < math.inf:
                log = math.log(ratio)
                if is_found:
                    self.values[name] *= math.exp(MOVED_BY * (log - math.log(self.values[name])))
                    continue
                self._logs[NAMES.index(name)] += torch.tensor([1.0, log, log * log], dtype=torch.float64)
        if norms and step >= self._last_step:
            self._freeze()

    def state_dict(self) -> dict[str, Tensor]:
        """Lambdas and the sums they come from."""
        return {
            "lambdas": torch.tensor([self.values[name] for name in NAMES], dtype=torch.float64),
            "lambda_logs": self._logs,
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a saved state, exactly. Where the sums are of an earlier version, they begin anew.

        Raises:
            RunError: the settings hold another lambda than the run was trained with.
        """
        values = dict(zip(NAMES, state["lambdas"].tolist(), strict=True))
        for name, value in values.items():
            if self._set[name] and self._set[name] != value:
                raise RunError(
                    f"This run was trained with {name}_lambda {value:g}, and its settings now say {self._set[name]:g}; set it "
                    "back, or start a new run."
                )
        self.values = values
        self._logs = state.get("lambda_logs", torch.zeros_like(self._logs)).clone()

    def _freeze(self) -> None:
        for name in self.unknown:
            count, total, _ = self._logs[NAMES.index(name)].tolist()
            if count:
                self.values[name] = math.exp(total / count)


def calibration_step(config: TrainingConfig, steps: int) -> int:
    """Where unset lambdas are found: as set, but within the first fifth of the run's steps unless that has too few."""
    fifth = steps // 5
    return min(config.calibration_step, fifth) if fifth >= EARLIEST else config.calibration_step
