"""What the tests of the method share: toys of each kind of base, with a LoRA, and steps on them."""

from collections.abc import Callable
from typing import Any, Literal, overload

import pytest
import torch
from torch import Tensor

from apt_engine.apt.augment import Warp
from apt_engine.bases.klein import Klein
from apt_engine.bases.sd import StableDiffusion
from apt_engine.bases.sdxl import StableDiffusionXL
from apt_engine.bases.z_image import ZImage
from apt_engine.lora import adapter
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.latents import LatentSource, encode_view
from apt_engine.training.step import AdaptiveStep, StepResult
from tests.engine.test_bases import stable_diffusion, stable_diffusion_xl
from tests.klein import toy_klein
from tests.z_image import toy_z_image

OFF: dict[str, Any] = {"augmentation": 0, "weighting": False, "stabilization": 0, "alignment": 0}
KINDS = ["epsilon", "sdxl", "klein", "z-image"]
BASES = pytest.mark.parametrize("kind", ["v_prediction", *KINDS])
Base = StableDiffusion | StableDiffusionXL | Klein | ZImage


def config_of(**settings: Any) -> TrainingConfig:
    values = {"subject": "car", "batch_size": 3, "rank": 4, "stabilization_lambda": 1.0, "alignment_lambda": 1.0}
    return TrainingConfig.from_dict({**values, **settings})


def bare_base(kind: str) -> Base:
    if kind in ("klein", "z-image"):
        return toy_klein() if kind == "klein" else toy_z_image()
    return stable_diffusion_xl() if kind == "sdxl" else stable_diffusion(kind)


@overload
def tuned_base(kind: Literal["epsilon"] = "epsilon", *, perturbed: bool = True) -> StableDiffusion: ...
@overload
def tuned_base(kind: str, *, perturbed: bool = True) -> Base: ...
def tuned_base(kind: str = "epsilon", *, perturbed: bool = True) -> Base:
    base = bare_base(kind)
    adapter.attach(base.denoiser, 4, 4.0, base.lora.attention, 0)
    if perturbed:
        perturb(base)
    return base


def perturb(base: Base) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapter.trainable_parameters(base.denoiser).values():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))


def pictures() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, 32, 32, generator=generator) * 2 - 1 for _ in range(2)]


def photos(base: Base) -> LatentSource:
    views = [encode_view(base, pixels) for pixels in pictures()]
    small = [encode_view(base, pixels, Warp(1.3, 5)) for pixels in pictures()]
    return LatentSource(views, lambda photo, _generator: small[photo])


def step_of(base: Base, **settings: Any) -> AdaptiveStep:
    return AdaptiveStep(config_of(**settings), base, photos(base))


def run(
    step: AdaptiveStep, numbers: range = range(1, 2), backward: Callable[[Tensor], None] = Tensor.backward
) -> StepResult:
    results = [step(number, backward) for number in numbers]
    return results[-1]


def fitted(step: AdaptiveStep, gap: float = 1.0) -> AdaptiveStep:
    """An indicator that says everything is overfitted."""
    full = torch.ones(10, dtype=torch.float64)
    step.indicator.load_state_dict({"tuned_loss": 0 * full, "reference_loss": gap * full, "visits": 9 * full})
    return step


def gradients(base: Base) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in adapter.trainable_parameters(base.denoiser).items()}
    assert all(gradient is not None for gradient in found.values())
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


def output(base: Base) -> Tensor:
    latents = torch.randn(2, *base.latent_shape(32, 32), generator=torch.Generator().manual_seed(2))
    return base.predict(latents, torch.tensor([10, 700]), base.encode_prompts(["a car", "a cat"]))
