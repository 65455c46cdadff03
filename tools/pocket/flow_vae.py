"""The autoencoder of the pocket model as the class FLUX.2 uses, and the tokens it makes of the world.

The weights are the same, bit for bit. New are the statistics by which FLUX.2 normalises patches of 2 x 2 latents: a mean for
each channel, and one scale for all, that of the pocket model. Half of the channels deviate four times as much as the others,
which hold what is seen last; with a scale for each they would count, and be hidden by noise, as if they were the picture.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderKLFlux2
from numpy.typing import NDArray
from torch import Tensor

from tools.pocket.autoencoder import pictures_to_tensor
from tools.pocket.files import write_atomically
from tools.pocket.parallel import WORKERS, map_over
from tools.pocket.settings import Workplace
from tools.pocket.world import chunk_paths

BATCH_NORM_EPS = 1e-4  # the class's default
# What the two classes call alike.
SHARED_SETTINGS = (
    "in_channels",
    "out_channels",
    "down_block_types",
    "up_block_types",
    "block_out_channels",
    "layers_per_block",
    "act_fn",
    "latent_channels",
    "norm_num_groups",
    "sample_size",
    "use_quant_conv",
    "use_post_quant_conv",
    "mid_block_add_attention",
)


def load_pocket_vae(workplace: Workplace) -> AutoencoderKL:
    """The autoencoder of the pocket model, as it ships."""
    folder = workplace.assets / "vae"
    if not (folder / "config.json").exists():
        raise FileNotFoundError(
            f"the pocket model's autoencoder is not in {folder}; run: python -m tools.pocket export"
        )
    return AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True).eval()


def convert_vae(vae: AutoencoderKL) -> AutoencoderKLFlux2:
    """The same autoencoder as FLUX.2's class; its statistics are still 0 and 1."""
    converted = AutoencoderKLFlux2(
        batch_norm_eps=BATCH_NORM_EPS, **{name: vae.config[name] for name in SHARED_SETTINGS}
    )
    missing = converted.load_state_dict(vae.state_dict(), strict=False)
    assert not missing.unexpected_keys and all(key.startswith("bn.") for key in missing.missing_keys)
    return converted.eval()


def load_flow_vae(workplace: Workplace) -> AutoencoderKLFlux2:
    """The converted autoencoder with the statistics of the world."""
    vae = convert_vae(load_pocket_vae(workplace))
    mean, variance = _statistics(workplace)
    vae.bn.running_mean.copy_(mean)
    vae.bn.running_var.copy_(variance)
    return vae


def encode_world_tokens(workplace: Workplace, workers: int = WORKERS) -> None:
    """Encodes what is missing of the world; every chunk of pictures gets a file of tokens, not yet normalized."""
    tasks = [
        (workplace, pictures, tokens)
        for pictures, tokens in zip(chunk_paths(workplace), _token_paths(workplace), strict=True)
        if not tokens.exists()
    ]
    for count, path in enumerate(map_over(workers, _encode, tasks), 1):
        print(f"flow: encoded {count} of {len(tasks)} chunks, {path.name}", flush=True)


def read_tokens(workplace: Workplace) -> Tensor:
    """The training pictures as normalized tokens (count, 64, 32), fp16.

    The first chunk alone gives the statistics, 128,000 numbers a channel, so that they stay when the world grows.
    """
    mean, variance = _statistics(workplace)
    chunks = map(_read_chunk, _token_paths(workplace))
    tokens = torch.cat([normalize_tokens(chunk, mean, variance).half() for chunk in chunks])
    return tokens[: len(tokens) - workplace.held_out]


def measure_statistics(tokens: Tensor, scaling_factor: float) -> tuple[Tensor, Tensor]:
    """The mean of each of C channels of tokens (count, length, C), and for each the variance that scales by the factor."""
    mean = tokens.float().mean((0, 1))
    return mean, torch.full_like(mean, scaling_factor**-2 - BATCH_NORM_EPS)


def normalize_tokens(tokens: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Tokens (count, length, C) as the pipeline normalizes them."""
    return (tokens.float() - mean) / (variance + BATCH_NORM_EPS).sqrt()


def to_tokens(latents: Tensor) -> Tensor:
    """Latents (B, C, H, W) as tokens (B, H / 2 * W / 2, 4 C): patches of 2 x 2, row by row, as FLUX.2 packs them."""
    return F.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


def _statistics(workplace: Workplace) -> tuple[Tensor, Tensor]:
    factor: float = load_pocket_vae(workplace).config["scaling_factor"]
    return measure_statistics(_read_chunk(_token_paths(workplace)[0]), factor)


def _token_paths(workplace: Workplace) -> list[Path]:
    return [workplace.root / "flow_tokens" / f"{path.stem}.npy" for path in chunk_paths(workplace)]


def _read_chunk(path: Path) -> Tensor:
    return torch.from_numpy(np.load(path))


@torch.no_grad()
def _encode(workplace: Workplace, pictures: Path, target: Path) -> Path:
    torch.set_num_threads(1)
    images, vae = np.load(pictures)["images"], load_pocket_vae(workplace)
    parts = [
        to_tokens(vae.encode(pictures_to_tensor(images[start : start + 100])).latent_dist.mode()).half()
        for start in range(0, len(images), 100)
    ]
    array = torch.cat(parts).numpy()
    write_atomically(target, lambda temporary: _save_array(temporary, array))
    return target


def _save_array(path: Path, array: NDArray[np.float16]) -> None:
    with path.open("wb") as handle:  # given a name, numpy would add a suffix to it
        np.save(handle, array)
