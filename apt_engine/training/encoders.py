"""Other networks for a verdict, CLIP and DINOv2, where they lie in the hub's cache: nothing is ever downloaded for it.

Only safetensors are read. Pictures are brought to the network's own side and normalized as it was trained; features have unit
length, so their products are cosines. N pictures or prompts, F features.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from safetensors import SafetensorError
from torch import Tensor

from apt_engine.bases import hub

FILES = ("config.json", "model.safetensors")
WORDS = ("vocab.json", "merges.txt", "tokenizer_config.json")
CLIP = ("openai/clip-vit-large-patch14", "openai/clip-vit-base-patch16", "openai/clip-vit-base-patch32")  # best first
DINOV2 = ("facebook/dinov2-large", "facebook/dinov2-base", "facebook/dinov2-small")
CLIP_MEAN, CLIP_SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Encoder:
    """A network that looks at pictures.

    Args:
        name: its hub id.
        folder: where it lies.
        device: where it computes, in fp32.

    Attributes:
        reads: whether it understands words too.

    Raises:
        OSError, ValueError, RuntimeError, SafetensorError: its files are damaged or of another kind.
    """

    def __init__(self, name: str, folder: Path, device: torch.device) -> None:
        from transformers import CLIPModel, CLIPTokenizer, Dinov2Model

        self.name, self.reads, self._device = name, name in CLIP, device
        kind: Any = CLIPModel if self.reads else Dinov2Model
        whole = kind.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
        self._network: Any = whole.to(device).eval()
        self._side: int = (whole.config.vision_config if self.reads else whole.config).image_size
        if not self.reads:
            self._side = min(self._side, 224)  # its positions are interpolated; 518 would cost five times as much
        self._tokenizer: Any = CLIPTokenizer.from_pretrained(folder, local_files_only=True) if self.reads else None

    @torch.no_grad()
    def see(self, pictures: Sequence[Image.Image]) -> Tensor:
        """Features of pictures (N, F), on the CPU."""
        pixels = torch.stack([self._prepared(picture) for picture in pictures]).to(self._device)
        if self.reads:
            found = self._network.visual_projection(self._network.vision_model(pixel_values=pixels).pooler_output)
        else:
            found = self._network(pixel_values=pixels).pooler_output
        return F.normalize(found.float(), dim=1).cpu()

    @torch.no_grad()
    def read(self, prompts: Sequence[str]) -> Tensor:
        """Features of prompts (N, F), on the CPU; only of a network that reads."""
        tokens = self._tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt").to(self._device)
        found = self._network.text_projection(self._network.text_model(**tokens).pooler_output)
        return F.normalize(found.float(), dim=1).cpu()

    def _prepared(self, picture: Image.Image) -> Tensor:
        mean, spread = (CLIP_MEAN, CLIP_SPREAD) if self.reads else (IMAGENET_MEAN, IMAGENET_SPREAD)
        small = ImageOps.fit(picture.convert("RGB"), (self._side, self._side), Image.Resampling.BICUBIC)  # its middle
        values = (numpy.asarray(small, dtype=numpy.float32) / 255 - mean) / spread  # (side, side, 3)
        return torch.from_numpy(values.astype(numpy.float32)).permute(2, 0, 1)


def in_cache(device: torch.device) -> list[Encoder]:
    """The best CLIP and the best DINOv2 that lie in the cache whole; what is damaged is passed over."""
    found: list[Encoder] = []
    for names, files in ((CLIP, (*FILES, *WORDS)), (DINOV2, FILES)):
        for name in names:
            folder = hub.snapshot_of(name, files)
            try:
                encoder = Encoder(name, folder, device) if folder else None
            except (OSError, ValueError, RuntimeError, SafetensorError):
                continue
            if encoder:
                found.append(encoder)
                break
    return found


def among(features: Tensor) -> Tensor:
    """The mean cosine of each of N pictures to all others (N,); empty of a single one."""
    count = len(features)
    return ((features @ features.T).sum(dim=1) - 1) / (count - 1) if count > 1 else features.new_zeros(0)
