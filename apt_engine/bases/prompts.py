"""The prompts that a base model was told lately."""

from collections import OrderedDict
from collections.abc import Callable

import torch

from apt_engine.bases.base import PromptStates

SHOWN = 60  # characters of a prompt that is told of
PROMPTS_KEPT = 64  # the states of one take 0.3 MB of the host's memory for SDXL, 8 MB for FLUX.2 klein


def cut_prompt(prompt: str) -> str:
    """What to say of a prompt whose end the model cannot hear."""
    said = prompt if len(prompt) <= SHOWN else f"{prompt[:SHOWN]} ..."
    return f"\u201c{said}\u201d is longer than the model can read, so its end is lost; shorten it."


class RecentPrompts:
    """Their states, on the host, so that text encoders come back to the device for new prompts alone.

    Each prompt is encoded by itself: its states do not depend, to the last bit, on what else is asked for.
    """

    def __init__(self) -> None:
        self._states: OrderedDict[str, PromptStates] = OrderedDict()

    def forget(self) -> None:
        """All of them."""
        self._states.clear()

    def states(self, prompts: list[str], encode: Callable[[str], PromptStates], device: torch.device) -> PromptStates:
        """The states of B prompts on `device`; `encode` is asked for those not known."""
        return PromptStates.joined(self._of(prompt, encode).to(device) for prompt in prompts)

    def _of(self, prompt: str, encode: Callable[[str], PromptStates]) -> PromptStates:
        if prompt not in self._states:
            self._states[prompt] = encode(prompt).to(torch.device("cpu"))
        self._states.move_to_end(prompt)
        if len(self._states) > PROMPTS_KEPT:
            self._states.popitem(last=False)
        return self._states[prompt]
