"""The wiring of a step: what is handed to `backward`, rebuilt from its parts without the code that makes it.

One sample at a time goes through two models, one with the LoRA and one that never had any, looked into by hooks of this file.
Everything is switched on at once and nothing is alike: gamma differs from bin to bin, photos are warped or not, strengths are
not 1, samples have their min-SNR weights, photos their own captions, the class its pictures.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from apt_engine.apt.augment import Warp
from apt_engine.bases import random
from apt_engine.bases.klein import Klein
from apt_engine.lora import adapter
from apt_engine.training.latents import LatentSource, View, encode_view
from apt_engine.training.step import AdaptiveStep, StepResult
from tests.laws import Base, bare_base, config_of, tuned_base

SEED, STEP, SAMPLES, SIDE = 3, 19, 7, 64
CAPTIONS = ("a {subject}", "a photo of a {subject} on the beach")  # the third photo has the usual one
SETTINGS: dict[str, Any] = {
    "seed": SEED,
    "batch_size": SAMPLES,
    "sensitivity": 0.5,
    "augmentation": 0.6,
    "stabilization": 0.7,
    "stabilization_lambda": 30.0,
    "alignment": 2.5,
    "alignment_lambda": 5000.0,
    "min_snr_gamma": 5,
    "prior_weight": 0.3,
    "reference_caption": "class",
}
VISITS: tuple[int, ...] = (9, 9, 4, 9, 9, 2, 9, 9, 9, 9)  # this step completes those of bin 2, not those of bin 5
REFERENCE_LOSS = (2.0,) * 10
TUNED_LOSS = tuple(2.0 - 0.35 * number for number in range(10))


@dataclass(frozen=True)
class Draw:
    """One sample, drawn by hand; noisy latents are `signal` of the latents and `share` of the noise."""

    timestep: float
    bin: int
    signal: float
    share: float
    photo: int
    is_warped: bool
    mask: Tensor
    latents: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Pass:
    """One sample through one model: its prediction (C, h, w), features (P, C) and maps (heads, P, K) by layer."""

    prediction: Tensor
    features: dict[str, Tensor]
    maps: dict[str, Tensor]


def pictures(count: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, SIDE, SIDE, generator=generator) * 2 - 1 for _ in range(count)]


@dataclass(frozen=True)
class Setting:
    """Two models and the views of three photos and of two pictures of the class."""

    tuned: Base
    bare: Base
    plain: list[View]
    warped: list[View]
    prior: list[View]

    @classmethod
    def of(cls, kind: str) -> "Setting":
        bare, tuned, photos = bare_base(kind), tuned_base(kind), pictures(3, 0)
        for base in (bare, tuned):
            base.prepare_training(SIDE, gradient_checkpointing=False)
        warps = [Warp(1.3, 5), Warp(1.5, -8), Warp(1.2, 12)]
        warped = [encode_view(bare, pixels, warp) for pixels, warp in zip(photos, warps, strict=True)]
        plain, prior = ([encode_view(bare, pixels) for pixels in some] for some in (photos, pictures(2, 1)))
        return cls(tuned, bare, plain, warped, prior)

    def step(self, **settings: Any) -> AdaptiveStep:
        photos = LatentSource(self.plain, lambda photo, _generator: self.warped[photo])
        config = config_of(**{**SETTINGS, **settings})
        step = AdaptiveStep(config, self.tuned, photos, LatentSource(self.prior), captions=CAPTIONS)
        known = (("tuned_loss", TUNED_LOSS), ("reference_loss", REFERENCE_LOSS), ("visits", VISITS))
        step.indicator.load_state_dict({name: torch.tensor(values).double() for name, values in known})
        return step

    def draws(self, chances: Sequence[float]) -> list[Draw]:
        """This step's photos; a bin's chance is that of a warp."""
        return [self._draw(sample, "photos", self.plain, chances) for sample in range(SAMPLES)]

    def prior_draws(self) -> list[Draw]:
        """This step's pictures of the class."""
        return [self._draw(sample, "prior", self.prior, [0.0] * 10) for sample in range(SAMPLES)]

    def _draw(self, sample: int, purpose: str, views: list[View], chances: Sequence[float]) -> Draw:
        own = random.generator(SEED, STEP, sample, purpose)
        timestep, number, signal, share = (flow_level if isinstance(self.bare, Klein) else table_level)(own)
        photo = int(torch.randint(len(views), (), generator=own))
        coin = float(torch.rand((), generator=random.generator(SEED, STEP, sample, "warp")))
        is_warped = coin < chances[number]
        view = self.warped[photo] if is_warped else views[photo]
        spread, noise = (torch.randn(view.mean.shape, generator=own) for _ in range(2))
        latents = view.mean + view.std * spread
        return Draw(timestep, number, signal, share, photo, is_warped, view.mask, latents, noise)


