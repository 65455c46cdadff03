"""What Stable Diffusion 1.x, 2.x and XL have in common: a U-Net, a VAE, a table of noise levels."""

import abc
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn
from transformers import CLIPTokenizer, PreTrainedModel

from apt_engine.apt.bins import bin_of
from apt_engine.bases import schedulers, unet_attention
from apt_engine.bases.base import (
    OWN_ARCHITECTURE,
    CaptionTokens,
    KohyaNames,
    LoraLayers,
    OnAttention,
    OnFeatures,
    OnStep,
    PromptStates,
    WatchedLayers,
)
from apt_engine.bases.guests import Guests
from apt_engine.bases.prompts import RecentPrompts
from apt_engine.bases.quantized import place
from apt_engine.bases.variants import variant_of
from apt_engine.errors import BaseModelError, is_out_of_memory

KNOWN_CHANNELS = 4  # of the latents of every published Stable Diffusion; the pocket model has eight
VAE_DTYPE = torch.float32  # in fp16 some of them overflow, SDXL's own among them
SMALLEST_TILE = 128  # px
LARGEST_WHOLE = 1024 * 1024  # pixels; a VAE takes 3 GB for so many in fp32. Larger pictures go through in tiles

IN_TILES = (
    "The memory ran out while a picture of {width} x {height} px went through the VAE whole; from now on such pictures go "
    "through in tiles, which takes less memory and can change them a little."
)
Result = TypeVar("Result")
PipelineT = TypeVar("PipelineT", StableDiffusionPipeline, StableDiffusionXLPipeline)


