"""The objective of APT, the last line of the method: what a step makes smaller.

    L = (1 - gamma) L_tuned + lambda_rs L_RS + lambda_aa L_AA

gamma is the overfitting indicator of each sample's own timestep bin; RS and AA are not weighed by it.
(1 - gamma) and RS with its lambda are [readers]; that AA has a lambda of its own is [ours], as are weights by noise level
inside the first term (min-SNR), where they are switched on. B samples of a step; each term is a mean over them.
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The three terms of a step before their lambdas, scalars with their graphs: L_aptDM, L_RS, L_AA."""

    adapted: Tensor
    stabilization: Tensor
    alignment: Tensor


def loss_weight(gamma: Tensor) -> Tensor:
    """Weight (B,) of each sample's denoising loss, 1 - gamma of its bin: L_aptDM = (1 - gamma_b) L [readers]."""
    return 1 - gamma


def terms_of(
    weights: Tensor, tuned: Tensor, stabilization: Tensor, alignment: Tensor, noise_weights: Tensor | float = 1.0
) -> Terms:
    """The terms of a step.

    Args:
        weights: 1 - gamma (B,).
        tuned: L_tuned (B,), the squared error of the tuned pass.
        stabilization: L_RS = L_mu + L_sigma (B,).
        alignment: L_AA = L_attn (B,).
        noise_weights: (B,), of each sample by its noise level.
    """
    return Terms(
        adapted=(weights * noise_weights * tuned).mean(),  # (B,) -> ()
        stabilization=stabilization.mean(),  # (B,) -> ()
        alignment=alignment.mean(),  # (B,) -> ()
    )


def objective(terms: Terms, lambda_rs: float, lambda_aa: float) -> Tensor:
    """L, a scalar; both lambdas are >= 0."""
    return terms.adapted + _weigh(lambda_rs, terms.stabilization) + _weigh(lambda_aa, terms.alignment)


def _weigh(weight: float, term: Tensor) -> Tensor:
    """A weighed term (); at 0 without a graph: that spares its backward pass, and 0 times infinity would be NaN."""
    return weight * term if weight else term.new_zeros(())
