"""The autoencoder: 64 px RGB to 16x16x8 latents and back (AutoencoderKL, f4)."""

import time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from numpy.typing import NDArray
from torch import Tensor

from tools.pocket.files import load_checkpoint, save_checkpoint
from tools.pocket.parallel import WORKERS, Crew, count_trainable, map_over, run_crew
from tools.pocket.schedule import Clock, cosine_rate
from tools.pocket.settings import IMAGE_SIZE, LATENT_CHANNELS, SEED, Workplace
from tools.pocket.world import World, batches, open_world

BATCH = 16  # over all processes
PEAK_RATE = 2e-3
KL_WEIGHT = 5e-5
SAVE_EVERY_SECONDS = 90
ENCODED_AT_ONCE = 5000


def build_autoencoder() -> AutoencoderKL:
    """A small AutoencoderKL; no attention, for convolutions see enough at this size."""
    return AutoencoderKL(
        block_out_channels=(32, 64, 96),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=IMAGE_SIZE,
        mid_block_add_attention=False,
    )


def load_autoencoder(workplace: Workplace) -> AutoencoderKL:
    """The trained autoencoder, with its scaling factor set."""
    vae = build_autoencoder().eval()
    state = load_checkpoint(workplace.checkpoint("autoencoder"), {"vae": vae})
    if state is None:
        raise FileNotFoundError("the autoencoder is not trained yet; run: python -m tools.pocket autoencoder")
    vae.register_to_config(scaling_factor=state["scaling_factor"])
    return vae


def train_autoencoder(workplace: Workplace, deadline: float, workers: int = WORKERS) -> None:
    """Trains until the deadline (seconds since the epoch), going on from the checkpoint."""
    run_crew(_train, count_trainable(build_autoencoder()), workplace, deadline, workers=workers)


def _train(rank: int, crew: Crew, workplace: Workplace, deadline: float) -> None:
    torch.manual_seed(SEED)
    world, vae = open_world(workplace), build_autoencoder()
    parameters = list(vae.parameters())
    optimizer = torch.optim.AdamW(parameters, PEAK_RATE, betas=(0.9, 0.99), weight_decay=1e-4, fused=True)
    path = workplace.checkpoint("autoencoder")
    state = load_checkpoint(path, {"vae": vae}, optimizer) or {"step": 0, "seconds": 0.0}
    clock = Clock(deadline, state["seconds"])
    step, saved = int(state["step"]), time.time()
    torch.manual_seed(SEED + step * crew.workers + rank)
    for indices in batches(world.training_count, BATCH, np.random.default_rng((SEED, step))):
        _reconstruction_loss(vae, pictures_to_tensor(world.images[indices[rank :: crew.workers]])).backward()
        progress = crew.average_gradients(rank, parameters, clock.progress)
        optimizer.param_groups[0]["lr"] = PEAK_RATE * cosine_rate(progress)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        if rank == 0 and (progress >= 1 or time.time() - saved > SAVE_EVERY_SECONDS):
            state = {"step": step, "seconds": clock.seconds} | _measure(vae, world)
            save_checkpoint(path, {"vae": vae}, optimizer, state)
            print(f"autoencoder: {state}", flush=True)
            saved = time.time()
        if progress >= 1:
            return


def pictures_to_tensor(pictures: NDArray[np.uint8]) -> Tensor:
    """Turns (batch, height, width, 3) bytes into (batch, 3, height, width) floats from -1 to 1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1


@torch.no_grad()
def measure_psnr(vae: AutoencoderKL, pictures: NDArray[np.uint8], size: int = 50) -> float:
    """The mean over pictures of the peak signal-to-noise ratio of their reconstructions, in dB."""
    ratios: list[Tensor] = []
    for start in range(0, len(pictures), size):
        batch = pictures_to_tensor(pictures[start : start + size])
        output = vae.decode(vae.encode(batch).latent_dist.mode()).sample.clamp(-1, 1)
        ratios.append(-10 * torch.log10(((output - batch) / 2).square().mean((1, 2, 3))))
    return float(torch.cat(ratios).mean())


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, pictures: NDArray[np.uint8], size: int = 100) -> NDArray[np.uint8]:
    """What the autoencoder makes of pictures (count, 64, 64, 3)."""
    parts: list[NDArray[np.uint8]] = []
    for start in range(0, len(pictures), size):
        output = vae.decode(vae.encode(pictures_to_tensor(pictures[start : start + size])).latent_dist.mode()).sample
        parts.append(((output.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy())
    return np.concatenate(parts)


def encode_world(workplace: Workplace, workers: int = WORKERS) -> Tensor:
    """The scaled latents (count, 8, 16, 16) of all training pictures, cached in a file next to the checkpoint."""
    path = workplace.root / "latents.npy"
    if not path.exists():
        count = open_world(workplace).training_count
        tasks = [(workplace, start, min(start + ENCODED_AT_ONCE, count)) for start in range(0, count, ENCODED_AT_ONCE)]
        latents = np.concatenate(list(map_over(workers, _encode, tasks)))
        np.save(path.with_name("latents.part.npy"), latents)
        path.with_name("latents.part.npy").replace(path)
    return torch.from_numpy(np.load(path))


@torch.no_grad()
def _encode(workplace: Workplace, start: int, stop: int) -> NDArray[np.float16]:
    torch.set_num_threads(1)
    world, vae = open_world(workplace), load_autoencoder(workplace)
    chunks: list[NDArray[np.float16]] = []
    for first in range(start, stop, 250):
        batch = pictures_to_tensor(world.images[first : min(first + 250, stop)])
        with torch.autocast("cpu", torch.bfloat16):
            latents = vae.encode(batch).latent_dist.mode() * vae.config["scaling_factor"]
        chunks.append(latents.float().numpy().astype(np.float16))
    return np.concatenate(chunks)


def _reconstruction_loss(vae: AutoencoderKL, pictures: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(pictures).latent_dist
        output = vae.decode(posterior.sample()).sample
    difference = output.float() - pictures
    edges = difference.diff(dim=2).abs().mean() + difference.diff(dim=3).abs().mean()
    loss = difference.abs().mean() + 2 * F.mse_loss(output.float(), pictures) + 0.5 * edges
    return loss + KL_WEIGHT * posterior.kl().mean() / posterior.mean[0].numel()


@torch.no_grad()
def _measure(vae: AutoencoderKL, world: World) -> dict[str, float]:
    held_out = world.images[world.training_count :][:300]
    vae.eval()
    means = vae.encode(pictures_to_tensor(held_out)).latent_dist.mode()
    facts = {"psnr": measure_psnr(vae, held_out), "scaling_factor": 1 / float(means.std())}
    vae.train()
    return facts
