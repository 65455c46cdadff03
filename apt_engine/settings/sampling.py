"""A request for pictures, each setting once: default, range, unit and help."""

from dataclasses import dataclass

from apt_engine.errors import ConfigError
from apt_engine.settings.fields import REQUIRED, Checked, setting
from apt_engine.settings.training import SUBJECT_SLOT

LONGEST_PROMPT = 1000
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
        1.0, "How strongly the LoRA acts; 0 is the base model.", group="model", minimum=0, maximum=2
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
