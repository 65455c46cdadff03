"""What the pocket model knows: its things, and prompts to try."""

import html
import json
import re
from functools import cache

from apt_engine.settings.presets import POCKET_DIR
from ui.words import say


@cache
def known_words() -> tuple[str, ...]:
    """The things that the pocket model knows by name, in alphabetical order."""
    return tuple(sorted(_read("objects")))


@cache
def known_prompts() -> tuple[str, ...]:
    """Prompts that the pocket model draws well."""
    return _read("sample_prompts") or ("a photo of a teddy bear",)


def is_known(subject: str) -> bool:
    """Whether one of these things is named in a subject, such as robot in toy robot."""
    return any(re.search(rf"\b{re.escape(word)}\b", subject, re.IGNORECASE) for word in known_words())


def describe_word(subject: str, base: str, identifier: str) -> str:
    """What a subject is called in prompts, and a warning where the pocket model has never seen such a thing."""
    if not subject:
        return ""
    phrase = html.escape(f"{identifier} {subject}".strip())
    chip = f'<span class="chip">{phrase}</span>'
    said = f'<p class="quiet">{say("In prompts it will be {phrase}", phrase=chip)}</p>'
    words = known_words()
    if base in ("", "pocket") and words and not is_known(subject):
        warning = say(
            "The pocket model does not know “{subject}” and will learn it badly. It knows {count} things, "
            "from {first} to {last}: name the nearest, or choose a larger base model.",
            subject=subject,
            count=len(words),
            first=words[0],
            last=words[-1],
        )
        said += f'<ul class="warnings"><li>{html.escape(warning)}</li></ul>'
    return said


def _read(key: str) -> tuple[str, ...]:
    try:
        return tuple(json.loads((POCKET_DIR / "prompts.json").read_text(encoding="utf-8"))[key])
    except (OSError, ValueError, KeyError):  # the model was not installed
        return ()
