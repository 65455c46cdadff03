"""Stable Diffusion XL in diffusers layout."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionXLPipeline
from diffusers.loaders import StableDiffusionXLLoraLoaderMixin
from torch import Tensor
from transformers import CLIPTokenizer, PreTrainedModel

from apt_engine.bases import single_file
from apt_engine.bases.base import KohyaNames, PromptStates, Source
from apt_engine.bases.checkpoints import SingleFile
from apt_engine.bases.original_layout import checkpoint_of, original_name, weight_in_checkpoint
from apt_engine.bases.unet import VAE_DTYPE, UNetBase, load_unet
from apt_engine.bases.variants import variant_of


class StableDiffusionXL(UNetBase[StableDiffusionXLPipeline]):
    """Two text encoders, whose token states stand side by side; the second one's pooled state says the whole prompt.

    The U-Net also hears how large a picture was before it was scaled and where it was cropped. Of squares we always say: as
    large as it is now, not cropped, and so for warped photos too. The sampler asks with the same numbers, and what is learnt
    must answer there; a warped photo with numbers of its own would teach another corner of the model. Photos that keep their
    proportions are told of as they are, as the training scripts of diffusers do, warped or not.
    """

    @classmethod
    def load(
        cls, source: Source, *, name: str, device: torch.device, dtype: torch.dtype, attention: str, precision: str
    ) -> "StableDiffusionXL":
        if isinstance(source, SingleFile):
            pipeline = single_file.load_pipeline(StableDiffusionXLPipeline, source, dtype)
            return cls(pipeline, name=name, device=device, dtype=dtype, attention=attention, precision=precision)
        assert isinstance(source, Path)  # the file of a transformer is another family's
        pipeline = StableDiffusionXLPipeline.from_pretrained(
            source,
            unet=load_unet(source, device=device, dtype=dtype, precision=precision),
            dtype={"text_encoder": dtype, "text_encoder_2": dtype, "vae": VAE_DTYPE},
            use_safetensors=True,
            variant=variant_of(source),
        )
        return cls(pipeline, name=name, device=device, dtype=dtype, attention=attention, precision=precision)

    @property
    def _kohya(self) -> KohyaNames:
        """sd-scripts knows the layers by their names in the original checkpoint alone, other programs by both."""
        config: Any = self._pipeline.unet.config
        return KohyaNames(
            base_model_version="sdxl_base_v1-0",
            prediction=self._prediction,
            layer=lambda name: original_name(name, config.layers_per_block),
            checkpoint=partial(checkpoint_of, self._pipeline, self.prediction_type),
            weight=lambda name: weight_in_checkpoint(name, self._pipeline.unet.config.layers_per_block),
            read=partial(StableDiffusionXLLoraLoaderMixin.lora_state_dict, unet_config=config),
        )

    @property
    def _architecture(self) -> str:
        return "stable-diffusion-xl-v1-base"

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, states: PromptStates) -> Tensor:
        self.guests.dismiss()
        size = [side * self._pipeline.vae_scale_factor for side in noisy_latents.shape[-2:]]
        time_ids = torch.tensor([[*size, 0, 0, *size]], device=self.device).expand(len(noisy_latents), -1)
        if states.origins is not None:
            time_ids = torch.cat([states.origins.to(time_ids), time_ids[:, 4:]], dim=1)
        with self.autocast():
            return self._pipeline.unet(
                noisy_latents,
                timesteps,
                encoder_hidden_states=states.hidden,
                added_cond_kwargs={"text_embeds": states.pooled, "time_ids": time_ids},
            ).sample

    def _encode(self, prompt: str) -> PromptStates:
        """An empty prompt is all zeros where the folder says so: what the model heard when it was told nothing."""
        hidden, _, pooled, _ = self._pipeline.encode_prompt(
            prompt, device=self.device, do_classifier_free_guidance=False
        )
        if self._pipeline.config.force_zeros_for_empty_prompt and not prompt:
            hidden, pooled = torch.zeros_like(hidden), torch.zeros_like(pooled)
        return PromptStates(hidden, pooled)

    def _texts(self) -> list[tuple[CLIPTokenizer, PreTrainedModel]]:
        pipeline = self._pipeline
        return [(pipeline.tokenizer, pipeline.text_encoder), (pipeline.tokenizer_2, pipeline.text_encoder_2)]
