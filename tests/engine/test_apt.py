"""The formulas of APT with numbers worked by hand, and the laws that hold for them alone."""

import math

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

from apt_engine.apt.augment import Warp, augmentation_probability, draw_warp, latent_mask, warp_pixels
from apt_engine.apt.bins import bin_of, sums_and_counts
from apt_engine.apt.indicator import OverfittingIndicator, gamma_absolute, gamma_relative, step_sums
from apt_engine.apt.losses import alignment, channel_statistics, masked_mean, min_snr_weight, shares, stabilization
from apt_engine.apt.objective import loss_weight, objective, terms_of
from apt_engine.bases import random


def test_bins_cut_the_range_into_equal_parts() -> None:
    assert bin_of(torch.tensor([0, 99, 100, 550, 999]), 1000).tolist() == [0, 0, 1, 5, 9]
    assert torch.bincount(bin_of(torch.arange(1000), 1000)).tolist() == [100] * 10


def test_sums_and_counts_of_two_halves_add_up() -> None:
    values, bins = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([0, 3, 3, 9])
    sums, counts = sums_and_counts(values, bins)
    assert sums.tolist() == [1, 0, 0, 6, 0, 0, 0, 0, 0, 8]
    assert counts.tolist() == [1, 0, 0, 2, 0, 0, 0, 0, 0, 1]
    halves = [sums_and_counts(values[part], bins[part]) for part in (slice(0, 2), slice(2, 4))]
    assert (halves[0][0] + halves[1][0] == sums).all()


def test_gamma_by_hand() -> None:
    tuned, reference = torch.tensor([0.1, 0.1, 0.101]), torch.tensor([0.1, 0.101, 0.1])
    assert gamma_absolute(tuned, reference, 1000).tolist() == pytest.approx([0, 1 - math.exp(-1), 1 - math.e], rel=1e-4)
    tuned, reference = torch.tensor([0.2, 0.1, 0.3, 0.1]), torch.tensor([0.2, 0.2, 0.2, 0.0])
    assert gamma_relative(tuned, reference, 2.0).tolist() == pytest.approx([0, 1 - math.exp(-1), 0, 0])


def test_a_large_gap_weighs_as_dco_does() -> None:
    """1 - gamma = exp(-S gap) tends to sigmoid(-S gap) for a gap far above 1/S (arXiv 2402.12004)."""
    gaps = torch.tensor([5.0, 10.0, 20.0], dtype=torch.float64) / 1000
    weight = loss_weight(gamma_absolute(torch.zeros_like(gaps), gaps, 1000))
    ratio = weight / torch.sigmoid(-1000 * gaps)
    assert (ratio - 1).abs().tolist() == sorted((ratio - 1).abs().tolist(), reverse=True)
    assert float(ratio[-1]) == pytest.approx(1, abs=1e-7)


def test_the_objective_by_hand() -> None:
    """(.5 * 2 + .25 * 4) / 2 = 1, of which noise level 2 counts half: (1 + .5) / 2; RS 3, AA 5 on the mean."""
    weights = loss_weight(torch.tensor([0.5, 0.75]))
    tuned, features, maps = torch.tensor([2.0, 4.0]), torch.tensor([2.0, 4.0]), torch.tensor([4.0, 6.0])
    terms = terms_of(weights, tuned, features, maps)
    assert [term.item() for term in (terms.adapted, terms.stabilization, terms.alignment)] == [1, 3, 5]
    assert objective(terms, 0.5, 0.25).item() == 1 + 1.5 + 1.25
    assert objective(terms, 0.0, 0.25).item() == 1 + 1.25
    leveled = terms_of(weights, tuned, features, maps, torch.tensor([1.0, 0.5]))
    assert leveled.adapted.item() == 0.75


def test_a_term_without_a_weight_sends_nothing_back() -> None:
    good, bad = (torch.tensor([1.0], requires_grad=True) for _ in range(2))
    total = objective(terms_of(torch.ones(1), good, bad * float("inf"), bad * float("nan")), 0.0, 0.0)
    total.backward()
    assert total.item() == 1
    assert good.grad is not None
    assert bad.grad is None


def test_min_snr_weights_by_hand() -> None:
    snr = torch.tensor([0.5, 5.0, 20.0])
    of_noise, of_velocity = torch.ones(3), snr / (snr + 1)
    torch.testing.assert_close(min_snr_weight(snr, of_noise, 5), torch.tensor([1.0, 1.0, 0.25]))
    torch.testing.assert_close(min_snr_weight(snr, of_velocity, 5), torch.tensor([1 / 3, 5 / 6, 5 / 21]))
    assert min_snr_weight(snr, of_noise, 0).tolist() == [1, 1, 1]


def observe(indicator: OverfittingIndicator, tuned: float, reference: float, timestep: int = 0) -> None:
    bins = bin_of(torch.tensor([timestep]), 1000)
    indicator.update(*step_sums(torch.tensor([tuned]), torch.tensor([reference]), bins))


