"""The U-Net and the text encoder, trained together on cached latents: eps-prediction, min-SNR-5, averaged weights."""

import copy
import time

import numpy as np
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tools.pocket.autoencoder import encode_world
from tools.pocket.captions import draw_captions
from tools.pocket.files import load_checkpoint, save_checkpoint
from tools.pocket.parallel import WORKERS, Crew, count_trainable, run_crew
from tools.pocket.schedule import Clock, trapezoid_rate
from tools.pocket.settings import LATENT_CHANNELS, LATENT_SIZE, SEED, TEXT_LENGTH, TEXT_WIDTH, Workplace
from tools.pocket.sprites import other_words
from tools.pocket.tokenizer import load_tokenizer
from tools.pocket.world import batches, read_codes

BATCH = 64  # over all processes
PEAK_RATE = 8e-4
SNR_CAP = 5.0
EMA_EVERY_STEPS = 5
EMA_DECAY = 0.995
SAVE_EVERY_SECONDS = 180


def build_unet() -> UNet2DConditionModel:
    """The U-Net: cheap convolutions at 16x16; attention at 8x8, 4x4 and in the middle, on the way down and up."""
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(80, 128, 192),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=(2, 4, 6),  # the number of heads, by diffusers' old naming: 32 numbers each
        cross_attention_dim=TEXT_WIDTH,
        norm_num_groups=16,
    )
    unet.set_attn_processor(AttnProcessor())  # the fused attention's backward is slow on a CPU
    return unet


def build_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """A small CLIP text encoder."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=6,
        max_position_embeddings=TEXT_LENGTH,
        projection_dim=TEXT_WIDTH,
        bos_token_id=len(tokenizer) - 2,
        eos_token_id=len(tokenizer) - 1,
        pad_token_id=len(tokenizer) - 1,
    )
    text_encoder = CLIPTextModel(config)
    text_encoder.set_attn_implementation("eager")
    return text_encoder


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule."""
    return DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def load_averaged(workplace: Workplace) -> tuple[UNet2DConditionModel, CLIPTextModel, dict[str, float]]:
    """The averaged weights of the last checkpoint, and its state."""
    model = _build_model(workplace)
    state = load_checkpoint(workplace.checkpoint("unet"), {"average": model})
    if state is None:
        raise FileNotFoundError("the U-Net is not trained yet; run: python -m tools.pocket unet")
    unet, text_encoder = model["unet"], model["text_encoder"]
    assert isinstance(unet, UNet2DConditionModel)
    assert isinstance(text_encoder, CLIPTextModel)
    return unet.eval(), text_encoder.eval(), state


def train_unet(workplace: Workplace, deadline: float, workers: int = WORKERS) -> None:
    """Trains until the deadline (seconds since the epoch), going on from the checkpoint."""
    encode_world(workplace, workers)
    run_crew(_train, count_trainable(_build_model(workplace)), workplace, deadline, workers=workers)


def snr_weights(alphas_cumprod: Tensor, timesteps: Tensor) -> Tensor:
    """Min-SNR weights for eps-prediction: min(snr, cap) / snr (Hang et al. 2023, equation 7)."""
    alphas = alphas_cumprod[timesteps]
    snr = alphas / (1 - alphas)
    return snr.clamp(max=SNR_CAP) / snr


def _build_model(workplace: Workplace) -> nn.ModuleDict:
    torch.manual_seed(SEED)
    tokenizer = load_tokenizer(workplace.tokenizer)
    return nn.ModuleDict({"unet": build_unet(), "text_encoder": build_text_encoder(tokenizer)})


def _train(rank: int, crew: Crew, workplace: Workplace, deadline: float) -> None:
    model = _build_model(workplace).train()
    average = copy.deepcopy(model)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, PEAK_RATE, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    parts = {"model": model, "average": average}
    state = load_checkpoint(workplace.checkpoint("unet"), parts, optimizer) or {"step": 0, "seconds": 0.0}
    clock, step, saved, losses = Clock(deadline, state["seconds"]), int(state["step"]), time.time(), []
    batch_source = _Batches(workplace, rank, crew.workers, step)
    while True:
        loss = _denoising_loss(model, *batch_source.draw())
        loss.backward()
        progress = crew.average_gradients(rank, parameters, clock.progress)
        optimizer.param_groups[0]["lr"] = PEAK_RATE * trapezoid_rate(progress)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step, losses = step + 1, [*losses[-199:], loss.item()]
        if rank == 0 and step % EMA_EVERY_STEPS == 0:
            _update_average(average, model, step)
        if rank == 0 and (progress >= 1 or time.time() - saved > SAVE_EVERY_SECONDS):
            facts = {"step": step, "samples": step * BATCH, "seconds": clock.seconds, "loss": float(np.mean(losses))}
            save_checkpoint(workplace.checkpoint("unet"), parts, optimizer, facts)
            print(f"unet: {facts}", flush=True)
            saved = time.time()
        if progress >= 1:
            return


class _Batches:
    """Latents, their noise and captions: one process's part of each batch."""

    def __init__(self, workplace: Workplace, rank: int, workers: int, step: int) -> None:
        self._latents, self._codes = encode_world(workplace), read_codes(workplace)
        self._words, self._tokenizer = other_words(workplace.packs), load_tokenizer(workplace.tokenizer)
        self._part = slice(rank, None, workers)
        self._indices = batches(len(self._latents), BATCH, np.random.default_rng((SEED, step)))
        self._rng = np.random.default_rng((SEED, step, rank))
        self._generator = torch.Generator().manual_seed(SEED + step * workers + rank)

    def draw(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Latents, noise, timesteps, token ids."""
        indices = next(self._indices)[self._part]
        latents = self._latents[torch.from_numpy(indices)].float()
        noise = torch.randn(latents.shape, generator=self._generator)
        timesteps = torch.randint(0, 1000, (len(indices),), generator=self._generator)
        return latents, noise, timesteps, self._tokenize(indices)

    def _tokenize(self, indices: NDArray[np.int64]) -> Tensor:
        captions = draw_captions(self._codes[indices], self._rng, self._words)
        tokens = self._tokenizer(
            captions, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt"
        )
        return tokens.input_ids


_SCHEDULER = build_scheduler()


def _denoising_loss(
    model: nn.ModuleDict, latents: Tensor, noise: Tensor, timesteps: Tensor, token_ids: Tensor
) -> Tensor:
    noisy_latents = _SCHEDULER.add_noise(latents, noise, timesteps)
    with torch.autocast("cpu", torch.bfloat16):
        encoder_hidden_states = model["text_encoder"](token_ids)[0]
        noise_pred = model["unet"](noisy_latents, timesteps, encoder_hidden_states).sample
    errors = (noise_pred.float() - noise).square().mean((1, 2, 3))
    return (errors * snr_weights(_SCHEDULER.alphas_cumprod, timesteps)).mean()


@torch.no_grad()
def _update_average(average: nn.Module, model: nn.Module, step: int) -> None:
    decay = min(EMA_DECAY, (1 + step / EMA_EVERY_STEPS) / (10 + step / EMA_EVERY_STEPS))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
