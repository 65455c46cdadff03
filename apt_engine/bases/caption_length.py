"""Whether a caption is longer than a base model can hear, told before anything is loaded. Imports no torch.

Those of CLIP alone: its tokenizer is a table of words and merges that lies in the model's folder, or is the shipped one.
"""

import functools
from pathlib import Path

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import BPE

from apt_engine.bases.checkpoints import TOKENIZER_DIR
from apt_engine.bases.profiles import folder_of, text_configs
from apt_engine.reading.regular import is_folder, is_regular, read_json, read_regular
from apt_engine.settings.presets import Preset

LARGEST_TABLE = 4_000_000  # bytes; CLIP's have 1 MB
ENDS = 2  # the tokens before and after the words
NUMBERS_OF_WORDS = 49_408  # of CLIP's own table
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def is_too_long(caption: str, base: str, presets: dict[str, Preset]) -> bool:
    """Whether the end of a caption would be lost. False where nothing is known of the base model's tokenizer."""
    folder = folder_of(base)
    if not (is_folder(folder) or is_regular(folder)) and not any(base in preset.bases for preset in presets.values()):
        return False
    configs, own = text_configs(base, presets), folder / "tokenizer"
    try:
        longest = min(int(config["max_position_embeddings"]) for config in configs)
        is_usual = all(config["vocab_size"] == NUMBERS_OF_WORDS for config in configs)
        table = own if (own / "merges.txt").exists() or not is_usual else TOKENIZER_DIR
        return len(_tokenizer(table).encode(caption, add_special_tokens=False).ids) + ENDS > longest
    except Exception:  # noqa: BLE001  # of a damaged table; tokenizers raises no narrower class. Loading the model will say it
        return False


@functools.lru_cache(maxsize=4)
def _tokenizer(folder: Path) -> Tokenizer:
    """As transformers builds CLIP's, which the process of the page cannot import."""
    lines = read_regular(folder / "merges.txt", LARGEST_TABLE).decode().splitlines()
    pairs = (line.partition(" ") for line in lines if line and not line.startswith("#version"))
    merges = [(left, right) for left, _, right in pairs]
    tokenizer = Tokenizer(
        BPE(
            vocab=read_json(folder / "vocab.json", LARGEST_TABLE),
            merges=merges,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token="<|endoftext|>",
        )
    )
    tokenizer.add_special_tokens(["<|startoftext|>", "<|endoftext|>"])
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    split = pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return tokenizer
