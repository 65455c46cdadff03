"""Captions that are too long are told before a model is loaded, by the count that its own tokenizer makes."""

from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from apt_engine.bases.caption_length import is_too_long
from apt_engine.bases.checkpoints import TOKENIZER_DIR
from apt_engine.settings.presets import POCKET_DIR, load_presets

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
UNKNOWN = "somebody/model"
HARD = (
    "It's a na\u00efve  at 7:30, isn't it?!\n\U0001f600 \u65e5\u672c\u8a9e <|endoftext|> antidisestablishmentarianism "
    "\u00dcn\u00ef re-framed x2000 ... (((masterpiece))), 8k"
)


@pytest.mark.parametrize(
    ("base", "longest", "folder"), [("pocket", 32, POCKET_DIR / "tokenizer"), (SDXL, 77, TOKENIZER_DIR)]
)
def test_a_caption_may_be_as_long_as_the_models_own_tokenizer_says(base: str, longest: int, folder: Path) -> None:
    presets, tokenizer = load_presets(), CLIPTokenizer.from_pretrained(folder)
    # CLIP's own table has whole words for what the pocket model hears letter by letter.
    for text in ("a photo of a teddy bear", "photograph " * 10, HARD):
        tokens = tokenizer(text).input_ids
        words = (longest - len(tokens)) * " car"
        if len(tokens) <= longest:
            assert len(tokenizer(text + words).input_ids) == longest
            assert not is_too_long(text + words, base, presets)
            assert is_too_long(text + words + " car", base, presets)
        else:
            assert is_too_long(text, base, presets)


def test_nothing_is_said_where_nothing_is_known(tmp_path: Path) -> None:
    presets, endless = load_presets(), "car " * 3000
    assert is_too_long(endless, SDXL, presets)
    assert not is_too_long(endless, UNKNOWN, presets)
    for name, content in (("merges.txt", "#version: 0.2\nnot there\n"), ("vocab.json", "{}")):
        (tmp_path / "tokenizer").mkdir(exist_ok=True)
        (tmp_path / "tokenizer" / name).write_text(content, encoding="utf-8")
    assert not is_too_long(endless, str(tmp_path), presets)