def test_the_running_mean_copies_first_and_then_moves_a_tenth() -> None:
    indicator = OverfittingIndicator("absolute", 10)
    observe(indicator, 0.5, 1.0)
    assert (float(indicator.tuned_loss[0]), float(indicator.reference_loss[0])) == (0.5, 1.0)
    observe(indicator, 1.5, 1.0)
    assert float(indicator.tuned_loss[0]) == pytest.approx(0.6)
    assert float(indicator.raw_gamma()[0]) == pytest.approx(1 - math.exp(-10 * 0.4))


def test_gamma_waits_for_five_visits_and_stays_within_bounds() -> None:
    indicator = OverfittingIndicator("absolute", 1000)
    for _ in range(4):
        observe(indicator, 0.0, 1.0)
    assert indicator.gamma().tolist() == [0] * 10
    observe(indicator, 0.0, 1.0)
    assert indicator.gamma().tolist() == [0.99] + [0] * 9
    for _ in range(5):
        observe(indicator, 1.0, 0.5, timestep=999)
    assert float(indicator.gamma()[9]) == 0
    assert float(indicator.raw_gamma()[9]) < -1


def test_samples_of_one_bin_are_averaged_before_the_running_mean() -> None:
    one, many = (OverfittingIndicator("absolute", 10) for _ in range(2))
    bins = torch.tensor([2, 7, 2])
    many.update(*step_sums(torch.tensor([0.2, 5.0, 0.4]), torch.tensor([1.0, 6.0, 3.0]), bins))
    observe(one, 0.3, 2.0, timestep=250)
    observe(one, 5.0, 6.0, timestep=750)
    torch.testing.assert_close(one.tuned_loss, many.tuned_loss)
    torch.testing.assert_close(one.reference_loss, many.reference_loss)
    assert many.visits.tolist() == [0, 0, 2, 0, 0, 0, 0, 1, 0, 0]


def test_equal_losses_give_no_gamma() -> None:
    for form in ("absolute", "relative"):
        indicator = OverfittingIndicator(form, 1000)
        for timestep in range(0, 1000, 7):
            observe(indicator, 0.123, 0.123, timestep)
        assert indicator.gamma().tolist() == [0] * 10


def test_the_indicator_survives_a_resume_exactly() -> None:
    first = OverfittingIndicator("absolute", 10)
    for step in range(30):
        observe(first, 0.5 + step / 100, 1.0, (step * 37) % 1000)
    second = OverfittingIndicator("absolute", 10)
    second.load_state_dict(first.state_dict())
    for indicator in (first, second):
        observe(indicator, 0.2, 1.0, 500)
    assert (first.gamma() == second.gamma()).all()
    assert (first.visits == second.visits).all()


def test_the_chance_of_a_warp_is_gamma_within_bounds() -> None:
    assert [augmentation_probability(gamma, 0.8) for gamma in (-1, 0, 0.5, 0.99)] == [0, 0, 0.5, 0.8]


def test_warps_are_drawn_over_the_whole_range() -> None:
    warps = [draw_warp(random.generator(0, step, 0, "warp")) for step in range(300)]
    zooms, turns = [warp.zoom for warp in warps], [warp.rotation_degrees for warp in warps]
    assert 1 <= min(zooms) < 1.05
    assert 2.95 < max(zooms) <= 3
    assert -15 <= min(turns) < -14
    assert 14 < max(turns) <= 15
    assert sum(zooms) / 300 == pytest.approx(2, abs=0.1)
    corners = [zoom > 2 for zoom, turn in zip(zooms, turns, strict=True) if turn > 0]
    assert 50 < sum(corners) < len(corners) - 50


