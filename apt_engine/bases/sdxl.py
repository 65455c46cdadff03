"""Stable Diffusion XL in diffusers layout: two text encoders, pooled states, and conditioning on sizes and crops."""

from typing import Any, ClassVar

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from apt_engine.bases.base import PromptStates
from apt_engine.bases.sd import StableDiffusion


class StableDiffusionXL(StableDiffusion):
    """SDXL. Its VAE is the one that overflows in fp16; kept in fp32, the usual and the fixed one both work."""

    PIPELINE: ClassVar[Any] = StableDiffusionXLPipeline
    LEFT_OUT: ClassVar[dict[str, Any]] = {"feature_extractor": None, "image_encoder": None, "add_watermarker": False}

    @property
    def family(self) -> str:
        return "sdxl_base_v1-0"

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> PromptStates:
        with self.autocast():
            hidden, _, pooled, _ = self._pipeline.encode_prompt(
                prompts, device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        return PromptStates(hidden, pooled)

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, states: PromptStates) -> Tensor:
        added = {"text_embeds": states.pooled, "time_ids": self._time_ids(noisy_latents)}
        with self.autocast():
            return self._pipeline.unet(
                noisy_latents, timesteps, encoder_hidden_states=states.hidden, added_cond_kwargs=added
            ).sample

    def _time_ids(self, latents: Tensor) -> Tensor:
        """(B, 6): original size, crop corner, target size, in pixels, as the sampler says them too.

        A warped photo says the same: the warp is part of the picture, and what is asked for later is a whole picture of
        this size, not a small original.
        """
        height, width = (side * self._pipeline.vae_scale_factor for side in latents.shape[-2:])
        return torch.tensor([[height, width, 0, 0, height, width]], device=self.device).float().expand(len(latents), -1)

    def _text_encoders(self) -> list[Any]:
        return [self._pipeline.text_encoder, self._pipeline.text_encoder_2]

    def _tokenizers(self) -> list[Any]:
        return [self._pipeline.tokenizer, self._pipeline.tokenizer_2]
