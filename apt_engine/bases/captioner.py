"""A BLIP model of the hub's cache looks at photos and says what it sees. Only safetensors are read, and nothing is downloaded."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from apt_engine.bases import hub
from apt_engine.bases.captioners import FILES
from apt_engine.bases.registry import choose_device
from apt_engine.errors import BaseModelError

MEAN, SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # as CLIP's
MOST_TOKENS = 30


def describe(
    name: str, photos: Sequence[Path], tell: Callable[[str, float | None], None], device: str = "auto"
) -> Iterator[str]:
    """What the captioner says of each photo, one after the other, in fp32.

    Args:
        name: its hub id; see `captioners`.
        photos: square pictures.
        tell: told what is done and how far it is (0 to 1); what it raises ends the work.
        device: as the setting of this name.

    Raises:
        BaseModelError: it is not in the cache, or damaged.
    """
    tell(f"Loading {name}", None)
    model, tokenizer = _load(name)
    model.to(choose_device(device))
    for number, path in enumerate(photos):
        tell(f"Describing photo {number + 1} of {len(photos)}", number / len(photos))
        with torch.no_grad():
            said = model.generate(
                pixel_values=_pixels(path, model.config.vision_config.image_size).to(model.device),
                max_new_tokens=MOST_TOKENS,
                num_beams=3,
            )
        # The word that begins a caption is none.
        known = [token for token in said[0].tolist() if token < len(tokenizer)]
        yield str(tokenizer.decode(known, skip_special_tokens=True)).strip()


def _load(name: str) -> tuple[Any, Any]:
    from transformers import BertTokenizer, BlipForConditionalGeneration

    folder = hub.snapshot_of(name, FILES)
    if folder is None:
        raise BaseModelError(f"{name} is not in the hub's cache any more; write the captions by hand.")
    try:
        loaded: Any = BlipForConditionalGeneration.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, output_loading_info=True
        )
        model, told = loaded
        tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise _damaged(name) from error
    if told["missing_keys"] or told["mismatched_keys"]:  # which would be made up
        raise _damaged(name)
    return model.eval(), tokenizer


def _damaged(name: str) -> BaseModelError:
    return BaseModelError(
        f"The captioner {name} in the hub's cache is damaged; delete it there, and write the captions by hand."
    )


def _pixels(path: Path, side: int) -> Tensor:
    """A picture as the captioner was trained to see it (1, 3, side, side)."""
    with Image.open(path) as picture:
        small = picture.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
    values = (numpy.asarray(small, dtype=numpy.float32) / 255 - MEAN) / SPREAD  # (side, side, 3)
    return torch.from_numpy(values.astype(numpy.float32)).permute(2, 0, 1)[None]
