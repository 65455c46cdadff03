"""Captions of photos by a BLIP model that lies in the hub's cache: which there are, and how its words become a caption.

Imports no torch, and asks no network for anything.
"""

import json
import re
from pathlib import Path

from huggingface_hub import constants

from apt_engine.bases import hub
from apt_engine.settings.training import SUBJECT_SLOT

FILES = ("config.json", "model.safetensors", "vocab.txt")
KIND = "BlipForConditionalGeneration"
MOST = 3  # offered
OPENING = re.compile(r"^(?:arafed|araffe|there (?:is|are))\s+", re.IGNORECASE)  # habits of BLIP's
# What stands between an article and the thing, unless it leads from one thing to another.
NAMED = (
    r"\b(?:(?:a|an|the|one)\s+(?:(?!(?:and|with|of|in|on|at|by|to|near|holding|next)\b)[\w-]+\s+){{0,2}}?)?{name}s?\b"
)
ARTICLE = re.compile(r"(?:a|an|the|one)\s", re.IGNORECASE)
FROM_A_PICTURE = re.compile(r"\b(?:photo|photograph|picture|image|painting|drawing|sketch|close ?up)\b", re.IGNORECASE)


def captioners() -> list[str]:
    """Hub ids of the BLIP models that lie whole in this computer's cache, by name; an id never leaves it."""
    found = []
    for folder in sorted(Path(constants.HF_HUB_CACHE).glob("models--*--*")):
        name = folder.name.removeprefix("models--").replace("--", "/", 1)
        snapshot = hub.snapshot_of(name, FILES)
        if snapshot and _is_captioner(snapshot / "config.json"):
            found.append(name)
    return found[:MOST]


def caption_from(words: str, subject: str) -> str:
    """A caption with {subject} in it, from what a captioner said of a photo.

    Args:
        words: what it said; may be empty.
        subject: the class word, which is looked for in it: first all of it, then its last word.

    The subject and whatever says more of it at once, as in "a brown bear", become {subject}: what always belongs to the thing is
    not to be told apart from it. Where it is not named, what was said follows the usual caption.
    """
    said = OPENING.sub("", " ".join(words.split())).strip(" .,")
    usual = f"a photo of a {SUBJECT_SLOT}"
    for name in dict.fromkeys(
        filter(None, (subject.strip(), subject.rsplit(maxsplit=1)[-1] if subject.split() else ""))
    ):
        if found := re.search(NAMED.format(name=re.escape(name)), said, re.IGNORECASE):
            article = "a " if not found.start() or ARTICLE.match(found[0]) else ""
            named = f"{said[: found.start()]}{article}{SUBJECT_SLOT}{said[found.end() :]}"
            return named if FROM_A_PICTURE.search(named) else f"a photo of {named}"
    return f"{usual}, {said}" if said else usual


def _is_captioner(config: Path) -> bool:
    try:
        read = json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(read, dict) and KIND in (read.get("architectures") or ())
