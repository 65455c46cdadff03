"""What the engine asks of a base model, whatever its family. A new family is one class that answers all of it.

    noise       draw_timestep  bin_of  levels  add_noise  predict  target  in_eps_space  snr
    pictures    encode_images  decode  size_multiple
    prompts     encode_prompts  token_ids

Shapes: B batch, C latent channels, h and w latent height and width, L tokens, D width of a token state, P of a pooled one.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from diffusers import DiffusionPipeline
from torch import Tensor


@dataclass(frozen=True)
class PromptStates:
    """Prompts as the denoiser hears them: token states (B, L, D) and, where it wants one, a pooled state (B, P)."""

    hidden: Tensor
    pooled: Tensor | None = None

    def expand(self, batch: int) -> "PromptStates":
        """One prompt for a whole batch; no memory is copied."""
        pooled = None if self.pooled is None else self.pooled.expand(batch, -1)
        return PromptStates(self.hidden.expand(batch, -1, -1), pooled)


class BaseModel(Protocol):
    """A pretrained diffusion model, frozen, on its device, in eval mode."""

    name: str  # as the user named it: pocket, a folder, an id of the hub
    device: torch.device
    dtype: torch.dtype  # what the denoiser computes in
    prediction_type: str  # epsilon or v_prediction
    size_multiple: int  # pictures must be a multiple of this many pixels
    scheduler_config: Any  # of the scheduler the folder came with: the noise levels it was trained with

    @property
    def family(self) -> str:
        """The value of `ss_base_model_version` in exported LoRA files: sd_v1, sd_v2, sdxl_base_v1-0."""
        ...

    @property
    def denoiser(self) -> torch.nn.Module:
        """The network that gets the LoRA."""
        ...

    @property
    def pipeline(self) -> DiffusionPipeline:
        """The same components as a diffusers pipeline, for sampling."""
        ...

    def autocast(self) -> torch.autocast:
        """The context in which the denoiser runs."""
        ...

    def encode_prompts(self, prompts: list[str]) -> PromptStates:
        """The states of B prompts."""
        ...

    def token_ids(self, prompt: str) -> list[int]:
        """The tokens of one prompt without padding, in the order of the states; start and end included."""
        ...

    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, C, h, w) of the scaled latents of pixels (B, 3, H, W) in [-1, 1]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [0, 1] of scaled latents (B, C, h, w)."""
        ...

    def draw_timestep(self, generator: torch.Generator) -> float:
        """One timestep from the distribution this family is trained with; a whole number where its timesteps are."""
        ...

    def bin_of(self, timesteps: Tensor) -> Tensor:
        """The bin (B,), 0 .. BINS - 1, of timesteps (B,), fine noise first; each is equally likely to be drawn."""
        ...

    def levels(self, count: int) -> list[float]:
        """So many timesteps, fine noise first, spread over all that are trained on; the same at every call."""
        ...

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Noisy latents alpha_t x0 + sigma_t eps (B, C, h, w) at timesteps (B,)."""
        ...

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, states: PromptStates) -> Tensor:
        """The denoiser's raw output (B, C, h, w): noise or velocity."""
        ...

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the raw output should have been (B, C, h, w)."""
        ...

    def in_eps_space(self, timesteps: Tensor) -> Tensor:
        """Factor (B,) that turns a squared error of the raw output into one of the noise: alpha_t^2 for velocities, else 1."""
        ...

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio alpha_t^2 / sigma_t^2 (B,)."""
        ...
