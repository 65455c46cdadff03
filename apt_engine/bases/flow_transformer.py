"""What flow transformers have in common that are told their prompts by a chat model: all but their latents and their sequence.

A prompt stands in a template of the chat model; the transformer attends in one sequence to words and picture.
"""

import abc
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import numpy
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from apt_engine.bases import joint_attention
from apt_engine.bases.base import (
    Attention,
    CaptionTokens,
    OnAttention,
    OnFeatures,
    OnStep,
    PromptStates,
    Source,
    WatchedLayers,
)
from apt_engine.bases.checkpoints import SingleFile
from apt_engine.bases.flow import FlowNoise, shift_for
from apt_engine.bases.guests import Guests
from apt_engine.bases.prompts import RecentPrompts
from apt_engine.bases.quantized import place
from apt_engine.bases.single_file import load_transformer
from apt_engine.errors import BaseModelError

MOST_PROMPT_TOKENS = 512  # of each prompt, template and padding included
PATCH = 2  # latent cells of the VAE a side that make one token, and one cell of ours
SENTINEL = "\ue000"  # stands for a prompt where the place of prompts in the template is sought


class FlowTransformer(FlowNoise, abc.ABC):
    """A pipeline with transformer, chat model and VAE. One cell of our latents is one token of the transformer."""

    samplers: tuple[str, ...] = ("Euler",)
    takes_proportions = False  # its noise levels are shifted for one size
    pipeline_class: Any  # diffusers' own classes
    transformer_class: Any
    enable_thinking = False  # what the template is told, which then closes or leaves open a part for thoughts

    def __init__(self, pipeline: Any, *, name: str, device: torch.device, dtype: torch.dtype) -> None:
        self.name = name
        self.device = device
        self.dtype = dtype
        self._pipeline = pipeline
        self.guests = Guests(device, host=pipeline.transformer)  # the language model may be larger
        self.notices: list[str] = []
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
        precision: str,
    ) -> Self:
        assert not isinstance(source, SingleFile)  # which holds a whole Stable Diffusion
        folder = source if isinstance(source, Path) else source.parts
        if isinstance(source, Path):
            transformer = cls.transformer_class.from_pretrained(
                folder, subfolder="transformer", dtype=dtype, use_safetensors=True
            )
        else:
            transformer = load_transformer(cls.transformer_class, source, dtype)
        # First: the host never holds both language model and it.
        place(transformer.requires_grad_(False), device, precision)
        pipeline = cls.pipeline_class.from_pretrained(
            folder, transformer=transformer, dtype={"text_encoder": dtype}, use_safetensors=True
        )
        if not isinstance(source, Path) and source.is_distilled is not None:
            pipeline.register_to_config(is_distilled=source.is_distilled)
        return cls(pipeline, name=name, device=device, dtype=dtype)

    @property
    def denoiser(self) -> nn.Module:
        return self._pipeline.transformer

    @property
    def pipeline(self) -> Any:
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

    @torch.no_grad()
    def encode_prompts(self, prompts: list[str]) -> PromptStates:
        def encode(prompt: str) -> PromptStates:
            self.guests.invite(self._pipeline.text_encoder)
            with self.autocast():
                states, _ = self._pipeline.encode_prompt(
                    [prompt], device=self.device, max_sequence_length=self._prompt_tokens
                )
            return self._as_states(states)

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
        shift = self._sampling_shift(noise.shape[-1] * noise.shape[-2], steps)
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

    @contextlib.contextmanager
    def watch(self, on_features: OnFeatures | None, on_attention: OnAttention | None) -> Iterator[None]:
        with contextlib.ExitStack() as hooks:
            for name in self.watched_layers.features:
                layer = self.denoiser.get_submodule(name)
                if on_features:
                    hooks.enter_context(self._watch_features(name, layer, on_features))
                for hook in self._watch_attention(name, layer, on_attention) if on_attention else ():
                    hooks.enter_context(hook)
            yield

    def _watch_attention(self, name: str, layer: nn.Module, on_attention: OnAttention) -> list[RemovableHandle]:
        def on_call(query: Tensor, key: Tensor, mask: Tensor | None) -> None:
            on_attention(name, self._seen(*joint_attention.masked(query, key, mask)))

        return joint_attention.watch_module(layer, on_call)

    @property
    @abc.abstractmethod
    def watched_layers(self) -> WatchedLayers: ...

    @abc.abstractmethod
    def _watch_features(self, name: str, layer: Any, on_features: OnFeatures) -> RemovableHandle:
        """A hook that tells what of a layer's attention belongs to the picture, before its output projection."""

    @abc.abstractmethod
    def _seen(self, query: Tensor, key: Tensor) -> Attention:
        """What of a layer's queries and keys (B, h, S, D) is the picture's and the words'."""

    @property
    @abc.abstractmethod
    def _is_distilled(self) -> bool:
        """Whether it was taught to draw in a few steps without guidance."""

    @abc.abstractmethod
    def _velocity(self, noisy_latents: Tensor, timesteps: Tensor, states: PromptStates) -> Tensor:
        """What the transformer says of latents (B, C, h, w): noise less picture."""

    @abc.abstractmethod
    def _as_states(self, encoded: Any) -> PromptStates:
        """One prompt as the pipeline encodes it."""

    @abc.abstractmethod
    def _sampling_shift(self, cells: int, steps: int) -> float:
        """The logarithm of the pipeline's own shift, for pictures of so many cells."""

    def _templated(self, prompt: str) -> str:
        """A prompt as the pipeline words it to the chat model."""
        said = [{"role": "user", "content": prompt}]
        template: Any = self._pipeline.tokenizer.apply_chat_template
        return template(said, tokenize=False, add_generation_prompt=True, enable_thinking=self.enable_thinking)

    def _vae(self) -> Any:
        """The VAE, on the device."""
        self.guests.invite(self._pipeline.vae)
        return self._pipeline.vae
