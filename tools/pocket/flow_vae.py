"""The autoencoder of the pocket model as the class FLUX.2 uses, and the tokens it makes of the world.

The weights are the same, bit for bit. New are the statistics by which FLUX.2 normalises patches of 2 x 2 latents.
"""

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, AutoencoderKLFlux2
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from tools.pocket.autoencoder import pictures_to_tensor
from tools.pocket.files import write_atomically
from tools.pocket.parallel import WORKERS, map_over
from tools.pocket.settings import Workplace
from tools.pocket.world import open_world

ENCODED_AT_ONCE = 5000
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
    vae, encoded = convert_vae(load_pocket_vae(workplace)), encode_tokens(workplace)
    vae.bn.running_mean.copy_(encoded["mean"])
    vae.bn.running_var.copy_(encoded["variance"])
    return vae


def encode_tokens(workplace: Workplace, workers: int = WORKERS) -> dict[str, Tensor]:
    """The training pictures as normalised tokens, cached in a file.

    Returns:
        `tokens` (count, 64, 32) in fp16, and the `mean` and `variance` (32,) they were normalised by.
    """
    path = workplace.root / "flow_tokens.safetensors"
    if not path.exists():
        count = open_world(workplace).training_count
        tasks = [(workplace, start, min(start + ENCODED_AT_ONCE, count)) for start in range(0, count, ENCODED_AT_ONCE)]
        tokens = torch.cat([torch.from_numpy(part) for part in map_over(workers, _encode, tasks)])
        encoded = normalize_tokens(tokens)
        write_atomically(path, lambda target: save_file(encoded, target))
    return load_file(path)


def normalize_tokens(tokens: Tensor) -> dict[str, Tensor]:
    """Tokens (count, length, C) with mean 0 and variance 1 in each of C channels, and what they had before."""
    channels = tokens.flatten(0, 1).float()
    variance, mean = torch.var_mean(channels, 0)
    deviation = (variance + BATCH_NORM_EPS).sqrt()
    normalized = ((channels - mean) / deviation).half().view_as(tokens)
    return {"tokens": normalized, "mean": mean, "variance": variance}


def to_tokens(latents: Tensor) -> Tensor:
    """Latents (B, C, H, W) as tokens (B, H / 2 * W / 2, 4 C): patches of 2 x 2, row by row, as FLUX.2 packs them."""
    return F.pixel_unshuffle(latents, 2).flatten(2).transpose(1, 2)


@torch.no_grad()
def _encode(workplace: Workplace, start: int, stop: int) -> NDArray[np.float16]:
    torch.set_num_threads(1)
    world, vae = open_world(workplace), load_pocket_vae(workplace)
    parts: list[NDArray[np.float16]] = []
    for first in range(start, stop, 250):
        pictures = pictures_to_tensor(world.images[first : min(first + 250, stop)])
        parts.append(to_tokens(vae.encode(pictures).latent_dist.mode()).half().numpy())
    return np.concatenate(parts)
