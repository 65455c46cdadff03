"""FLUX.2 klein in diffusers layout: a flow transformer with joint attention that is told its prompts by a language model."""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from apt_engine.bases.base import Attention, LoraLayers, OnFeatures, PromptStates, WatchedLayers
from apt_engine.bases.flow import TRAIN_TIMESTEPS
from apt_engine.bases.flow_transformer import PATCH, FlowTransformer


class Klein(FlowTransformer):
    """Latents are those of the VAE, 2 x 2 cells at a time, normalized by its batch statistics.

    Words come first in the joint sequence, padding included, which is attended to as well. The first blocks have streams of their
    own for words and picture, the others one stream in which attention and feed-forward layer are one projection.
    """

    pipeline_class = Flux2KleinPipeline
    transformer_class = Flux2Transformer2DModel

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

    def _watch_features(self, name: str, layer: Any, on_features: OnFeatures) -> RemovableHandle:
        """A picture with a stream of its own is projected alone; else it follows the words, feed-forward beside it."""
        if isinstance(layer.to_out, nn.ModuleList):
            return layer.to_out[0].register_forward_pre_hook(lambda _module, inputs: on_features(name, inputs[0]))
        return layer.to_out.register_forward_pre_hook(
            lambda _module, inputs: on_features(name, inputs[0][:, self._prompt_tokens :, : layer.inner_dim])
        )

    def _seen(self, query: Tensor, key: Tensor) -> Attention:
        return Attention(query[:, :, self._prompt_tokens :], key, text_start=0)

    @property
    def _is_distilled(self) -> bool:
        return bool(self._pipeline.config.is_distilled)

    def _as_states(self, encoded: Tensor) -> PromptStates:
        return PromptStates(encoded)

    def _sampling_shift(self, cells: int, steps: int) -> float:
        return compute_empirical_mu(image_seq_len=cells, num_steps=steps)

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (1, C, 1, 1) of the latents the model was trained on."""
        vae = self._pipeline.vae
        variance = vae.bn.running_var + vae.config.batch_norm_eps
        return vae.bn.running_mean[:, None, None], variance.sqrt()[:, None, None]

    def _places(self, *sizes: int) -> Tensor:
        """(tokens, 4): frame, row, column and word of each token, in their order."""
        return torch.cartesian_prod(*(torch.arange(size, device=self.device) for size in sizes))
