"""Stable Diffusion 1.x and 2.x in diffusers layout, epsilon or v-prediction; the pocket model is one of them."""

from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from apt_engine.bases.base import PromptStates


class StableDiffusion:
    """One text encoder, a U-Net and a VAE. The VAE stays in fp32: in fp16 some of them overflow."""

    PIPELINE: ClassVar[Any] = StableDiffusionPipeline
    LEFT_OUT: ClassVar[dict[str, Any]] = {
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }

    def __init__(self, pipeline: Any, *, name: str, device: torch.device, dtype: torch.dtype, attention: str) -> None:
        self.name = name
        self.device = device
        self.dtype = dtype
        self._pipeline = pipeline
        self._freeze(dtype)
        if attention == "plain":
            pipeline.unet.set_attn_processor(AttnProcessor())
        # Some folders do not say how long a prompt may be; the text encoder knows.
        longest: int = pipeline.text_encoder.config.max_position_embeddings
        for tokenizer in self._tokenizers():
            tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
        self._noise = DDPMScheduler.from_config(pipeline.scheduler.config)
        self._alphas_cumprod = self._noise.alphas_cumprod.to(device)
        # Few steps suffice with this solver; the folder's own scheduler only says how the model was trained.
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
            pipeline.scheduler.config, timestep_spacing="trailing"
        )
        pipeline.set_progress_bar_config(disable=True)
        self.prediction_type: str = self._noise.config.prediction_type
        self.train_timesteps: int = self._noise.config.num_train_timesteps
        self.size_multiple: int = pipeline.vae_scale_factor * 2 ** (len(pipeline.unet.config.block_out_channels) - 1)

    @classmethod
    def load(cls, source: str | Path, *, name: str, device: torch.device, dtype: torch.dtype, attention: str) -> Self:
        """Load a folder, or an id of the hub.

        Raises:
            OSError, ValueError: as diffusers raises them; `registry.load_base` turns them into sentences.
        """
        pipeline = cls.PIPELINE.from_pretrained(source, dtype=torch.float32, use_safetensors=True, **cls.LEFT_OUT)
        return cls(pipeline, name=name, device=device, dtype=dtype, attention=attention)

    @property
    def family(self) -> str:
        """What exported files call this kind of model."""
        return "sd_v2" if self._pipeline.unet.config.cross_attention_dim == 1024 else "sd_v1"

    @property
    def denoiser(self) -> torch.nn.Module:
        return self._pipeline.unet

    @property
    def pipeline(self) -> Any:
        return self._pipeline

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> PromptStates:
        with self.autocast():
            states, _ = self._pipeline.encode_prompt(prompts, self.device, 1, do_classifier_free_guidance=False)
        return PromptStates(states)

    def token_ids(self, prompt: str) -> list[int]:
        return self._pipeline.tokenizer(prompt, truncation=True).input_ids

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        vae = self._pipeline.vae
        distribution = vae.encode(pixels.to(self.device, torch.float32)).latent_dist
        shift = vae.config.shift_factor or 0.0
        return (distribution.mean - shift) * vae.config.scaling_factor, distribution.std * vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        vae = self._pipeline.vae
        pixels = vae.decode(latents.float() / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)).sample
        return (pixels / 2 + 0.5).clamp(0, 1)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return self._noise.add_noise(latents, noise, timesteps)

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, states: PromptStates) -> Tensor:
        with self.autocast():
            return self._pipeline.unet(noisy_latents, timesteps, encoder_hidden_states=states.hidden).sample

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise if self.prediction_type == "epsilon" else self._noise.get_velocity(latents, noise, timesteps)

    def snr(self, timesteps: Tensor) -> Tensor:
        alphas = self._alphas_cumprod[timesteps]
        return alphas / (1 - alphas)

    def _freeze(self, dtype: torch.dtype) -> None:
        """Everything frozen, in eval mode, on the device; half precision only where a GPU makes use of it."""
        stored = dtype if self.device.type != "cpu" else torch.float32
        for module in (self._pipeline.unet, *self._text_encoders()):
            module.requires_grad_(False).eval().to(self.device, stored)
        self._pipeline.vae.requires_grad_(False).eval().to(self.device, torch.float32)

    def _text_encoders(self) -> list[Any]:
        return [self._pipeline.text_encoder]

    def _tokenizers(self) -> list[Any]:
        return [self._pipeline.tokenizer]
