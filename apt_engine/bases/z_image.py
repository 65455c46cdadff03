"""Z-Image in diffusers layout: a flow transformer of one stream, picture before words, told its prompts by a chat model."""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ZImagePipeline, ZImageTransformer2DModel
from diffusers.models.transformers.transformer_z_image import SEQ_MULTI_OF
from diffusers.pipelines.z_image.pipeline_z_image import calculate_shift
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from apt_engine.bases.base import Attention, LoraLayers, OnFeatures, PromptStates, WatchedLayers
from apt_engine.bases.flow import TRAIN_TIMESTEPS
from apt_engine.bases.flow_transformer import PATCH, FlowTransformer

MOST_DISTILLED_SHIFT = (
    4.0  # of the noise levels: Z-Image-Turbo's scheduler says 3, its base's 6; nothing else tells them apart
)


class ZImage(FlowTransformer):
    """Latents are those of the VAE, shifted and scaled, 2 x 2 cells at a time.

    Picture and words are each filled up to a multiple of 32 with tokens that the model learnt for it and that are attended to. In
    a batch shorter captions are filled up further, which a mask hides. Time runs from noise to picture, and so does its velocity.
    """

    pipeline_class = ZImagePipeline
    transformer_class = ZImageTransformer2DModel
    enable_thinking = True
    _positions = 0  # picture tokens of the newest pass

    @property
    def lora(self) -> LoraLayers:
        """Other programs read diffusers' layout for this family."""
        return LoraLayers(
            attention=("to_q", "to_k", "to_v", "to_out.0"),
            feed_forward=("feed_forward.w1", "feed_forward.w2", "feed_forward.w3"),
            architecture="z-image",
            prefix="transformer.",
        )

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """No deviation: training scripts take the means."""
        vae = self._vae()
        mean = vae.encode(pixels.to(self.device, torch.float32)).latent_dist.mode()
        latents = F.pixel_unshuffle((mean - vae.config.shift_factor) * vae.config.scaling_factor, PATCH)
        return latents, torch.zeros_like(latents)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        vae = self._vae()
        cells = F.pixel_shuffle(latents.float(), PATCH)
        pixels = vae.decode(cells / vae.config.scaling_factor + vae.config.shift_factor).sample
        return (pixels / 2 + 0.5).clamp(0, 1)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        channels = PATCH**2 * self._pipeline.transformer.config.in_channels
        return channels, height // self.size_multiple, width // self.size_multiple

    def _velocity(self, noisy_latents: Tensor, timesteps: Tensor, states: PromptStates) -> Tensor:
        self._positions = noisy_latents.shape[-1] * noisy_latents.shape[-2]
        cells = F.pixel_shuffle(noisy_latents, PATCH).unsqueeze(2)  # (B, C, frames, h, w)
        captions = [hidden[:length] for hidden, length in zip(states.hidden, states.lengths, strict=True)]
        with self.autocast():
            output = self._pipeline.transformer(
                list(cells), (TRAIN_TIMESTEPS - timesteps) / TRAIN_TIMESTEPS, captions, return_dict=False
            )[0]
        return -F.pixel_unshuffle(torch.stack(output).squeeze(2), PATCH)

    @property
    def watched_layers(self) -> WatchedLayers:
        """The later half of the blocks in which picture and words meet."""
        count = len(self._pipeline.transformer.layers)
        later = tuple(f"layers.{number}.attention" for number in range(count // 2, count))
        return WatchedLayers(features=later, maps=later)

    def _watch_features(self, name: str, layer: Any, on_features: OnFeatures) -> RemovableHandle:
        return layer.to_out[0].register_forward_pre_hook(
            lambda _module, inputs: on_features(name, inputs[0][:, : self._positions])
        )

    def _seen(self, query: Tensor, key: Tensor) -> Attention:
        text_start = -(-self._positions // SEQ_MULTI_OF) * SEQ_MULTI_OF
        return Attention(query[:, :, : self._positions], key, text_start=text_start)

    @property
    def _is_distilled(self) -> bool:
        is_said = "turbo" in self.name.lower().replace("\\", "/").rpartition("/")[2]
        config = self._scheduler_config
        return is_said or (not config.use_dynamic_shifting and config.shift < MOST_DISTILLED_SHIFT)

    def _as_states(self, encoded: list[Tensor]) -> PromptStates:
        (hidden,) = encoded
        return PromptStates(hidden[None], lengths=(len(hidden),))

    def _sampling_shift(self, cells: int, steps: int) -> float:  # noqa: ARG002  # the same for all
        config = self._scheduler_config
        return calculate_shift(
            cells, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
        )
