"""The lambdas of RS and AA: found from the forces of the terms, whatever the strengths, and the same after a resume."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from apt_engine.apt.objective import Terms
from apt_engine.training.calibration import LossWeights, calibration_step
from apt_engine.training.processes import ALONE
from tests.laws import config_of, run, step_of, tuned_base

SCALE = 8.0
UNSET = {"stabilization_lambda": 0, "alignment_lambda": 0}


def weights_of(steps: int = 1000, **settings: Any) -> LossWeights:
    return LossWeights(config_of(**{**UNSET, **settings}), steps, ALONE, lambda loss: SCALE * loss)


def test_a_lambda_is_the_geometric_mean_over_steps_of_a_fifth_of_the_ratio() -> None:
    weights = weights_of(calibration_step=100)
    for step, norms in ((98, (1.0, 2.0, 8.0)), (99, (3.0, 0.0, math.inf)), (100, (4.0, 0.5, 2.0))):
        assert weights.unknown == ["stabilization", "alignment"]
        weights.take_in(step, norms)
    assert weights.values == pytest.approx(
        {"stabilization": 0.2 * math.sqrt(1 / 2 * 4 / 0.5), "alignment": 0.2 * math.sqrt(1 / 8 * 4 / 2)}
    )
    assert weights.spreads["stabilization"] == pytest.approx(math.exp(math.log(16) / math.sqrt(2)))


def test_a_found_lambda_moves_a_quarter_of_the_way_at_every_50th_step() -> None:
    weights = weights_of(calibration_step=2, alignment_lambda=3)
    weights.take_in(2, (1.0, 2.0))
    assert weights.values["stabilization"] == pytest.approx(0.1)
    spreads = weights.spreads
    for norms in ((), (1.0, 0.0), (math.nan, 1.0), (1.0, math.inf)):
        weights.take_in(50, norms)
    assert weights.values["stabilization"] == pytest.approx(0.1)
    weights.take_in(50, (16.0, 2.0))  # that step says 1.6
    assert weights.values == {"stabilization": pytest.approx(0.1 * 2), "alignment": 3}
    assert weights.spreads == spreads
    layer = torch.nn.Linear(1, 1)
    terms = Terms(adapted=layer.weight.sum(), stabilization=2 * layer.weight.sum(), alignment=layer.weight.sum())
    measured: dict[int, list[float]] = {}
    for step in (49, 50, 51, 100):
        weights.measure(step, terms, layer)
        measured[step] = weights.norms().tolist()
    assert measured == {49: [], 50: [SCALE, 2 * SCALE], 51: [], 100: [SCALE, 2 * SCALE]}


def test_no_lambda_without_a_finite_step() -> None:
    weights = weights_of(calibration_step=2)
    for step, norms in ((1, (0.0, 1.0, 1.0)), (2, (math.nan, 1.0, math.inf)), (3, (1.0, 1.0, 0.0))):
        weights.take_in(step, norms)
    assert weights.values == {"stabilization": pytest.approx(0.2), "alignment": 0}
    assert weights.unknown == ["alignment"]
    weights.take_in(4, (3.0, 1.0))
    assert weights.values == {"stabilization": pytest.approx(0.2), "alignment": pytest.approx(0.6)}


@pytest.mark.parametrize(
    ("settings", "steps", "expected"),
    [({}, 1000, 100), ({}, 300, 60), ({}, 100, 20), ({}, 40, 100), ({"calibration_step": 7}, 1000, 7)],
)
def test_a_short_run_calibrates_early(settings: dict[str, Any], steps: int, expected: int) -> None:
    assert calibration_step(config_of(**settings), steps) == expected


def test_what_is_set_or_off_is_not_measured() -> None:
    layer = torch.nn.Linear(1, 1)
    layer.weight.data, layer.bias.data = torch.tensor([[3.0]]), torch.tensor([4.0])
    both = torch.cat([layer.weight.flatten(), layer.bias])
    terms = Terms(adapted=both.sum(), stabilization=both.square().sum(), alignment=2 * both.norm())
    root = math.sqrt(2)
    for settings, expected in (
        (UNSET, [root, 10.0, 2.0]),
        ({**UNSET, "stabilization": 0}, [root, 2.0]),
        ({**UNSET, "alignment_lambda": 3}, [root, 10.0]),
        ({"stabilization_lambda": 3, "alignment": 0}, []),
    ):
        weights = weights_of(**{"calibration_step": 30, **settings})
        for step in (10, 11):
            weights.measure(step, terms, layer)
            assert weights.norms().tolist() == pytest.approx([SCALE * norm for norm in expected] if step == 11 else [])
        cut = weights_of(**{"calibration_step": 30, "accumulate": 2, **settings})
        for _ in range(2):  # micro-batches add up
            cut.measure(30, terms, layer)
        assert cut.norms().tolist() == pytest.approx([2 * SCALE * norm for norm in expected])
        assert not len(cut.norms())


def test_a_lambda_is_that_at_strength_1_and_the_objective_has_it_times_the_strength() -> None:
    found: list[dict[str, float]] = []
    handed: list[float] = []
    parts: list[tuple[float, float]] = []
    for strengths in ((1.0, 1.0), (3.0, 0.25)):
        step = step_of(
            tuned_base(),
            **UNSET,
            stabilization=strengths[0],
            alignment=strengths[1],
            calibration_step=2,
            augmentation=0,
        )
        run(step, range(1, 3))
        found.append(dict(step.loss_weights.values))
        assert (step.loss_weights.lambda_rs, step.loss_weights.lambda_aa) == pytest.approx(
            (strengths[0] * found[0]["stabilization"], strengths[1] * found[0]["alignment"])
        )
        losses: list[Tensor] = []
        result = step(3, losses.append)
        assert result.stabilization is not None
        assert result.alignment is not None
        handed.append(losses[0].item())
        parts.append((result.stabilization.item(), result.alignment.item()))
    assert found[0] == found[1]
    assert found[0]["stabilization"] > 0
    more = 2.0 * found[0]["stabilization"] * parts[0][0] - 0.75 * found[0]["alignment"] * parts[0][1]
    assert parts[0] == pytest.approx(parts[1])
    assert handed[1] - handed[0] == pytest.approx(more, rel=1e-3)
    assert abs(more) > 1e-3


@pytest.mark.parametrize("cut", [2, 3])
def test_a_resumed_calibration_finds_the_same_lambdas(cut: int) -> None:
    base = tuned_base()
    whole, first, second = (step_of(base, **UNSET, calibration_step=3, augmentation=0) for _ in range(3))
    for step, numbers in ((whole, range(1, 5)), (first, range(1, cut + 1))):
        run(step, numbers)
    second.load_state_dict(first.state_dict())
    run(second, range(cut + 1, 5))
    assert second.loss_weights.values == whole.loss_weights.values
    assert all(value > 0 for value in whole.loss_weights.values.values())
