"""The split: which cells a check measures, what that costs, and what is measured."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from apt_engine.apt.bins import BINS
from apt_engine.apt.split import FRAMINGS, MIRROR, SHOT, VIEWS_OF, ZOOM, Cell, all_cells, phases
from apt_engine.apt.stopping import RULE
from apt_engine.bases import random
from apt_engine.bases.base import BaseModel, PromptStates
from apt_engine.bases.registry import load_base
from apt_engine.lora import adapter
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.captions import Captions
from apt_engine.training.checks import cells_of
from apt_engine.training.drift import DRAWING_STEPS, PriorDrift
from apt_engine.training.latents import LatentSource, View
from apt_engine.training.split import SplitProbe, count_different, distance, framed, new_views

PASSES_A_STEP = 3  # of plain training, backward as two; APT has one more
CONFIG = TrainingConfig(subject="car")


def views_of(photos: int, kind: str = "both") -> list[tuple[int, int]]:
    return [(photo, framing) for photo in range(photos) for framing in VIEWS_OF[kind]]


def passes(photos: int, batch_size: int) -> int:
    """Forward passes of all checks and drifts of a run with the default settings, that of the untrained model once a cell."""
    steps = CONFIG.steps_for(photos)
    turns = cells_of(CONFIG.replace(batch_size=batch_size), photos, views_of(photos))
    checks = steps // CONFIG.check_steps(steps)
    split = sum(len(turns[check % len(turns)]) for check in range(checks)) + len(
        {cell for turn in turns for cell in turn}
    )
    drifts = 1 + steps // CONFIG.drift_every_steps
    return split + len(CONFIG.drift_prompts) * (DRAWING_STEPS + drifts + 1)


@pytest.mark.parametrize("batch_size", [1, 2, 4])
@pytest.mark.parametrize("photos", range(1, 16))
def test_checks_cost_less_than_15_percent_of_plain_training_and_less_than_the_samples(
    photos: int, batch_size: int
) -> None:
    steps, cost = CONFIG.steps_for(photos), passes(photos, batch_size)
    assert cost <= 0.15 * PASSES_A_STEP * steps * batch_size
    grid = len(CONFIG.sample_prompts) * CONFIG.sample_steps * 2  # with and without the prompt
    assert cost < grid * (1 + steps // CONFIG.sample_every_steps)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_only_noise_that_the_rule_asks_for_is_measured_unless_an_indicator_needs_the_rest(batch_size: int) -> None:
    config, views = CONFIG.replace(batch_size=batch_size), views_of(5)
    whole = phases(5, views, batch_size)
    counting = [[cell for cell in turn if cell.bin >= RULE.first_bin] for turn in whole]
    assert cells_of(config, 5, views) == counting
    assert all({SHOT} < {cell.framing for cell in turn} for turn in counting)
    assert cells_of(config.replace(indicator="turn"), 5, views) == whole
    assert cells_of(config.replace(thorough_checks=True), 5, views) == [all_cells(5, views)]


def test_larger_steps_afford_more_cells_all_different() -> None:
    turns = phases(3, views_of(3), 4)
    assert [len([cell for cell in turn if cell.framing]) for turn in turns] == [20] * 4
    for turn in turns:
        assert len(set(turn)) == len(turn)
        for index in {cell.bin for cell in turn}:
            seen = {(cell.photo, cell.framing) for cell in turn if cell.bin == index and cell.framing}
            assert len(seen) == 4
    assert phases(3, views_of(3), 9) == phases(3, views_of(3), 6)


@pytest.mark.parametrize("kind", ["both", "mirrored", "enlarged"])
@pytest.mark.parametrize("photos", [1, 2, 3, 5, 10])
def test_a_round_of_checks_sees_every_bin_once_as_shot_and_once_as_view(photos: int, kind: str) -> None:
    turns = phases(photos, views_of(photos, kind))
    assert len(turns) == 4
    shots = [cell for turn in turns for cell in turn if cell.framing == SHOT]
    assert sorted(cell.bin for cell in shots) == list(range(BINS))
    for half in (turns[:2], turns[2:]):
        views = [cell for turn in half for cell in turn if cell.framing != SHOT]
        assert sorted(cell.bin for cell in views) == list(range(BINS))
        seen = {(cell.photo, cell.framing) for cell in views}
        assert len(seen) == min(BINS, len(views_of(photos, kind)))
    assert [cell for cell in turns[0] if cell.framing] == [cell for cell in turns[2] if cell.framing]
    for turn in turns if kind == "both" else []:
        assert {cell.framing for cell in turn} == {SHOT, MIRROR, ZOOM}


def test_views_that_are_no_news_are_not_measured() -> None:
    turns = phases(3, [(0, ZOOM), (2, MIRROR), (2, ZOOM)])
    assert {(cell.photo, cell.framing) for turn in turns for cell in turn if cell.framing} == {(0, 2), (2, 1), (2, 2)}


def test_a_cell_has_a_number_of_its_own() -> None:
    cells = all_cells(4, views_of(4))
    assert sorted(cell.code for cell in cells) == list(range(4 * FRAMINGS * BINS))
    assert all(Cell.of(cell.code) == cell for cell in cells)


def test_a_framing_is_the_mirror_image_or_the_middle_enlarged() -> None:
    pixels = torch.arange(100.0).view(1, 10, 10).expand(3, -1, -1)
    assert torch.equal(framed(pixels, MIRROR)[0, 0], torch.arange(9.0, -1.0, -1.0))
    enlarged = framed(pixels, ZOOM)
    assert enlarged.shape == pixels.shape
    assert enlarged[0, 5, 5] == pytest.approx(float(pixels[0, 5, 5]), abs=6)
    assert float(enlarged.min()) >= 11  # the outermost rows and columns are gone
    assert float(enlarged.max()) <= 88


def test_latents_that_are_alike_are_found() -> None:
    one, other = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    assert distance(one, one) == 0
    assert distance(one, other) == pytest.approx(1, abs=0.2)
    assert distance(one, one + 0.1 * other) < 0.05
    assert distance(torch.zeros(4, 8, 8), torch.ones(4, 8, 8)) == 1
    symmetric = one + one.flip(-1)
    latents = {(0, SHOT): one, (0, MIRROR): one.flip(-1), (1, SHOT): symmetric, (1, MIRROR): symmetric.flip(-1)}
    assert new_views(latents) == [(0, MIRROR)]
    mask = torch.ones(8, 8)
    assert count_different(LatentSource([View(part, part, mask) for part in (one, other, one, other * 1.01)])) == 2


@pytest.fixture(scope="module")
def probe(toy_base: object) -> SplitProbe:
    base = load_base(str(toy_base), device="cpu", dtype="fp32", attention="plain")
    adapter.attach(base.denoiser, 4, 4.0, base.lora.attention, seed=0)
    generator = torch.Generator().manual_seed(0)
    latents = {
        (photo, framing): torch.randn(4, 8, 8, generator=generator) for photo in range(3) for framing in range(FRAMINGS)
    }
    return SplitProbe(base, latents, Captions(base, CONFIG), seed=0)


@pytest.fixture
def moved(probe: SplitProbe) -> Iterator[SplitProbe]:
    """The same with a LoRA that does something."""
    parameters = adapter.trainable_parameters(probe._base.denoiser)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if ".lora_B" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    yield probe
    with torch.no_grad():
        for name, parameter in parameters.items():
            if ".lora_B" in name:
                parameter.zero_()


TURNS = phases(3, views_of(3))


def test_a_lora_that_does_nothing_has_gained_nothing(probe: SplitProbe) -> None:
    assert set(probe.measure(all_cells(3, views_of(3))).values()) == {0.0}


def test_a_gain_is_what_is_lost_less_than_by_the_untrained_model(moved: SplitProbe) -> None:
    base, cell = moved._base, Cell(2, ZOOM, 7)
    latents = moved._latents[2, ZOOM][None]
    noise = torch.randn(4, 8, 8, generator=random.generator(0, 2, ZOOM * BINS + 7, "split"))[None]
    timesteps = torch.tensor([750])
    assert int(base.bin_of(timesteps)) == 7
    states = base.encode_prompts(["a photo of a zwx car"])

    @torch.no_grad()
    def loss() -> float:
        return float(
            (base.predict(base.add_noise(latents, noise, timesteps), timesteps, states) - noise).square().mean()
        )

    tuned = loss()
    with adapter.reference_pass(base.denoiser):
        reference = loss()
    assert tuned != reference
    assert moved.measure([cell])[cell] == pytest.approx(1 - tuned / reference, abs=1e-5)


def test_a_resumed_run_measures_the_same_to_the_bit(moved: SplitProbe) -> None:
    """Whatever check it begins with: a cell comes in the same batch always."""
    whole = SplitProbe(moved._base, moved._latents, moved._captions, seed=0)
    rounds = [whole.measure(turn) for turn in TURNS]
    for first in range(1, 4):
        fresh = SplitProbe(moved._base, moved._latents, moved._captions, seed=0)
        for turn in range(first, first + 4):
            assert fresh.measure(TURNS[turn % 4]) == rounds[turn % 4]
    assert len(set(rounds[0].values())) == len(rounds[0])


def test_the_untrained_model_is_asked_once_a_cell(moved: SplitProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    passed = count_passes(monkeypatch, moved._base)
    fresh = SplitProbe(moved._base, moved._latents, moved._captions, seed=0)
    for _ in range(2):
        for turn in TURNS:
            fresh.measure(turn)
    cells = {cell for turn in TURNS for cell in turn}
    assert sum(passed) == 2 * sum(map(len, TURNS)) + len(cells)
    assert max(passed) == 2


def test_drift_costs_a_pass_a_prompt(moved: SplitProbe, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TrainingConfig(subject="car", resolution=32, drift_prompts=("a cat", "a dog", "a car"))
    passed = count_passes(monkeypatch, moved._base)
    drift = PriorDrift(moved._base, config)
    measured = drift.measure()
    assert sum(passed) == 2 * 3
    assert drift.measure() == measured > 0
    assert sum(passed) == 3 * 3
    assert drift._timesteps.tolist() == [[166, 500, 833]]
    thorough = PriorDrift(moved._base, config.replace(thorough_checks=True))
    assert thorough.measure() > 0
    assert sum(passed) == 9 + 2 * 5 * 3


def count_passes(monkeypatch: pytest.MonkeyPatch, base: BaseModel) -> list[int]:
    """Fills with the samples of each pass."""
    passed: list[int] = []
    predict = base.predict

    def counted(noisy_latents: Tensor, timesteps: Tensor, states: PromptStates) -> Tensor:
        passed.append(len(noisy_latents))
        return predict(noisy_latents, timesteps, states)

    monkeypatch.setattr(base, "predict", counted)
    return passed