def table_level(own: torch.Generator) -> tuple[float, int, float, float]:
    """Of Stable Diffusion's table, whose betas have evenly spaced roots: timestep, bin, alpha, sigma."""
    timestep = int(torch.randint(1000, (), generator=own))
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
    signal = float((1 - betas[: timestep + 1]).prod())
    return timestep, timestep // 100, math.sqrt(signal), math.sqrt(1 - signal)


def flow_level(own: torch.Generator) -> tuple[float, int, float, float]:
    """Of rectified flow at 64 px, which the toy shifts by e^(1 / 2 - (256 - 64) (1.15 - 0.5) / (4096 - 256))."""
    normal, shift = float(torch.randn((), generator=own)), math.exp(0.5 - 192 * 0.65 / 3840)
    share = shift / (shift + math.exp(-normal))
    return 1000 * share, int(10 * 0.5 * (1 + math.erf(normal / math.sqrt(2)))), 1 - share, share


def pass_of(base: Base, draw: Draw, prompt: str) -> Pass:
    seen: dict[str, Tensor] = {}
    hooks = []
    layers: dict[str, Any] = {
        name: module
        for name, module in base.denoiser.named_modules()
        if name.startswith(("mid_block.", "up_blocks.")) and name.endswith((".attn1", ".attn2"))
    }
    for name, layer in layers.items():
        mixed = layer.to_out[0].register_forward_pre_hook(
            lambda _module, inputs, name=name: seen.update({name: inputs[0][0]})
        )
        hooks.append(mixed)
        for part in ("to_q", "to_k"):
            key = f"{name}.{part}"
            hooks.append(
                getattr(layer, part).register_forward_hook(
                    lambda _module, _inputs, output, key=key: seen.update({key: output[0]})
                )
            )
    noisy = draw.signal * draw.latents + draw.share * draw.noise
    prediction = base.predict(noisy[None], torch.tensor([draw.timestep]), base.encode_prompts([prompt]))[0]
    for hook in hooks:
        hook.remove()
    maps = {}
    for name, layer in layers.items():
        if name.endswith(".attn2"):
            query, key = (seen[f"{name}.{part}"].unflatten(1, (layer.heads, -1)) for part in ("to_q", "to_k"))
            scores = torch.einsum("qhd,khd->hqk", query, key) / math.sqrt(query.shape[-1])
            maps[name] = scores.softmax(dim=-1)
    return Pass(prediction, {name: seen[name] for name in layers if name.endswith(".attn1")}, maps)


def error_of(kind: str, seen: Pass, draw: Draw) -> Tensor:
    """The squared error of a pass in the cells that count, in the space the base predicts in."""
    target = {
        "sdxl": draw.noise,
        "v_prediction": draw.signal * draw.noise - draw.share * draw.latents,
        "klein": draw.noise - draw.latents,
    }[kind]
    return (seen.prediction - target).square()[:, draw.mask == 1].mean()


