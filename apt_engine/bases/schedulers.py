"""The samplers that fit a model with a table of noise levels, by the names other programs give them."""

from typing import Any

from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    SchedulerMixin,
    UniPCMultistepScheduler,
)

_TRAILING = {"timestep_spacing": "trailing"}
_KINDS: dict[str, tuple[type[SchedulerMixin], dict[str, Any]]] = {
    "DPM++ 2M": (DPMSolverMultistepScheduler, _TRAILING),
    "DPM++ 2M Karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "Euler": (EulerDiscreteScheduler, _TRAILING),
    "Euler a": (EulerAncestralDiscreteScheduler, _TRAILING),
    "UniPC": (UniPCMultistepScheduler, _TRAILING),
    "DDIM": (DDIMScheduler, _TRAILING),
}
NAMES = tuple(_KINDS)


def build(name: str, trained_with: Any) -> Any:
    """The sampler of a name for a model trained with the noise levels of another scheduler's config."""
    kind, options = _KINDS[name]
    return kind.from_config(trained_with, **options)
