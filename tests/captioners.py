"""A tiny random BLIP of the real class in a hub's cache, for tests."""

from pathlib import Path

import torch
from transformers import BlipConfig, BlipForConditionalGeneration

NAME = "Salesforce/blip-image-captioning-base"
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "bear", "on", "the", "grass", "red", "chair")


def save_blip(cache: Path, name: str = NAME) -> Path:
    """Write it where the hub's own library would; returns the folder. What it says means nothing."""
    folder = cache / f"models--{name.replace('/', '--')}" / "snapshots" / "abc"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    part = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**part, "encoder_hidden_size": 16, "vocab_size": len(WORDS), "max_position_embeddings": 64}
    special = {"bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    config = BlipConfig(
        text_config={**text, **special}, vision_config={**part, "image_size": 32, "patch_size": 8}, projection_dim=8
    )
    BlipForConditionalGeneration(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return folder