def photo(side: int = 48) -> Tensor:
    return torch.rand(3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_no_warp_changes_nothing() -> None:
    pixels = photo()
    warped, mask = warp_pixels(pixels, Warp(1, 0))
    torch.testing.assert_close(warped, pixels)
    assert mask.min() == 1
    assert latent_mask(mask, 8).min() == 1


def test_zoom_shrinks_the_photo_to_the_middle_on_black() -> None:
    warped, mask = warp_pixels(torch.ones(3, 48, 48), Warp(3, 0))
    assert float(mask.sum()) == 16 * 16
    torch.testing.assert_close(warped[:, mask == 1], torch.ones(3, 256))
    assert (warped[:, :15] == -1).all()
    assert (mask[16:32, 16:32] == 1).all()


def test_a_shrunk_pattern_becomes_gray() -> None:
    stripes = torch.ones(3, 48, 48)
    stripes[:, :, ::2] = -1
    warped, mask = warp_pixels(stripes, Warp(3, 0))
    assert warped[:, mask == 1].abs().max() < 0.5


def test_the_mask_counts_no_pixel_that_is_partly_black() -> None:
    for warp in (Warp(1.7, 12), Warp(2.9, -7)):
        warped, mask = warp_pixels(torch.ones(3, 48, 48), warp)
        assert warped[:, mask == 1].min() > 0.999
        assert warped[:, mask == 0].max() < 0.9999


@pytest.mark.parametrize("width", [65, 97])
def test_a_turn_is_counter_clockwise_like_pillows(width: int) -> None:
    pixels = torch.full((3, 65, width), -1.0)
    pixels[:, 10:20, 40:60] = 1
    warped, _ = warp_pixels(pixels, Warp(1, 15))
    image = Image.fromarray(((pixels[0] + 1) * 127.5).byte().numpy()).rotate(15, Image.Resampling.BILINEAR)
    expected = torch.from_numpy(numpy.array(image)).float() / 127.5 - 1
    assert (warped[0] - expected).abs().mean() < 0.02


def test_the_mask_counts_no_cell_that_touches_the_border() -> None:
    for warp in (Warp(2, 0), Warp(1.7, 12), Warp(3, -15)):
        black_inside, mask = warp_pixels(torch.ones(3, 64, 64), warp)
        cells = latent_mask(mask, 8)
        assert cells.shape == (8, 8)
        full = torch.nn.functional.interpolate(cells[None, None], scale_factor=8)[0, 0] == 1
        torch.testing.assert_close(black_inside[:, full], torch.ones(3, int(full.sum())))
    assert latent_mask(warp_pixels(torch.ones(3, 64, 64), Warp(2, 0))[1], 8).sum() == 2 * 2


def test_a_pixel_outside_costs_its_cell_and_the_neighbors_and_no_other() -> None:
    mask = torch.ones(32, 40)
    mask[13, 22] = 0  # in cell (1, 2)
    assert latent_mask(mask, 8).tolist() == [[1, 0, 0, 0, 1], [1, 0, 0, 0, 1], [1, 0, 0, 0, 1], [1, 1, 1, 1, 1]]


def test_masked_mean_by_hand() -> None:
    values = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[10.0, 20.0], [30.0, 40.0]]]])
    mask = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    assert masked_mean(values, mask).tolist() == [(1 + 4 + 10 + 40) / 4]
    assert masked_mean(values, torch.ones(1, 2, 2)).tolist() == [float(values.mean())]
    assert masked_mean(values, torch.zeros(1, 2, 2)).tolist() == [0]


def test_channel_statistics_by_hand() -> None:
    features = torch.tensor([[[1.0, 5.0], [3.0, 5.0], [100.0, 100.0]]])
    mean, deviation = channel_statistics(features, torch.tensor([[1.0, 1.0, 0.0]]))
    assert mean.tolist() == [[2.0, 5.0]]
    torch.testing.assert_close(deviation, torch.tensor([[1.0, 1e-3]]), rtol=1e-5, atol=1e-6)


def test_positions_count_by_their_share() -> None:
    """Weights 1 and 1/3: mean (1 * 3 + 5) / 4 = 2, variance (1 * 3 + 9) / 4 = 3."""
    mean, deviation = channel_statistics(torch.tensor([[[1.0], [5.0], [100.0]]]), torch.tensor([[0.75, 0.25, 0.0]]))
    assert mean.tolist() == [[2.0]]
    torch.testing.assert_close(deviation, torch.tensor([[3.0]]).sqrt())
    maps = torch.zeros(1, 1, 2, 1), torch.tensor([1.0, 2.0])[None, None, :, None]
    assert alignment(*maps, torch.tensor([[0.25, 0.5]])).tolist() == [pytest.approx((1 + 2 * 4) / 3)]


def test_samples_have_shares_of_their_own() -> None:
    mask = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.5, 0.25, 0.25, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert shares(mask).tolist() == [[0.5, 0.5, 0, 0], [0.5, 0.25, 0.25, 0], [0, 0, 0, 0]]


def test_stabilization_by_hand() -> None:
    tuned = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0]])
    reference = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 3.0]])
    assert stabilization(tuned, reference).tolist() == [(1 + 4) / 2 + (0 + 4) / 2]


def test_alignment_by_hand() -> None:
    tuned, reference = torch.zeros(1, 2, 2, 3), torch.zeros(1, 2, 2, 3)
    tuned[0, 0, 0, 0], tuned[0, 1, 0, 1] = 2, 1
    tuned[0, :, 1] = 100  # outside the photo
    assert alignment(tuned, reference, torch.tensor([[1.0, 0.0]])).tolist() == [pytest.approx((4 + 1) / (2 * 3))]
    assert alignment(tuned, reference, torch.zeros(1, 2)).tolist() == [0]


def test_equal_features_and_maps_cost_nothing_and_have_a_finite_gradient() -> None:
    features = torch.ones(2, 6, 3, requires_grad=True)
    statistics = channel_statistics(features, torch.ones(2, 6))
    loss = stabilization(statistics, (statistics[0].detach(), statistics[1].detach())).sum()
    loss.backward()
    assert loss.item() == 0
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
