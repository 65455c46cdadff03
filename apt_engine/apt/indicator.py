"""The overfitting indicator: how much better than the pretrained model the tuned one denoises the photos, bin by bin.

    E_b[L]  <- (1 - a) E_b[L] + a mean of this step's L in bin b,  a = 0.1, first value copied [readers]
    gamma_b  = 1 - exp(-S (E_b[L_ref] - E_b[L_tuned]))             absolute [readers]; S = 1000 for SD and SDXL [readers]
    gamma_b  = 1 - exp(-k max(0, 1 - E_b[L_tuned] / E_b[L_ref]))   relative [ours]: needs no scale of the loss

[ours]: gamma is clamped to [0, 0.99], since a gap of -0.01 would give a weight of e^10 at
S = 1000; a bin counts only after 5 visits; the raw value is kept for the record. Losses live in eps space.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from apt_engine.apt.bins import BINS, sums_and_counts

EMA_RATE = 0.1
GAMMA_MAX = 0.99
VISITS_NEEDED = 5


def gamma_absolute(tuned_loss: Tensor, reference_loss: Tensor, sensitivity: float) -> Tensor:
    """Raw gamma of mean losses of any one shape: 1 - exp(-S (L_ref - L_tuned)); negative where the tuned model is worse."""
    return 1 - torch.exp(-sensitivity * (reference_loss - tuned_loss))


def gamma_relative(tuned_loss: Tensor, reference_loss: Tensor, sensitivity: float) -> Tensor:
    """Raw gamma from the ratio of the losses: 1 - exp(-k max(0, 1 - L_tuned / L_ref)); 0 where the reference loss is 0."""
    ratio = torch.where(reference_loss > 0, tuned_loss / reference_loss, torch.ones_like(tuned_loss))
    return 1 - torch.exp(-sensitivity * (1 - ratio).clamp(min=0))


FORMS = {"absolute": gamma_absolute, "relative": gamma_relative}


@dataclass
class OverfittingIndicator:
    """Running mean losses of both passes in each timestep bin.

    The one that is kept lives on the CPU in fp64. Copies of it tell a step on the device its weights before the step's numbers
    come to the CPU; not every device has fp64, and nothing here waits for one.

    Attributes:
        form: absolute or relative.
        sensitivity: S of the absolute form, k of the relative one; > 0.
        tuned_loss, reference_loss: E_b of both (N,).
        visits: samples seen in each bin (N,).
    """

    form: str
    sensitivity: float
    tuned_loss: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))
    reference_loss: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))
    visits: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))

    def update(self, sums: Tensor, counts: Tensor) -> None:
        """Take in one step.

        Args:
            sums: (2, N) sums over this step's samples of tuned and of reference loss in each bin.
            counts: (N,) how many samples fell into each bin. Add both over all processes first.
        """
        means = sums / counts.clamp(min=1)  # (2, N)
        rate = torch.where(self.visits == 0, 1.0, EMA_RATE)  # (N,)
        before = torch.stack([self.tuned_loss, self.reference_loss])
        self.tuned_loss, self.reference_loss = torch.where(counts > 0, before + rate * (means - before), before)
        self.visits = self.visits + counts

    def on(self, device: torch.device) -> "OverfittingIndicator":
        """A copy on a device, in fp32."""
        state = torch.stack([self.tuned_loss, self.reference_loss, self.visits]).float().to(device)  # one upload
        return OverfittingIndicator(self.form, self.sensitivity, *state)

    def raw_gamma(self) -> Tensor:
        """Gamma of every bin (N,) before clamping; 0 for bins never visited."""
        raw = FORMS[self.form](self.tuned_loss, self.reference_loss, self.sensitivity)
        return torch.where(self.visits > 0, raw, torch.zeros_like(raw))

    def gamma(self) -> Tensor:
        """Gamma of every bin (N,) in 0 .. 0.99; 0 until a bin was visited 5 times."""
        gamma = self.raw_gamma().clamp(0, GAMMA_MAX)
        return torch.where(self.visits >= VISITS_NEEDED, gamma, torch.zeros_like(gamma))

    def state_dict(self) -> dict[str, Tensor]:
        """What must survive a resume."""
        return {"tuned_loss": self.tuned_loss, "reference_loss": self.reference_loss, "visits": self.visits}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved state, exactly."""
        self.tuned_loss, self.reference_loss, self.visits = (
            state[name].clone() for name in ("tuned_loss", "reference_loss", "visits")
        )


def step_sums(tuned: Tensor, reference: Tensor, bin_indices: Tensor) -> tuple[Tensor, Tensor]:
    """Sums (2, N) of the per-sample losses (B,) of both passes in each bin, and counts (N,), as `update` wants them.

    Samples in bin -1, and those with a loss that is not finite, are left out.
    """
    is_finite = torch.isfinite(tuned) & torch.isfinite(reference)
    bin_indices = torch.where(is_finite, bin_indices, -1)
    tuned_sums, counts = sums_and_counts(tuned, bin_indices)
    reference_sums, _ = sums_and_counts(reference, bin_indices)
    return torch.stack([tuned_sums, reference_sums]), counts
