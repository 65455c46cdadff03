"""Who is on the device beside the denoiser: text encoders and VAE come when they are needed and leave for its work."""

import torch
from torch import nn


class Guests:
    """The parts of a base model that are on the device for their own work alone.

    They wait in the computer's memory where the device has a memory of its own. On a CPU, and on a Mac whose GPU shares the
    computer's, leaving would free nothing, so they stay.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._home = torch.device("cpu") if device.type == "cuda" else device
        self._present: list[nn.Module] = []

    @property
    def present(self) -> tuple[nn.Module, ...]:
        """Those that were asked for and have not left since."""
        return tuple(self._present)

    def invite(self, *modules: nn.Module) -> None:
        """Bring these to the device, if they are not there."""
        for module in modules:
            if module not in self._present:
                self._present.append(module.to(self._device))

    def dismiss(self, *, keep: tuple[nn.Module, ...] = ()) -> None:
        """Send the others home."""
        for module in self._present:
            if module not in keep:
                module.to(self._home)
        self._present = [module for module in self._present if module in keep]
