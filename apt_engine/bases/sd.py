"""Stable Diffusion 1.x and 2.x in diffusers layout, epsilon or v-prediction; the pocket model is one of them."""

from functools import partial
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from torch import Tensor
from transformers import CLIPTokenizer, PreTrainedModel

from apt_engine.bases import single_file
from apt_engine.bases.base import KohyaNames, PromptStates, Source
from apt_engine.bases.checkpoints import SingleFile
from apt_engine.bases.original_layout import checkpoint_of, weight_in_checkpoint
from apt_engine.bases.unet import VAE_DTYPE, UNetBase, load_unet
from apt_engine.bases.variants import variant_of


class StableDiffusion(UNetBase[StableDiffusionPipeline]):
    """One text encoder, whose token states are all that the U-Net hears of a prompt."""

    @classmethod
    def load(
        cls, source: Source, *, name: str, device: torch.device, dtype: torch.dtype, attention: str, precision: str
    ) -> "StableDiffusion":
        if isinstance(source, SingleFile):
            pipeline = single_file.load_pipeline(StableDiffusionPipeline, source, dtype)
            return cls(pipeline, name=name, device=device, dtype=dtype, attention=attention, precision=precision)
        assert isinstance(source, Path)  # the file of a transformer is another family's
        pipeline = StableDiffusionPipeline.from_pretrained(
            source,
            unet=load_unet(source, device=device, dtype=dtype, precision=precision),
            dtype={"text_encoder": dtype, "vae": VAE_DTYPE},
            use_safetensors=True,
            variant=variant_of(source),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        return cls(pipeline, name=name, device=device, dtype=dtype, attention=attention, precision=precision)

    @property
    def _kohya(self) -> KohyaNames:
        """ComfyUI, Forge, AUTOMATIC1111 and sd-scripts all know diffusers' names of the layers."""
        return KohyaNames(
            base_model_version="sd_v2" if self._is_second else "sd_v1",
            prediction=self._prediction,
            layer=lambda name: name,
            checkpoint=partial(checkpoint_of, self._pipeline, self.prediction_type),
            weight=lambda name: weight_in_checkpoint(name, self._pipeline.unet.config.layers_per_block),
            read=StableDiffusionLoraLoaderMixin.lora_state_dict,
        )

    @property
    def _architecture(self) -> str:
        second = "stable-diffusion-v2-512" if self._prediction == "epsilon" else "stable-diffusion-v2-768-v"
        return second if self._is_second else "stable-diffusion-v1"

    @property
    def _is_second(self) -> bool:
        """Whether it is a 2.x model."""
        return self._pipeline.unet.config.cross_attention_dim == 1024

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, states: PromptStates) -> Tensor:
        self.guests.dismiss()
        with self.autocast():
            return self._pipeline.unet(noisy_latents, timesteps, encoder_hidden_states=states.hidden).sample

    def _encode(self, prompt: str) -> PromptStates:
        states, _ = self._pipeline.encode_prompt(prompt, self.device, 1, do_classifier_free_guidance=False)
        return PromptStates(states)

    def _texts(self) -> list[tuple[CLIPTokenizer, PreTrainedModel]]:
        return [(self._pipeline.tokenizer, self._pipeline.text_encoder)]
