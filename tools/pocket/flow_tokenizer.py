"""The tokenizer of the pocket flow model: byte-level BPE of Qwen's class, with a chat template of two tokens."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, pre_tokenizers, trainers
from tokenizers.models import BPE
from torch import Tensor
from transformers import Qwen2Tokenizer
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX

from tools.pocket.settings import Workplace
from tools.pocket.tokenizer import VOCABULARY_SIZE, training_texts

TEXT_LENGTH = 24  # tokens; the longest caption of the world has 19
PADDING, START, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# Lower case and a space before the first word, so that a word is the same token wherever it stands.
CHAT_TEMPLATE = (
    f"{{%- for message in messages -%}}{START} {{{{ message['content'] | lower | trim }}}}{END}{{%- endfor -%}}"
)


def train_flow_tokenizer(workplace: Workplace) -> Qwen2Tokenizer:
    """Trains the merges, saves the tokenizer, and returns it as it loads from the folder; one that exists is kept."""
    folder = workplace.flow_tokenizer
    if not (folder / "tokenizer_config.json").exists():
        vocabulary, merges = _train_merges(workplace)
        tokenizer = Qwen2Tokenizer(
            vocab=vocabulary,
            merges=merges,
            eos_token=END,
            pad_token=PADDING,
            additional_special_tokens=[START],
            model_max_length=TEXT_LENGTH,
            padding_side="right",
            chat_template=CHAT_TEMPLATE,
        )
        tokenizer.save_pretrained(folder)
    return load_flow_tokenizer(folder)


def load_flow_tokenizer(folder: Path) -> Qwen2Tokenizer:
    """Loads a tokenizer saved by train_flow_tokenizer."""
    return Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)


def tokenize(tokenizer: Qwen2Tokenizer, captions: list[str]) -> tuple[Tensor, Tensor]:
    """Token ids and mask (B, TEXT_LENGTH) of captions in the pipeline's chat template."""
    texts = [
        str(
            tokenizer.apply_chat_template(
                [{"role": "user", "content": caption}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
        )
        for caption in captions
    ]
    tokens = tokenizer(texts, padding="max_length", max_length=TEXT_LENGTH, truncation=True, return_tensors="pt")
    return tokens.input_ids, tokens.attention_mask


def _train_merges(workplace: Workplace) -> tuple[dict[str, int], list[Any]]:
    tokenizer = Tokenizer(BPE())
    split = pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated")
    in_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, in_bytes])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len((PADDING, START, END)), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator((f" {text.lower()}" for text in training_texts(workplace)), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]
