"""A request for pictures, each setting once: default, range, unit and help."""

import math
from dataclasses import dataclass
from pathlib import PureWindowsPath

from apt_engine.errors import ConfigError
from apt_engine.settings.fields import REQUIRED, Checked, setting
from apt_engine.settings.presets import is_hub_id
from apt_engine.settings.training import SUBJECT_SLOT

LONGEST_PROMPT = 1000
MOST_LORAS = 8  # at once
STRENGTHS = (0.0, 2.0)
LORA_FILE = ".safetensors"
SAMPLERS = ("DPM++ 2M", "DPM++ 2M Karras", "Euler", "Euler a", "UniPC", "DDIM")


@dataclass(frozen=True, kw_only=True)
class SampleRequest(Checked):
    """One request for pictures. The model is a run's checkpoint; when `run` is empty, a base with a LoRA file or without."""

    prompt: str = setting(REQUIRED, "What to show; {subject} stands for the thing that was trained.", group="prompt")
    negative_prompt: str = setting("", "What not to show.", group="prompt")
    run: str = setting("latest", "Id of a run, latest, or empty for the bare base model.", group="model")
    checkpoint: str = setting("kept", "Which checkpoint: kept (the best one), last, or a step.", group="model")
    base: str = setting("pocket", "Base model, when no run is given.", group="model")
    lora: str = setting("", "A LoRA file for this base model, in place of a run.", group="model")
    strength: float = setting(
        1.0,
        "How strongly the LoRA acts; 0 is the base model.",
        group="model",
        minimum=STRENGTHS[0],
        maximum=STRENGTHS[1],
    )
    loras: tuple[str, ...] = setting(
        (), "More LoRAs at once: files, or runs as ID@STEP, each with a colon and its strength.", group="model"
    )
    count: int = setting(4, "How many pictures.", group="picture", minimum=1, maximum=64, unit="pictures")
    seed: int = setting(
        0, "The first picture's seed; the next ones count up.", group="picture", minimum=0, maximum=2**31 - 1
    )
    steps: int = setting(20, "Denoising steps.", group="picture", minimum=1, maximum=200, unit="steps")
    guidance_scale: float = setting(5.0, "How strictly to follow the prompt.", group="picture", minimum=1, maximum=30)
    sampler: str = setting(
        SAMPLERS[0],
        "How the noise is removed; with the first one few steps are enough.",
        group="picture",
        choices=SAMPLERS,
    )
    width: int = setting(
        0, "Width; 0 is the size the run was trained at.", group="picture", minimum=0, maximum=2048, unit="px"
    )
    height: int = setting(
        0, "Height; 0 is the size the run was trained at.", group="picture", minimum=0, maximum=2048, unit="px"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.prompt.strip():
            raise ConfigError(
                'The prompt is empty; say what to show, for example "a photo of a {subject} on the beach".'
            )
        if len(self.prompt) > LONGEST_PROMPT:
            raise ConfigError(
                f"The prompt has {len(self.prompt):,} characters; shorten it: a model reads about 75 words, and the rest is lost."
            )
        if SUBJECT_SLOT in self.prompt and not self.run:
            raise ConfigError(f"{SUBJECT_SLOT} needs a trained run; choose one, or write the thing's name instead.")
        if self.run and self.lora:
            raise ConfigError("Both a run and a LoRA file are given; leave one out.")
        beside = [_full_name(read_lora(words)[0]) for words in self.loras]
        if len(beside) >= MOST_LORAS:
            raise ConfigError(f"{len(beside) + 1} LoRAs are too many at once; take at most {MOST_LORAS}.")
        every = [f"{self.run}@{self.checkpoint}" if self.run else _full_name(self.lora), *beside]
        twice = next((name for name in beside if every.count(name) > 1), "")
        if twice:
            raise ConfigError(f"The LoRA {twice} is given twice; give it once, at the strength you want.")

    def without_folders(self) -> "SampleRequest":
        """The same for others to read: LoRA files and a base on this computer by their names alone."""
        is_known = self.base == "pocket" or is_hub_id(self.base)
        return self.replace(
            base=self.base if is_known else name_of(self.base),
            lora=name_of(self.lora),
            loras=[f"{name_of(source)}:{strength:g}" for source, strength in map(read_lora, self.loras)],
        )


def read_lora(words: str) -> tuple[str, float]:
    """A LoRA file or a run, and its strength, of words such as style.safetensors:0.8; without a number it is 1.

    Raises:
        ConfigError: the strength is none, or out of range.
    """
    source, colon, number = words.strip().rpartition(":")
    try:
        strength = float(number) if colon else 1.0
    except ValueError as error:
        if source.lower().endswith(LORA_FILE):
            raise ConfigError(
                f'The strength "{number[:40]}" of {name_of(source)} is not a number; write one like 0.8.'
            ) from error
        return words.strip(), 1.0  # the colon of a drive
    source = source if colon else words.strip()
    least, most = STRENGTHS
    if not (math.isfinite(strength) and least <= strength <= most):
        raise ConfigError(
            f"The strength of {name_of(source)} cannot be {strength:g}; it must lie between {least:g} and {most:g}."
        )
    return source, strength


def _full_name(source: str) -> str:
    """A LoRA as it is told from others, by other programs too: a file by its name, a run with its checkpoint."""
    return name_of(source) if source.lower().endswith(LORA_FILE) or "@" in source else f"{source}@kept"


def name_of(source: str) -> str:
    """What a person calls a LoRA file, a run or a base: the last part of its path."""
    return PureWindowsPath(source).name  # takes either slash
