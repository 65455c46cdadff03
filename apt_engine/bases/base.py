"""What the engine asks of a base model, whatever its family. A new family is one class that answers all of it.

    noise       draw_timestep  bin_of  levels  add_noise  predict  target  in_eps_space  snr
    pictures    encode_images  decode  latent_shape  size_multiple  samplers  draw
    prompts     encode_prompts  forget_prompts  caption_tokens
    watching    watched_layers  watch
    training    prepare_training  lora

Shapes: B batch, C latent channels, h and w latent height and width, L tokens, D width of a token state, P of a pooled one.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from apt_engine.bases.checkpoints import SingleFile
from apt_engine.bases.transformer_files import TransformerFile


@dataclass(frozen=True)
class PromptStates:
    """Prompts as the denoiser hears them: token states (B, L, D) and, where it wants one, a pooled state (B, P).

    `lengths` says how many of the L belong to each of the B prompts, where the denoiser hears no padding; else it is empty.
    `origins` (B, 4) are height and width of the pictures before they were scaled, top and left of their cut after it, where a
    denoiser is told that and they were not as large as they are, and whole.
    """

    hidden: Tensor
    pooled: Tensor | None = None
    lengths: tuple[int, ...] = ()
    origins: Tensor | None = None

    @classmethod
    def joined(cls, states: Iterable["PromptStates"]) -> "PromptStates":
        """Of several prompts one after the other; copied, and filled up with zeros to the longest."""
        states = tuple(states)
        pooled = [one.pooled for one in states if one.pooled is not None]
        longest = max(one.hidden.shape[1] for one in states)
        hidden = [F.pad(one.hidden, (0, 0, 0, longest - one.hidden.shape[1])) for one in states]
        lengths = tuple(length for one in states for length in one.lengths)
        return cls(torch.cat(hidden), torch.cat(pooled) if pooled else None, lengths)

    def to(self, device: torch.device) -> "PromptStates":
        """On a device; the same tensors where they are there already."""
        pooled = None if self.pooled is None else self.pooled.to(device)
        return PromptStates(self.hidden.to(device), pooled, self.lengths)

    def expand(self, batch: int) -> "PromptStates":
        """One prompt for a whole batch; no memory is copied."""
        pooled = None if self.pooled is None else self.pooled.expand(batch, -1)
        return PromptStates(self.hidden.expand(batch, -1, -1), pooled, self.lengths * batch)


@dataclass(frozen=True)
class CaptionTokens:
    """The tokens of a prompt that are its own: no padding, and nothing of a template around it.

    Attributes:
        ids: of the tokens, in order.
        columns: where each stands among the L token states.
        is_cut: whether the prompt is longer than the model can read, so that its end is lost.
    """

    ids: tuple[int, ...]
    columns: tuple[int, ...]
    is_cut: bool


@dataclass(frozen=True)
class WatchedLayers:
    """The names of the layers that APT holds against the untrained model: those that draw, the later half of the network."""

    features: tuple[str, ...]  # what they make of picture positions can be seen
    maps: tuple[str, ...]  # how they attend to the words can be seen


@dataclass(frozen=True)
class Attention:
    """What one layer attends with in one pass, h heads of width D: picture positions ask, words and whatever else answer.

    Attributes:
        query: (B, h, P, D) of all picture positions, as the layer really uses it, after norms and rotations.
        key: (B, h, K, D), of all that a query is weighed against.
        text_start: the first key that is a token of the prompt; the L tokens follow each other.
    """

    query: Tensor
    key: Tensor
    text_start: int


@dataclass(frozen=True)
class KohyaNames:
    """What other programs call a base model and its layers in kohya's layout of LoRA files.

    Attributes:
        base_model_version: the header's `ss_base_model_version`.
        prediction: what is predicted, in that specification's words.
        layer: from the denoiser's name of a layer to the one in files, dots still in it.
        checkpoint: all tensors of the whole model, by their names in the original layout of checkpoints; the denoiser without
            a LoRA. Told `join`, it says what becomes of matrices that the file has as one.
        weight: from the denoiser's name of a layer to that of its weight in there.
        read: diffusers' own reader: a pair, weights and alphas, of a file's tensors, which it may empty.
    """

    base_model_version: str
    prediction: str
    layer: Callable[[str], str]
    checkpoint: Callable[..., dict[str, Any]]
    weight: Callable[[str], str]
    read: Callable[[dict[str, Tensor]], Any]


OWN_ARCHITECTURE = "apt-studio-pocket"  # of the pocket model, which no other program has


@dataclass(frozen=True, kw_only=True)
class LoraLayers:
    """Which layers of a denoiser a LoRA may train: how their names end, or whole names; and what files call them.

    Attributes:
        attention, feed_forward, convolutions: by kind; empty where the family has none.
        architecture: of the base, in the model specification's words, https://github.com/Stability-AI/ModelSpec.
        prefix: what diffusers' layout puts before the name of a layer.
        kohya: None where other programs have no name for such a base.
    """

    attention: tuple[str, ...]
    feed_forward: tuple[str, ...] = ()
    convolutions: tuple[str, ...] = ()
    architecture: str
    prefix: str
    kohya: KohyaNames | None = None

    @property
    def all(self) -> tuple[str, ...]:
        return self.attention + self.feed_forward + self.convolutions

    @property
    def is_known_elsewhere(self) -> bool:
        """Whether any other program has such a base."""
        return self.architecture != OWN_ARCHITECTURE

    def chosen(self, *, feed_forward: bool, convolutions: bool) -> tuple[str, ...]:
        """Attention always, the others if wanted."""
        return self.attention + self.feed_forward * feed_forward + self.convolutions * convolutions


# A folder in diffusers layout, a checkpoint in one file, a transformer in one.
Source = Path | SingleFile | TransformerFile
OnFeatures = Callable[[str, Tensor], None]  # a layer's name, and (B, positions, channels) before its output projection
OnAttention = Callable[[str, Attention], None]  # a layer's name, and what it attends with
OnStep = Callable[[int, Tensor], None]  # steps done, and the latents (B, C, h, w) that the pictures seem to become


class BaseModel(Protocol):
    """A pretrained diffusion model, frozen, in eval mode: the denoiser on its device, the other parts while they work."""

    name: str  # as the user named it: pocket, a folder, an id of the hub
    device: torch.device
    dtype: torch.dtype  # what the denoiser computes in
    size_multiple: int  # pictures must be a multiple of this many pixels
    notices: list[str]  # what it had to do otherwise, as sentences; whoever passes them on empties it
    takes_proportions: bool  # whether it can be trained on pictures that are no squares
    samplers: tuple[str, ...]  # those of `settings.sampling.SAMPLERS` that fit, the family's own first

    @classmethod
    def load(
        cls, source: Source, *, name: str, device: torch.device, dtype: torch.dtype, attention: str, precision: str
    ) -> "BaseModel":
        """Load a folder, or a checkpoint in one file where the family has such.

        Raises:
            ConfigError: the family cannot be kept in that precision.
            OSError, ValueError, KeyError, TypeError, RuntimeError: as diffusers raises them; `registry.load_base` turns them
                into sentences.
        """
        ...

    @property
    def denoiser(self) -> torch.nn.Module:
        """The network that gets the LoRA."""
        ...

    @property
    def pipeline(self) -> Any:
        """Diffusers' own pipeline of the same parts, which reads the LoRA files of other programs."""
        ...

    @property
    def lora(self) -> LoraLayers:
        """What a LoRA may train."""
        ...

    def prepare_training(self, resolution: int, *, gradient_checkpointing: bool) -> None:
        """Told once, before anything else of a training: the side of its square pictures in pixels.

        Raises:
            BaseModelError: this model cannot be trained; says why, and which can.
        """
        ...

    def autocast(self) -> torch.autocast:
        """The context in which the denoiser runs."""
        ...

    def encode_prompts(self, prompts: list[str]) -> PromptStates:
        """The states of B prompts."""
        ...

    def forget_prompts(self) -> None:
        """Encode each prompt anew from now on: a LoRA of the text encoders came, went or changed its strength."""
        ...

    def caption_tokens(self, prompt: str) -> CaptionTokens:
        """Which of a prompt's states are its own words."""
        ...

    @property
    def watched_layers(self) -> WatchedLayers:
        """What `watch` can see."""
        ...

    def watch(self, on_features: OnFeatures | None, on_attention: OnAttention | None) -> AbstractContextManager[None]:
        """Call back at each watched layer of each pass inside; None leaves that side alone. No output changes.

        Where layers run again for gradient checkpointing, the calls come again, during backward.
        """
        ...

    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (B, C, h, w) of the scaled latents of pixels (B, 3, H, W) in [-1, 1]."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (B, 3, H, W) in [0, 1] of scaled latents (B, C, h, w)."""
        ...

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """C, h, w of a picture of so many pixels."""
        ...

    def draw(
        self,
        noise: Tensor,
        states: PromptStates,
        negative_states: PromptStates,
        *,
        steps: int,
        guidance_scale: float,
        sampler: str,
        generators: list[torch.Generator],
        on_step: OnStep,
    ) -> Tensor:
        """Scaled latents (B, C, h, w) from noise (B, C, h, w) ~ N(0, 1).

        Args:
            noise: what the pictures begin with.
            states: what they are to show, B prompts.
            negative_states: what not to show, B prompts; without effect where guidance_scale is 1.
            steps: denoising steps.
            guidance_scale: how strictly to follow, >= 1.
            sampler: one of `samplers`.
            generators: B, for samplers that add noise on the way.
            on_step: called after each step; what it raises ends the work.
        """
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


def unanswered(base: object) -> list[str]:
    """The questions of `BaseModel` that an object has no answer to."""
    asked = (*BaseModel.__annotations__, *(name for name in vars(BaseModel) if not name.startswith("_")))
    return [name for name in asked if name not in dir(base)]
