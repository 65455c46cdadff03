"""What a step of APT costs over a plain LoRA step: `python -m benchmarks.step_cost`.

Three measures, of plain DreamBooth, each part alone and all together, with and without gradient checkpointing:

    FLOPs            torch's FlopCounterMode over the real U-Nets of SD 1.5 (512 px) and SDXL (1024 px) on the meta device;
                     exact, but counts matrix products and convolutions alone
    saved tensors    bytes that autograd keeps from the forward pass to the backward pass, on the same
    seconds          CPU time of the toy model, one thread, medians of interleaved rounds, as ratios to plain
"""

import argparse
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeVar

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from apt_engine.apt.bins import BINS, bin_of
from apt_engine.bases import unet_attention
from apt_engine.bases.base import CaptionTokens, OnAttention, OnFeatures, PromptStates, WatchedLayers
from apt_engine.lora import adapter
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.latents import LatentSource, View
from apt_engine.training.step import AdaptiveStep, Tally

SD15: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768}
SDXL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
TOY: dict[str, Any] = {
    "sample_size": 32,
    "block_out_channels": (64, 128),
    "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    "attention_head_dim": 4,
    "norm_num_groups": 16,
    "cross_attention_dim": 64,
}
OFF: dict[str, Any] = {"augmentation": 0, "weighting": False, "stabilization": 0, "alignment": 0}
PARTS: dict[str, dict[str, Any]] = {
    "plain": OFF,
    "ATA": {**OFF, "augmentation": 0.8, "weighting": True},
    "RS": {**OFF, "stabilization": 1},
    "AA": {**OFF, "alignment": 1},
    "APT": {"augmentation": 0.8, "weighting": True, "stabilization": 1, "alignment": 1},
}
StepT = TypeVar("StepT", bound=AdaptiveStep)
TOKENS = 9  # of "a photo of a zwx backpack", start and end included


class BareBase:
    """A U-Net of random or no weights as a base model: all that a step asks for, without text encoder and VAE."""

    name = "bare"
    dtype = torch.float32
    size_multiple = 64

    def __init__(self, unet: Any, device: str) -> None:
        self.denoiser = unet
        self.device = torch.device(device)
        self._alphas = torch.linspace(0.999, 0.005, 1000, device=device)

    def encode_prompts(self, prompts: list[str]) -> PromptStates:
        """Random states: a step costs the same whatever they say."""
        hidden = torch.randn(len(prompts), 77, self.denoiser.config.cross_attention_dim, device=self.device)
        return PromptStates(hidden, torch.randn(len(prompts), 1280, device=self.device))

    def caption_tokens(self, prompt: str) -> CaptionTokens:
        """As many as the usual caption has."""
        del prompt
        return CaptionTokens(tuple(range(TOKENS)), tuple(range(TOKENS)), is_cut=False)

    @property
    def watched_layers(self) -> WatchedLayers:
        """As in every U-Net."""
        return unet_attention.watched_layers(self.denoiser)

    def watch(self, on_features: OnFeatures | None, on_attention: OnAttention | None) -> AbstractContextManager[None]:
        """As in every U-Net."""
        return unet_attention.watch(self.denoiser, on_features, on_attention)

    def draw_timestep(self, generator: torch.Generator) -> float:
        """Uniform."""
        return int(torch.randint(1000, (), generator=generator))

    def bin_of(self, timesteps: Tensor) -> Tensor:
        """Equal parts."""
        return bin_of(timesteps, 1000)

    def in_eps_space(self, timesteps: Tensor) -> Tensor:
        """Epsilon is predicted."""
        return torch.ones(len(timesteps), device=timesteps.device)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """As in every base."""
        alphas = self._alphas[timesteps][:, None, None, None]
        return alphas.sqrt() * latents + (1 - alphas).sqrt() * noise

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, states: PromptStates) -> Tensor:
        """The U-Net's output."""
        sizes = torch.ones(len(noisy_latents), 6, device=self.device)
        added = {"text_embeds": states.pooled, "time_ids": sizes}
        return self.denoiser(
            noisy_latents, timesteps, encoder_hidden_states=states.hidden, added_cond_kwargs=added
        ).sample

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Epsilon."""
        del latents, timesteps
        return noise

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio (B,)."""
        return self._alphas[timesteps] / (1 - self._alphas[timesteps])


