"""The tokenizer: byte-level BPE in CLIP's layout, trained on captions and plain words, so any prompt tokenizes."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, normalizers, pre_tokenizers, trainers
from tokenizers.models import BPE
from transformers import CLIPTokenizer

from tools.pocket.files import write_text
from tools.pocket.settings import SEED, TEXT_LENGTH, Workplace
from tools.pocket.sprites import other_words
from tools.pocket.vocabulary import compose_caption, draw_label

VOCABULARY_SIZE = 2048
START, END = "<|startoftext|>", "<|endoftext|>"
_CAPTIONS = 20_000


def train_tokenizer(workplace: Workplace) -> CLIPTokenizer:
    """Trains the merges, saves the tokenizer, and returns it as it loads from the folder.

    One that exists is kept: ties between merges fall by chance, and a U-Net needs the tokenizer it was trained with.
    """
    if (workplace.tokenizer / "tokenizer_config.json").exists():
        return load_tokenizer(workplace.tokenizer)
    tokenizer = Tokenizer(BPE(continuing_subword_prefix="", end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - 256 - 2, initial_alphabet=alphabet, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(training_texts(workplace), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    _save(workplace.tokenizer, alphabet, [tuple(merge) for merge in model["merges"]])
    return load_tokenizer(workplace.tokenizer)


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Loads a tokenizer saved by train_tokenizer."""
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def training_texts(workplace: Workplace) -> Iterator[str]:
    """Captions of the world, and plain English words it does not draw."""
    rng = np.random.default_rng(SEED)
    words = other_words(workplace.packs)
    for _ in range(_CAPTIONS):
        yield compose_caption(draw_label(rng), rng, words)
    for _ in range(20):
        yield " ".join(words)


def _save(folder: Path, alphabet: list[str], merges: list[tuple[str, str]]) -> None:
    tokens = [*alphabet, *(f"{letter}</w>" for letter in alphabet)]
    tokens += [merged for pair in merges if (merged := "".join(pair)) not in set(tokens)]
    vocabulary = {token: index for index, token in enumerate([*dict.fromkeys(tokens), START, END])}
    # The two files CLIPTokenizer of transformers 4 and other programs read; transformers 5 adds tokenizer.json.
    names, rules = folder / "vocab.json", folder / "merges.txt"
    write_text(names, json.dumps(vocabulary, ensure_ascii=False))
    write_text(rules, "#version: 0.2\n" + "\n".join(" ".join(pair) for pair in merges) + "\n")
    tokenizer = CLIPTokenizer(
        vocab=str(names),
        merges=str(rules),
        bos_token=START,
        eos_token=END,
        unk_token=END,
        pad_token=END,
        model_max_length=TEXT_LENGTH,
        padding_side="right",
    )
    tokenizer.save_pretrained(folder)