def in_eps_space(kind: str, draw: Draw) -> float:
    """eps = x_t sigma + alpha v for velocities of both kinds, so an error of v is one of eps times alpha."""
    return 1.0 if kind == "sdxl" else draw.signal**2


def min_snr(kind: str, draw: Draw) -> float:
    snr = (draw.signal / draw.share) ** 2
    return min(snr, 5) / snr * in_eps_space(kind, draw)


def weights_of(mask: Tensor, positions: int) -> Tensor:
    """How much each position (P,) of a layer counts: by the share of it that is photo."""
    inside = F.avg_pool2d(mask[None], math.isqrt(mask.numel() // positions)).flatten()
    return inside / inside.sum()


def features_of(tuned: Pass, reference: Pass, mask: Tensor) -> Tensor:
    """RS: mean over layers and channels of what mean and deviation over the picture have moved."""
    layers = []
    for name, ours in tuned.features.items():
        weights = weights_of(mask, len(ours))
        means, deviations = [], []
        for part in (ours, reference.features[name]):
            means.append(torch.einsum("p,pc->c", weights, part))
            square = torch.einsum("p,pc->c", weights, part.square())
            deviations.append((square - means[-1].square() + 1e-6).sqrt())
        layers.append(((means[0] - means[1]).square() + (deviations[0] - deviations[1]).square()).mean())
    return torch.stack(layers).mean()


def maps_of(tuned: Pass, reference: Pass, mask: Tensor, words: str, reference_words: str) -> Tensor:
    """AA: mean over layers, heads, positions and the tokens that both captions have, the identifier left out."""
    said = ["<start>", *words.split(), "<end>"]
    kept = [place for place, word in enumerate(said) if word != "zwx" or "zwx" in reference_words]
    assert len(kept) == len(reference_words.split()) + 2
    layers = []
    for name, ours in tuned.maps.items():
        theirs = reference.maps[name][:, :, : len(kept)]
        moved = (ours[:, :, kept] - theirs).square().mean(dim=(0, 2))
        layers.append((weights_of(mask, len(moved)) * moved).sum())
    return torch.stack(layers).mean()


def gammas_of(tuned: Sequence[float], reference: Sequence[float], visits: Sequence[float]) -> list[float]:
    return [
        min(max(1 - math.exp(-SETTINGS["sensitivity"] * (other - own)), 0.0), 0.99) if seen >= 5 else 0.0
        for own, other, seen in zip(tuned, reference, visits, strict=True)
    ]


def observed(
    draws: Sequence[Draw], tuned: Sequence[float], reference: Sequence[float]
) -> tuple[list[float], list[float], list[int]]:
    """The running losses and the visits of all bins once this step's losses, in eps space, are in them."""
    running, visits = [list(TUNED_LOSS), list(REFERENCE_LOSS)], list(VISITS)
    for number in {draw.bin for draw in draws}:
        members = [place for place, draw in enumerate(draws) if draw.bin == number]
        for means, losses in zip(running, (tuned, reference), strict=True):
            means[number] = 0.9 * means[number] + 0.1 * sum(losses[place] for place in members) / len(members)
        visits[number] += len(members)
    return running[0], running[1], visits


def mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


@pytest.mark.parametrize(
    ("kind", "reference_caption"), [("v_prediction", "class"), ("sdxl", "class"), ("sdxl", "same"), ("klein", "class")]
)
def test_the_loss_is_the_sum_of_its_parts(kind: str, reference_caption: str) -> None:
    setting = Setting.of(kind)
    base = setting.tuned
    # What klein lets be seen has its tests in test_klein_watching.py.
    strengths = (0.0, 0.0) if kind == "klein" else (0.7, 2.5)
    before = gammas_of(TUNED_LOSS, REFERENCE_LOSS, VISITS)
    draws = setting.draws([min(gamma, 0.6) for gamma in before])
    assert 0 < sum(draw.is_warped for draw in draws) < SAMPLES
    assert 3 < len({draw.bin for draw in draws}) < SAMPLES
    assert {draw.photo for draw in draws} == {0, 1, 2}

    captions = [(*CAPTIONS, "a photo of a {subject}")[draw.photo] for draw in draws]
    words = [caption.replace("{subject}", "zwx car") for caption in captions]
    told = [caption.replace("{subject}", "car") for caption in captions] if reference_caption == "class" else words
    ours = [pass_of(base, draw, said) for draw, said in zip(draws, words, strict=True)]
    with torch.no_grad():
        theirs = [pass_of(setting.bare, draw, said) for draw, said in zip(draws, told, strict=True)]
    errors, reference_errors = (
        [error_of(kind, one, draw) for one, draw in zip(passes, draws, strict=True)] for passes in (ours, theirs)
    )
    after = gammas_of(
        *observed(
            draws,
            *(
                [error.item() * in_eps_space(kind, draw) for error, draw in zip(some, draws, strict=True)]
                for some in (errors, reference_errors)
            ),
        )
    )
    weights = [1 - after[draw.bin] for draw in draws]
    assert len({round(weight, 3) for weight in weights}) > 3
    expected = adapted = mean(
        [weight * min_snr(kind, draw) * error for weight, draw, error in zip(weights, draws, errors, strict=True)]
    )
    kept: list[float] = []
    if any(strengths):
        looked_at = list(zip(ours, theirs, draws, words, told, strict=True))
        parts = (
            mean([features_of(one, other, draw.mask) for one, other, draw, *_ in looked_at]),
            mean([maps_of(one, other, draw.mask, *said) for one, other, draw, *said in looked_at]),
        )
        for strength, known, part in zip(strengths, (30, 5000), parts, strict=True):
            assert strength * known * part > adapted / 20  # none is lost in the others
            expected = expected + strength * known * part
        kept = [part.item() for part in parts]
    prior_loss = prior_loss_of(setting, kind)

    handed: list[Tensor] = []
    step = setting.step(reference_caption=reference_caption, stabilization=strengths[0], alignment=strengths[1])
    result = step(STEP, handed.append)
    assert [loss.item() for loss in handed] == pytest.approx([expected.item(), 0.3 * prior_loss.item()], rel=1e-4)
    parameters = list(adapter.trainable_parameters(base.denoiser).values())
    for loss, other in zip(handed, (expected, 0.3 * prior_loss), strict=True):
        found, due = (
            torch.cat([part.flatten() for part in torch.autograd.grad(one, parameters)]) for one in (loss, other)
        )
        assert float((found - due).norm() / due.norm()) < 1e-4
    tells(result, draws, before, weights)
    measured = (result.loss, result.reference_loss, result.stabilization, result.alignment, result.prior_loss)
    due = [mean(errors).item(), mean(reference_errors).item(), *kept, prior_loss.item()]
    assert [value.item() for value in measured if value is not None] == pytest.approx(due, rel=1e-4)


def prior_loss_of(setting: Setting, kind: str) -> Tensor:
    """The loss on pictures of the class."""
    draws = setting.prior_draws()
    passes = [pass_of(setting.tuned, draw, "a photo of a car") for draw in draws]
    return mean([min_snr(kind, draw) * error_of(kind, one, draw) for one, draw in zip(passes, draws, strict=True)])


def tells(result: StepResult, draws: Sequence[Draw], before: Sequence[float], weights: Sequence[float]) -> None:
    """What is told of each sample is what happened to it."""
    rows = result.per_sample().tolist()
    expected = [
        (draw.timestep, min(before[draw.bin], 0.6), float(draw.is_warped), weight)
        for draw, weight in zip(draws, weights, strict=True)
    ]
    for row, other in zip(rows, expected, strict=True):
        assert row == pytest.approx(other, rel=1e-4)
    assert result.batch.photos == tuple(draw.photo for draw in draws)
    assert len(result.batch.shown) == sum(draw.is_warped for draw in draws)