class UNetBase(Generic[PipelineT], abc.ABC):
    """All but the text.

    Attributes:
        guests: text encoders and VAE, which are on the device while they work.
    """

    samplers = schedulers.NAMES
    takes_proportions = True

    def __init__(
        self,
        pipeline: PipelineT,
        *,
        name: str,
        device: torch.device,
        dtype: torch.dtype,
        attention: str,
        precision: str = "full",
    ) -> None:
        self.name = name
        self.device = device
        self.dtype = dtype
        self._pipeline: PipelineT = pipeline
        self.guests = Guests(device)
        self.notices: list[str] = []
        self._recent_prompts = RecentPrompts()
        self._largest_whole = LARGEST_WHOLE
        self._freeze(dtype)
        place(pipeline.unet, device, precision)
        lay_out(pipeline.unet, device)
        if attention == "plain":
            pipeline.unet.set_attn_processor(AttnProcessor())
        for tokenizer, encoder in self._texts():
            # Some folders do not say how long a prompt may be; the text encoder knows.
            longest: int = encoder.config.max_position_embeddings
            tokenizer.model_max_length = min(tokenizer.model_max_length, longest)
        self._scheduler_config: Any = pipeline.scheduler.config
        self._noise = DDPMScheduler.from_config(pipeline.scheduler.config)
        self._alphas_cumprod = self._noise.alphas_cumprod.to(device)
        # Few steps suffice with this solver; the folder's own scheduler only says how the model was trained.
        pipeline.scheduler = schedulers.build(self.samplers[0], self._scheduler_config)
        pipeline.set_progress_bar_config(disable=True)
        self.prediction_type: str = self._noise.config.prediction_type
        self.train_timesteps: int = self._noise.config.num_train_timesteps
        self.size_multiple: int = pipeline.vae_scale_factor * 2 ** (len(pipeline.unet.config.block_out_channels) - 1)

    @property
    def denoiser(self) -> nn.Module:
        return self._pipeline.unet

    @property
    def pipeline(self) -> PipelineT:
        return self._pipeline

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> PromptStates:
        def encode(prompt: str) -> PromptStates:
            self.guests.invite(*(encoder for _, encoder in self._texts()))
            with self.autocast():
                return self._encode(prompt)

        return self._recent_prompts.states(prompts, encode, self.device)

    def forget_prompts(self) -> None:
        self._recent_prompts.forget()

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        vae = self._pipeline.vae
        distribution = self._through_vae(
            lambda: vae.encode(pixels.to(self.device, VAE_DTYPE)).latent_dist, *pixels.shape[-2:]
        )
        shift = vae.config.shift_factor or 0.0
        return (distribution.mean - shift) * vae.config.scaling_factor, distribution.std * vae.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        vae = self._pipeline.vae
        scaled = latents.float() / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)
        sides = (side * self._pipeline.vae_scale_factor for side in latents.shape[-2:])
        pixels = self._through_vae(lambda: vae.decode(scaled).sample, *sides)
        return (pixels / 2 + 0.5).clamp(0, 1)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        factor = self._pipeline.vae_scale_factor
        return self._pipeline.unet.config.in_channels, height // factor, width // factor

    @torch.no_grad()
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
        pipeline: Any = self._pipeline
        self.guests.dismiss(keep=(pipeline.vae,))
        pipeline.scheduler = schedulers.build(sampler, self._scheduler_config)

        def told(_pipeline: Any, step: int, _timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
            guesses = [guess for guess in getattr(pipeline.scheduler, "model_outputs", ()) if guess is not None]
            on_step(step + 1, guesses[-1] if guesses else tensors["latents"])
            return tensors

        factor = pipeline.vae_scale_factor
        with self.autocast():
            return pipeline(
                **_embeddings("", states),
                **_embeddings("negative_", negative_states),
                latents=noise,
                width=noise.shape[-1] * factor,
                height=noise.shape[-2] * factor,
                num_inference_steps=steps,
                guidance_scale=guidance_scale,
                generator=generators,
                output_type="latent",
                callback_on_step_end=told,
            ).images

    def prepare_training(self, resolution: int, *, gradient_checkpointing: bool) -> None:  # noqa: ARG002  # all sizes alike
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise BaseModelError(
                f"{self.name} predicts {self.prediction_type}, neither noise nor velocity, and cannot be trained; choose another."
            )
        if gradient_checkpointing:
            self._pipeline.unet.enable_gradient_checkpointing()

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return self._noise.add_noise(latents, noise, timesteps)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        return noise if self.prediction_type == "epsilon" else self._noise.get_velocity(latents, noise, timesteps)

    def draw_timestep(self, generator: torch.Generator) -> float:
        return int(torch.randint(self.train_timesteps, (), generator=generator))

    def bin_of(self, timesteps: Tensor) -> Tensor:
        return bin_of(timesteps, self.train_timesteps)

    def levels(self, count: int) -> list[float]:
        return [int((level + 0.5) / count * self.train_timesteps) for level in range(count)]

    def in_eps_space(self, timesteps: Tensor) -> Tensor:
        """L_eps = alpha_t^2 L_v, with alpha_t^2 = SNR / (SNR + 1)."""
        if self.prediction_type == "epsilon":
            return torch.ones(len(timesteps), device=timesteps.device)
        snr = self.snr(timesteps)
        return snr / (snr + 1)

    def snr(self, timesteps: Tensor) -> Tensor:
        alphas = self._alphas_cumprod[timesteps]
        return alphas / (1 - alphas)

    @property
    def lora(self) -> LoraLayers:
        """Of the convolutions the two of each residual block. Other programs know no base whose latents have other channels."""
        is_known = self._pipeline.vae.config.latent_channels == KNOWN_CHANNELS
        return LoraLayers(
            attention=("to_q", "to_k", "to_v", "to_out.0"),
            feed_forward=("ff.net.0.proj", "ff.net.2"),
            convolutions=("conv1", "conv2"),
            architecture=self._architecture if is_known else OWN_ARCHITECTURE,
            prefix="unet.",
            kohya=self._kohya if is_known else None,
        )

    @property
    def watched_layers(self) -> WatchedLayers:
        return unet_attention.watched_layers(self.denoiser)

    def watch(self, on_features: OnFeatures | None, on_attention: OnAttention | None) -> AbstractContextManager[None]:
        return unet_attention.watch(self.denoiser, on_features, on_attention)

    def caption_tokens(self, prompt: str) -> CaptionTokens:
        """Start and end included: their columns differ from prompt to prompt as a word's do.

        Raises:
            BaseModelError: there are two tokenizers and they disagree, so that their states do not belong together.
        """
        spelled = [tokenizer(prompt, truncation=True).input_ids for tokenizer, _ in self._texts()]
        if any(ids != spelled[0] for ids in spelled):  # padding alone may differ
            raise BaseModelError(f"The two tokenizers of {self.name} do not fit together; get the model again.")
        ids = spelled[0]
        whole = self._texts()[0][0](prompt).input_ids
        return CaptionTokens(tuple(ids), tuple(range(len(ids))), is_cut=len(whole) > len(ids))

    @property
    @abc.abstractmethod
    def _kohya(self) -> KohyaNames: ...

    @property
    @abc.abstractmethod
    def _architecture(self) -> str:
        """In the words of the model specification."""

    @property
    def _prediction(self) -> str:
        """In the words of the model specification."""
        return "v" if self.prediction_type == "v_prediction" else "epsilon"

    @abc.abstractmethod
    def _texts(self) -> list[tuple[CLIPTokenizer, PreTrainedModel]]:
        """Tokenizers with their text encoders."""

    @abc.abstractmethod
    def _encode(self, prompt: str) -> PromptStates:
        """The states of one prompt, computed anew, with the text encoders on the device."""

    def _through_vae(self, work: Callable[[], Result], height: int, width: int) -> Result:
        """What the VAE makes of a picture of so many pixels: in tiles where it is large or does not fit into the memory whole.

        Where it was not enough once, tiles it is from then on: other pictures of that size would fare alike.
        """
        vae: Any = self._pipeline.vae
        self.guests.invite(vae)
        vae.use_tiling = height * width > min(LARGEST_WHOLE, self._largest_whole)
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or vae.use_tiling or min(height, width) <= SMALLEST_TILE:
                raise
        self._largest_whole = height * width - 1
        self.notices.append(IN_TILES.format(width=width, height=height))
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        # Its own tiles are as large as the pictures it was trained on.
        vae.tile_sample_min_size = max(SMALLEST_TILE, min(height, width) // 2)
        vae.tile_latent_min_size = vae.tile_sample_min_size // self._pipeline.vae_scale_factor
        vae.use_tiling = True
        return work()

    def _freeze(self, dtype: torch.dtype) -> None:
        """Everything frozen, in eval mode, in its format."""
        parts: list[tuple[nn.Module, torch.dtype]] = [(encoder, dtype) for _, encoder in self._texts()]
        parts += [(self._pipeline.unet, dtype), (self._pipeline.vae, VAE_DTYPE)]
        for module, as_dtype in parts:
            module.requires_grad_(False).eval().to(dtype=as_dtype)


def lay_out(unet: nn.Module, device: torch.device) -> None:
    """Keep the weights of convolutions with their channels side by side, on CUDA; names, shapes and numbers stay.

    There cuDNN's kernels for half precision read pictures so, and otherwise turn each one around before and after a convolution.
    For a CPU and Apple's GPUs nobody has shown that it brings anything.
    """
    if device.type == "cuda":
        unet.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # torch's stubs want a device


def load_unet(folder: Path, *, device: torch.device, dtype: torch.dtype, precision: str) -> UNet2DConditionModel:
    """The denoiser, frozen, on its device. The largest part goes first, so that the host never holds it beside the others."""
    unet = UNet2DConditionModel.from_pretrained(
        folder, subfolder="unet", dtype=dtype, use_safetensors=True, variant=variant_of(folder, "unet")
    )
    place(unet.requires_grad_(False), device, precision)
    return unet


def _embeddings(kind: str, states: PromptStates) -> dict[str, Tensor]:
    """The states as arguments of a diffusers pipeline; only those with a pooled state know its argument."""
    pooled = {} if states.pooled is None else {f"{kind}pooled_prompt_embeds": states.pooled}
    return {f"{kind}prompt_embeds": states.hidden, **pooled}
