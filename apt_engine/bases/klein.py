"""FLUX.2 klein in diffusers layout: a flow transformer with joint attention that is told its prompts by a language model."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler, Flux2KleinPipeline, Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from apt_engine.bases import joint_attention
from apt_engine.bases.base import (
    Attention,
    CaptionTokens,
    LoraLayers,
    OnAttention,
    OnFeatures,
    OnStep,
    PromptStates,
    Source,
    WatchedLayers,
)
from apt_engine.bases.checkpoints import SingleFile
from apt_engine.bases.flow import TRAIN_TIMESTEPS, FlowNoise, shift_for
from apt_engine.bases.guests import Guests
from apt_engine.bases.prompts import RecentPrompts
from apt_engine.errors import BaseModelError

MOST_PROMPT_TOKENS = 512  # of each prompt, template and padding included; padding is attended to as well
PATCH = 2  # latent cells a side that make one token, and one cell of ours
SENTINEL = "\ue000"  # stands for a prompt where the place of prompts in the template is sought


class Klein(FlowNoise):
    """One cell of our latents is one token of the transformer: 2 x 2 cells of the VAE, normalized by its batch statistics.

    Words come first in the joint sequence. The first blocks have streams of their own for words and picture, the others one
    stream in which attention and feed-forward layer are one projection.
    """

    samplers: tuple[str, ...] = ("Euler",)

    def __init__(self, pipeline: Flux2KleinPipeline, *, name: str, device: torch.device, dtype: torch.dtype) -> None:
        self.name = name
        self.device = device
        self.dtype = dtype
        self._pipeline = pipeline
        self.guests = Guests(device)
        self._recent_prompts = RecentPrompts()
        parts = ((pipeline.transformer, dtype), (pipeline.text_encoder, dtype), (pipeline.vae, torch.float32))
        for module, as_dtype in parts:
            module.requires_grad_(False).eval().to(dtype=as_dtype)
        pipeline.transformer.to(device)
        pipeline.transformer.set_attention_backend("native")  # the one that can be watched
        self._prompt_tokens = min(MOST_PROMPT_TOKENS, pipeline.tokenizer.model_max_length)
        self.size_multiple: int = pipeline.vae_scale_factor * PATCH
        self._scheduler_config: Any = pipeline.scheduler.config
        self.shift = shift_for(self._scheduler_config, self._scheduler_config.max_image_seq_len)

    @classmethod
    def load(
        cls,
        source: Source,
        *,
        name: str,
        device: torch.device,
        dtype: torch.dtype,
        attention: str,  # noqa: ARG003  # fused alone can be watched
    ) -> "Klein":
        assert not isinstance(source, SingleFile)  # none is told to be of this family
        transformer = Flux2Transformer2DModel.from_pretrained(
            source, subfolder="transformer", dtype=dtype, use_safetensors=True
        ).to(device)  # first, so that the host never holds it beside the language model
        pipeline = Flux2KleinPipeline.from_pretrained(
            source, transformer=transformer, dtype={"text_encoder": dtype}, use_safetensors=True
        )
        return cls(pipeline, name=name, device=device, dtype=dtype)

    @property
    def denoiser(self) -> nn.Module:
        return self._pipeline.transformer

    @property
    def pipeline(self) -> Flux2KleinPipeline:
        return self._pipeline

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32)

    def prepare_training(self, resolution: int, *, gradient_checkpointing: bool) -> None:
        if self._is_distilled:
            raise BaseModelError(
                f"{self.name} is distilled to draw in a few steps, and training would undo that; choose its base version instead."
            )
        self.shift = shift_for(self._scheduler_config, (resolution // self.size_multiple) ** 2)
        if gradient_checkpointing:
            self._pipeline.transformer.enable_gradient_checkpointing()

    @property
    def lora(self) -> LoraLayers:
        """Of what runs beside the words' own stream. Other programs read diffusers' layout for this family."""
        singles = range(len(self._pipeline.transformer.single_transformer_blocks))
        outputs = (f"single_transformer_blocks.{number}.attn.to_out" for number in singles)
        return LoraLayers(
            attention=("to_q", "to_k", "to_v", "to_out.0", "to_qkv_mlp_proj", *outputs),
            feed_forward=("ff.linear_in", "ff.linear_out"),
            architecture="flux-2-klein-base",
            prefix="transformer.",
        )

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> PromptStates:
        def encode(prompt: str) -> PromptStates:
            self.guests.invite(self._pipeline.text_encoder)
            with self.autocast():
                states, _ = self._pipeline.encode_prompt(
                    [prompt], device=self.device, max_sequence_length=self._prompt_tokens
                )
            return PromptStates(states)

        return self._recent_prompts.states(prompts, encode, self.device)

    def forget_prompts(self) -> None:
        self._recent_prompts.forget()

    def caption_tokens(self, prompt: str) -> CaptionTokens:
        """Without the chat template around the prompt."""
        before, _, after = self._templated(SENTINEL).partition(SENTINEL)
        text = self._templated(prompt)
        encoded = self._pipeline.tokenizer(text, return_offsets_mapping=True)
        spans = enumerate(zip(encoded.input_ids, encoded.offset_mapping, strict=True))
        own = [
            (token, column)
            for column, (token, (begin, stop)) in spans
            if len(before) <= begin < stop <= len(text) - len(after)
        ]
        kept = [(token, column) for token, column in own if column < self._prompt_tokens]
        return CaptionTokens(
            tuple(token for token, _ in kept), tuple(column for _, column in kept), is_cut=len(kept) < len(own)
        )

    @torch.no_grad()
    def encode_images(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """No deviation: the model was trained on the means."""
        mean = self._vae().encode(pixels.to(self.device, torch.float32)).latent_dist.mode()
        shift, scale = self._statistics()
        latents = (F.pixel_unshuffle(mean, PATCH) - shift) / scale
        return latents, torch.zeros_like(latents)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        vae = self._vae()
        shift, scale = self._statistics()
        pixels = vae.decode(F.pixel_shuffle(latents.float() * scale + shift, PATCH)).sample
        return (pixels / 2 + 0.5).clamp(0, 1)

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        return self._pipeline.transformer.config.in_channels, height // self.size_multiple, width // self.size_multiple

    @torch.no_grad()
    def draw(
        self,
        noise: Tensor,
        states: PromptStates,
        negative_states: PromptStates,
        *,
        steps: int,
        guidance_scale: float,
        sampler: str,  # noqa: ARG002  # there is one
        generators: list[torch.Generator],  # noqa: ARG002  # which draws nothing
        on_step: OnStep,
    ) -> Tensor:
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(self._scheduler_config)
        cells = noise.shape[-1] * noise.shape[-2]
        shift = compute_empirical_mu(image_seq_len=cells, num_steps=steps)
        scheduler.set_timesteps(sigmas=numpy.linspace(1, 1 / steps, steps).tolist(), mu=shift, device=self.device)
        latents = noise
        self.guests.dismiss(keep=(self._pipeline.vae,))
        for step, timestep in enumerate(scheduler.timesteps):
            timesteps = timestep.expand(len(latents))
            velocity = self._velocity(latents, timesteps, states)
            if guidance_scale > 1 and not self._is_distilled:
                away = self._velocity(latents, timesteps, negative_states)
                velocity = away + guidance_scale * (velocity - away)
            guess = latents - scheduler.sigmas[step] * velocity
            latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
            on_step(step + 1, guess)
        return latents

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, states: PromptStates) -> Tensor:
        self.guests.dismiss()
        return self._velocity(noisy_latents, timesteps, states)

    def _velocity(self, noisy_latents: Tensor, timesteps: Tensor, states: PromptStates) -> Tensor:
        height, width = noisy_latents.shape[-2:]
        with self.autocast():
            output = self._pipeline.transformer(
                hidden_states=noisy_latents.flatten(2).transpose(1, 2),
                encoder_hidden_states=states.hidden,
                timestep=timesteps / TRAIN_TIMESTEPS,
                img_ids=self._places(1, height, width, 1),
                txt_ids=self._places(1, 1, 1, states.hidden.shape[1]),
                return_dict=False,
            )[0]
        return output.transpose(1, 2).unflatten(2, (height, width))

    @property
    def watched_layers(self) -> WatchedLayers:
        """The later half of all blocks: what the mid and up blocks of a U-Net are to it."""
        transformer = self._pipeline.transformer
        names = [f"transformer_blocks.{number}.attn" for number in range(len(transformer.transformer_blocks))]
        names += [
            f"single_transformer_blocks.{number}.attn" for number in range(len(transformer.single_transformer_blocks))
        ]
        later = tuple(names[len(names) // 2 :])
        return WatchedLayers(features=later, maps=later)

    @contextlib.contextmanager
    def watch(self, on_features: OnFeatures | None, on_attention: OnAttention | None) -> Iterator[None]:
        with contextlib.ExitStack() as hooks:
            for name in self.watched_layers.features:
                layer = self.denoiser.get_submodule(name)
                if on_features:
                    hooks.enter_context(_watch_features(name, layer, self._prompt_tokens, on_features))
                for hook in _watch_attention(name, layer, self._prompt_tokens, on_attention) if on_attention else ():
                    hooks.enter_context(hook)
            yield

    @property
    def _is_distilled(self) -> bool:
        return bool(self._pipeline.config.is_distilled)

    def _templated(self, prompt: str) -> str:
        """A prompt as the pipeline words it to the language model."""
        said = [{"role": "user", "content": prompt}]
        template: Any = self._pipeline.tokenizer.apply_chat_template
        return template(said, tokenize=False, add_generation_prompt=True, enable_thinking=False)

    def _vae(self) -> Any:
        """The VAE, on the device."""
        self.guests.invite(self._pipeline.vae)
        return self._pipeline.vae

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (1, C, 1, 1) of the latents the model was trained on."""
        vae = self._pipeline.vae
        variance = vae.bn.running_var + vae.config.batch_norm_eps
        return vae.bn.running_mean[:, None, None], variance.sqrt()[:, None, None]

    def _places(self, *sizes: int) -> Tensor:
        """(tokens, 4): frame, row, column and word of each token, in their order."""
        return torch.cartesian_prod(*(torch.arange(size, device=self.device) for size in sizes))


def _watch_features(name: str, layer: Any, text: int, on_features: OnFeatures) -> RemovableHandle:
    """Where the picture has a stream of its own, that alone is projected; else it follows the words, feed-forward beside it."""
    if isinstance(layer.to_out, nn.ModuleList):
        return layer.to_out[0].register_forward_pre_hook(lambda _module, inputs: on_features(name, inputs[0]))
    return layer.to_out.register_forward_pre_hook(
        lambda _module, inputs: on_features(name, inputs[0][:, text:, : layer.inner_dim])
    )


def _watch_attention(name: str, layer: nn.Module, text: int, on_attention: OnAttention) -> list[RemovableHandle]:
    def on_call(query: Tensor, key: Tensor) -> None:
        on_attention(name, Attention(query[:, :, text:], key, text_start=0))

    return joint_attention.watch_module(layer, on_call)