class NumberlessStep(AdaptiveStep):
    """On the meta device there are no numbers, so none are fetched."""

    @property
    def parameters(self) -> list[Tensor]:
        """All of the denoiser's, trained or not, and what packed weights are kept in."""
        return [*self._base.denoiser.parameters(), *self._base.denoiser.buffers()]

    def _fetch(self, tally: Tally, prior_loss: Tensor, norm: Tensor) -> list[Tensor]:
        del tally, prior_loss, norm
        return [torch.zeros(3, BINS), torch.zeros(6), torch.zeros(()), torch.zeros(0)]


def build_step(kind: type[StepT], unet: dict[str, Any], part: str, *, device: str, checkpointing: bool) -> StepT:
    """A step over a fresh U-Net with a LoRA of rank 16, batch 1."""
    torch.manual_seed(0)
    with torch.device(device):
        net = UNet2DConditionModel(**unet)
    adapter.attach(net, 16, 16.0, ("to_q", "to_k", "to_v", "to_out.0"), 0)
    if checkpointing:
        net.enable_gradient_checkpointing()
    side = unet["sample_size"]
    config = TrainingConfig.from_dict(
        {"subject": "backpack", "stabilization_lambda": 1, "alignment_lambda": 1, **PARTS[part]}
    )
    view = View(
        torch.zeros(4, side, side, device=device),
        torch.ones(4, side, side, device=device),
        torch.ones(side, side, device=device),
    )
    base: Any = BareBase(net, device)  # a step asks a base for no more
    return kind(config, base, LatentSource([view], lambda _photo, _generator: view))


def flops(unet: dict[str, Any], part: str, *, checkpointing: bool) -> int:
    """FLOPs of one step, both passes and backward."""
    step = build_step(NumberlessStep, unet, part, device="meta", checkpointing=checkpointing)
    with FlopCounterMode(display=False) as counter:
        step(1, Tensor.backward)
    return counter.get_total_flops()


def saved_bytes(unet: dict[str, Any], part: str, *, checkpointing: bool) -> int:
    """Bytes of distinct tensors that autograd keeps for backward, parameters left out."""
    step = build_step(NumberlessStep, unet, part, device="meta", checkpointing=checkpointing)
    own = {id(parameter) for parameter in step.parameters}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        base = tensor if tensor._base is None else tensor._base  # noqa: SLF001  # views share the memory of their base
        if id(base) not in own:
            kept[id(base)] = base
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        step(1, lambda _loss: None)
    return sum(tensor.numel() * tensor.element_size() for tensor in kept.values())


def seconds(rounds: int, *, checkpointing: bool) -> dict[str, list[float]]:
    """CPU seconds of a toy step, all parts one after the other in each round, so that a busy machine hurts all alike."""
    steps = {part: build_step(AdaptiveStep, TOY, part, device="cpu", checkpointing=checkpointing) for part in PARTS}
    taken: dict[str, list[float]] = {part: [] for part in PARTS}
    for number in range(1, rounds + 4):
        for part, step in steps.items():
            started = time.process_time()
            step(number, Tensor.backward)
            if number > 3:
                taken[part].append(time.process_time() - started)
    return taken


def ratios(measure: Callable[[str], float]) -> list[str]:
    """The measure of each part over that of plain."""
    values = {part: measure(part) for part in PARTS}
    return [f"{values[part] / values['plain']:.3f}" for part in PARTS]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What a step of APT costs over a plain LoRA step.")
    parser.add_argument("--rounds", type=int, default=30, help="timed rounds on the toy model (%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("| over a plain step | " + " | ".join(PARTS) + " |")
    print("| --- |" + " ---: |" * len(PARTS))
    for checkpointing in (False, True):
        how = "with checkpointing" if checkpointing else "no checkpointing"
        for name, unet in (("SD 1.5", SD15), ("SDXL", SDXL)):
            for what, measure in (("FLOPs", flops), ("saved tensors", saved_bytes)):
                row = ratios(partial(measure, unet, checkpointing=checkpointing))
                print(f"| {what}, {name}, {how} | " + " | ".join(row) + " |", flush=True)
        taken = seconds(options.rounds, checkpointing=checkpointing)
        pairs = {
            part: [mine / plain for mine, plain in zip(taken[part], taken["plain"], strict=True)] for part in PARTS
        }
        cells = [f"{statistics.median(pair):.3f} ({min(pair):.2f} to {max(pair):.2f})" for pair in pairs.values()]
        print(f"| CPU seconds, toy, {how}, n = {options.rounds} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
