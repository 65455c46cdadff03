"""A base model tried once, at its smallest size: its parts fit together, and all its numbers are finite."""

import torch
from torch import nn

from apt_engine.bases.base import BaseModel, PromptStates
from apt_engine.errors import BaseModelError, EngineError, is_out_of_memory

PROMPT = "a photo of a cat, red and blue"
CELLS = 2  # of the coarsest level of latents, a side


@torch.no_grad()
def try_out(base: BaseModel) -> None:
    """Encode a gray picture and a prompt, predict once, and decode.

    Raises:
        BaseModelError: that fails, or a number is not finite; says of which part.
    """
    for part, module in _parts(base):
        if not _is_finite(module):
            raise BaseModelError(
                f"The base model {base.name} is broken: weights of its {part} are not finite (NaN); get the model again."
            )
    side = CELLS * base.size_multiple
    try:
        latents, _ = base.encode_images(torch.zeros(1, 3, side, side))
        states = base.encode_prompts([PROMPT])
        base.forget_prompts()
        noisy = base.add_noise(latents, torch.ones_like(latents), torch.full((1,), 501, device=base.device))
        guess = base.predict(noisy, torch.full((1,), 500, device=base.device), states)
        pixels = base.decode(latents)
        is_right = guess.shape == latents.shape[:1] + base.latent_shape(side, side) and pixels.shape[-2:] == (
            side,
            side,
        )
    except EngineError:
        raise
    except Exception as error:  # tokenizers raises no better one
        if is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:200]
        raise BaseModelError(
            f"The parts of the base model {base.name} do not fit together ({reason}); get the model again."
        ) from error
    if not is_right:
        raise BaseModelError(
            f"The parts of the base model {base.name} do not fit together: it guesses {tuple(guess.shape)} for latents of "
            f"{tuple(latents.shape)}; get the model again."
        )
    for what, values in (("pictures", latents), ("prompts", states), ("noise", guess), ("latents", pixels)):
        if not _all_finite(values):
            raise BaseModelError(
                f"The base model {base.name} is broken: what it makes of {what} is not finite (NaN); get the model again."
            )


def _parts(base: BaseModel) -> list[tuple[str, nn.Module]]:
    found = getattr(base.pipeline, "components", {})
    return [(name, part) for name, part in found.items() if isinstance(part, nn.Module)]


def _is_finite(module: nn.Module) -> bool:
    """By the largest and smallest of each weight, which are NaN where one is: a fraction of the time a copy would take."""
    extremes = [
        value
        for tensor in module.state_dict().values()
        if tensor.numel() and tensor.is_floating_point()
        for value in torch.aminmax(tensor)
    ]
    return all(bool(value.isfinite()) for value in extremes)


def _all_finite(values: torch.Tensor | PromptStates) -> bool:
    tensors = [values] if isinstance(values, torch.Tensor) else [values.hidden, values.pooled]
    return all(bool(tensor.isfinite().all()) for tensor in tensors if tensor is not None)
