"""Who is on the device beside the denoiser: text encoders and VAE come when they are needed and leave for its work."""

import torch
from torch import nn


class Guests:
    """The parts of a base model that are on the device for their own work alone.

    They wait in the computer's memory where the device has a memory of its own. On a CPU, and on a Mac whose GPU shares the
    computer's, leaving would free nothing, so they stay.

    Args:
        device: where they come.
        host: who lives there, and goes out for a guest that does not fit beside it, until the guest leaves.
    """

    def __init__(self, device: torch.device, host: nn.Module | None = None) -> None:
        self._device = device
        self._host = host
        self._is_host_out = False
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
                self._make_room(module)
                self._present.append(module.to(self._device))

    def dismiss(self, *, keep: tuple[nn.Module, ...] = ()) -> None:
        """Send the others home."""
        for module in self._present:
            if module not in keep:
                module.to(self._home)
        self._present = [module for module in self._present if module in keep]
        if self._host and self._is_host_out:
            self._host.to(self._device)
            self._is_host_out = False

    def _make_room(self, module: nn.Module) -> None:
        if not self._host or self._is_host_out or self._home == self._device:
            return
        if sum(weight.nbytes for weight in module.parameters()) > free_bytes(self._device):
            self._host.to(self._home)
            self._is_host_out = True


def free_bytes(device: torch.device) -> int:
    """What the device can still hold, what torch keeps for later included."""
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept
