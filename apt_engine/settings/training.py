"""Every setting of a training once: default, range, unit and help feed checks, the form, the command line and the documents."""

from dataclasses import dataclass
from typing import Any

from apt_engine.errors import ConfigError
from apt_engine.settings.fields import REQUIRED, Checked, setting

SUBJECT_SLOT = "{subject}"
FROM_CHECKS = ("split", "turn")  # indicators
MOST_CHECKS = 40  # in a run
MOST_SPARE = 8  # of their checkpoints at once: four newest, the best, two that were, and one just saved


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Checked):
    """All that a run depends on besides the photos. Sizes are in pixels of the picture, not of the latents."""

    subject: str = setting(
        REQUIRED, "What the thing is, as you would write it in a prompt: backpack, teddy bear.", group="subject"
    )
    identifier: str = setting(
        "zwx", "A rare word before the class word, so that the prompt means this one thing.", group="subject"
    )
    caption: str = setting(
        "a photo of a {subject}",
        "Caption of every photo; {subject} stands for identifier + class word.",
        group="subject",
    )

    base: str = setting(
        "pocket",
        "The base model: pocket, a folder in diffusers layout, a Stable Diffusion checkpoint in one .safetensors file, or a "
        "model id of the hub.",
        group="model",
    )
    resolution: int = setting(
        512, "Side of the square the photos are brought to.", group="model", minimum=32, maximum=2048, unit="px"
    )
    crop: str = setting(
        "square",
        "How photos are cut: to a square around the subject, or hardly at all, in one of several proportions of as many pixels "
        "(buckets); of a square that was set for a photo only the middle counts then. A batch is of one proportion.",
        group="model",
        choices=("square", "buckets"),
    )
    device: str = setting("auto", "Where to compute.", group="model", choices=("auto", "cpu", "cuda", "mps"))
    dtype: str = setting(
        "auto",
        "Number format of the base model; the LoRA itself is always fp32.",
        group="model",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    base_precision: str = setting(
        "full",
        "How the weights of the base model's attention blocks are kept while it is trained: whole, or in 8 or 4 bits, which "
        "takes less memory and learns a little otherwise. Needs bitsandbytes; the LoRA fits the whole model.",
        group="model",
        choices=("full", "8bit", "4bit"),
    )
    attention: str = setting(
        "fused",
        "How attention is computed; plain is faster for very small models on a CPU.",
        group="model",
        choices=("fused", "plain"),
    )
    gradient_checkpointing: bool = setting(False, "Trade about a third more time for much less memory.", group="model")
    compile: bool = setting(
        False,
        "Have torch compile the base model's blocks for the steps: that takes minutes before the first and makes each faster. "
        "On NVIDIA graphics cards alone; what APT watches stays uncompiled.",
        group="model",
    )

    rank: int = setting(16, "Rank of the LoRA: how much it can hold.", group="lora", minimum=1, maximum=256)
    alpha: float = setting(
        0.0, "Scale of the LoRA times rank; 0 means the same as the rank.", group="lora", minimum=0, maximum=512
    )
    feed_forward: bool = setting(
        False, "Also train the feed-forward layers beside the attention projections.", group="lora"
    )
    convolutions: bool = setting(
        False,
        "Also train the convolutions of the residual blocks, which draw shapes and patterns; the file gets larger.",
        group="lora",
    )

    start_from: str = setting(
        "",
        "A LoRA file for this base model to begin with, ours or another program's; empty begins anew.",
        group="lora",
    )

    steps: int = setting(
        0,
        "Steps to train at most; 0 means 100 a photo, within 300 and 1,200.",
        group="training",
        minimum=0,
        maximum=100_000,
        unit="steps",
    )
    stop: str = setting(
        "auto",
        "Whether training ends by itself once it only memorizes (auto), or goes on to its last step (never).",
        group="training",
        choices=("auto", "never"),
    )
    batch_size: int = setting(1, "Photos computed at once.", group="training", minimum=1, maximum=64, unit="photos")
    accumulate: int = setting(
        1,
        "Batches that make one step, computed one after the other: a large batch in the memory of a small one.",
        group="training",
        minimum=1,
        maximum=64,
        unit="batches",
    )
    learning_rate: float = setting(1e-4, "Size of AdamW's steps.", group="training", minimum=1e-8, maximum=0.1)
    warmup_steps: int = setting(
        20,
        "Steps over which the learning rate rises from zero; constant after that.",
        group="training",
        minimum=0,
        maximum=10_000,
        unit="steps",
    )
    weight_decay: float = setting(0.01, "AdamW's pull towards zero.", group="training", minimum=0, maximum=1)
    max_grad_norm: float = setting(
        1.0, "Longer gradients are shortened to this.", group="training", minimum=1e-3, maximum=1e3
    )
    ema_decay: float = setting(
        0.0,
        "Pictures, checks and files take a running mean of the LoRA that keeps this share of itself in each step, such as 0.99; "
        "0 takes the LoRA itself.",
        group="training",
        minimum=0,
        maximum=0.9999,
    )
    min_snr_gamma: float = setting(
        0.0,
        "Weigh noise levels by min(SNR, this)/SNR (arXiv 2303.09556, usually 5); 0 is off.",
        group="training",
        minimum=0,
        maximum=100,
    )
    seed: int = setting(0, "Same seed, same machine, same result.", group="training", minimum=0, maximum=2**31 - 1)

    augmentation: float = setting(
        0.8,
        "Photos that are fitted too closely are re-framed, at most this often; 0 is never.",
        group="augmentation",
        minimum=0,
        maximum=1,
    )
    max_zoom: float = setting(
        3.0, "A re-framed photo is shrunk to at least one in this many.", group="augmentation", minimum=1, maximum=8
    )
    max_rotation_degrees: float = setting(
        15.0,
        "A re-framed photo is turned by at most this.",
        group="augmentation",
        minimum=0,
        maximum=180,
        unit="degrees",
    )
    border: str = setting(
        "masked",
        "The black border of a re-framed photo: masked (ours) is not learnt; paper is trained on, as its figure draws it.",
        group="augmentation",
        choices=("masked", "paper"),
    )
    warped_views: int = setting(
        32,
        "Re-framed views of each photo, encoded before the start; 0 draws and encodes a new one each time.",
        group="augmentation",
        minimum=0,
        maximum=1000,
        unit="views",
    )

    weighting: bool = setting(
        True, "Noise levels at which the photos are fitted too closely count less.", group="regularization"
    )
    stabilization: float = setting(
        1.0,
        "How strongly features are kept as they were (RS); 1 is our calibration, 0 is off.",
        group="regularization",
        minimum=0,
        maximum=100,
    )
    alignment: float = setting(
        1.0,
        "How strongly attention to the words is kept as it was (AA); 1 is our calibration, 0 is off.",
        group="regularization",
        minimum=0,
        maximum=100,
    )
    stabilization_lambda: float = setting(
        0.0,
        "Weight of RS at strength 1; 0 means: find it at the calibration step.",
        group="regularization",
        minimum=0,
        maximum=1e9,
    )
    alignment_lambda: float = setting(
        0.0,
        "Weight of AA at strength 1; 0 means: find it at the calibration step.",
        group="regularization",
        minimum=0,
        maximum=1e9,
    )
    calibration_step: int = setting(
        100,
        "Where unset weights of RS and AA are found, within the first fifth of a short run: a fifth of the photos' force each.",
        group="regularization",
        minimum=1,
        maximum=100_000,
        unit="steps",
    )
    indicator: str = setting(
        "absolute",
        "What counts as overfitting at a noise level: how much better than the untrained model the photos are fitted, by the "
        "difference of the losses (absolute, as readers report the paper) or their ratio (relative); or, from the checks, the "
        "share of that which new views do not gain (split), or that they have gained no more for two checks (turn).",
        group="regularization",
        choices=("absolute", "relative", *FROM_CHECKS),
    )
    sensitivity: float = setting(
        1000.0,
        "How soon a better fit than the untrained model's counts as overfitting; belongs to the base model.",
        group="regularization",
        minimum=1e-3,
        maximum=1e9,
    )
    reference_caption: str = setting(
        "same",
        "What the untrained model is told: the same caption, or the class word alone.",
        group="regularization",
        choices=("same", "class"),
    )
    measure: bool = setting(
        False,
        "Compute the overfitting indicator even where nothing uses it; a third more time.",
        group="regularization",
    )

    prior_preservation: bool = setting(
        False,
        "Also train on pictures of the class that the base model makes itself (DreamBooth's baseline).",
        group="prior",
    )
    prior_images: int = setting(
        50, "Pictures of the class to make.", group="prior", minimum=1, maximum=1000, unit="pictures"
    )
    prior_weight: float = setting(1.0, "Weight of their loss.", group="prior", minimum=0, maximum=10)

    save_every_steps: int = setting(
        50,
        "A checkpoint is kept this often. Those of checks in between go once they can no longer be the best; to keep them all, "
        "save as often as is checked.",
        group="output",
        minimum=1,
        maximum=100_000,
        unit="steps",
    )
    sample_every_steps: int = setting(
        50,
        "The sample grid is redrawn this often; 0 means never.",
        group="output",
        minimum=0,
        maximum=100_000,
        unit="steps",
    )
    sample_prompts: tuple[str, ...] = setting(
        (
            "a photo of a {subject}",
            "a photo of a {subject} on the beach",
            "a pencil sketch of a {subject}",
            "a photo of a cat in the snow",
        ),
        "Prompts of the sample grid; keep one without the subject, it shows what the model forgets.",
        group="output",
    )
    check_every_steps: int = setting(
        25,
        "What is learnt and what is memorized is measured this often, at most 40 times a run; 0 means never.",
        group="output",
        minimum=0,
        maximum=100_000,
        unit="steps",
    )
    new_views: str = setting(
        "both",
        "The views of the photos, never trained on, that tell the one from the other: mirrored, enlarged, or both. Take enlarged "
        "for text and faces, whose mirror image is another thing; none leaves it to you when to stop.",
        group="output",
        choices=("both", "mirrored", "enlarged", "none"),
    )
    thorough_checks: bool = setting(
        False,
        "Measure all photos and views at all noise levels each time: steadier curves, and more work than the training itself.",
        group="output",
    )
    drift_every_steps: int = setting(
        50,
        "How far the model has moved away from what it knew is measured this often; 0 means never.",
        group="output",
        minimum=0,
        maximum=100_000,
        unit="steps",
    )
    drift_prompts: tuple[str, ...] = setting(
        (
            "a photo of a cat in the snow",
            "a photo of a car in the city",
            "a watercolor painting of a strawberry in the grass",
            "a photo of a teapot on a wooden table",
        ),
        "Prompts without the subject, on which that is measured.",
        group="output",
    )
    report_to: str = setting(
        "none",
        "Where the run's numbers go besides its own folder: tensorboard (event files in that folder) or trackio (its project "
        "apt-studio on this computer); each is an extra, requirements-metrics.txt.",
        group="output",
        choices=("none", "tensorboard", "trackio"),
    )
    sample_steps: int = setting(
        20, "Denoising steps of each sample.", group="output", minimum=1, maximum=200, unit="steps"
    )
    sample_guidance_scale: float = setting(
        5.0, "How strictly the samples follow their prompts.", group="output", minimum=1, maximum=30
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.subject.strip():
            raise ConfigError('The subject is empty; say what the thing is, for example "backpack".')
        if self.border == "paper" and self.augmentation == 0:
            raise ConfigError("border is paper but augmentation is 0, so no photo has a border; set border to masked.")
        if self.reference_caption == "class" and not self.needs_reference:
            raise ConfigError("reference_caption is class but all of APT is off; turn a part on, or leave it at same.")
        if self.indicator in FROM_CHECKS and (not self.check_every_steps or self.new_views == "none"):
            raise ConfigError(
                f"indicator is {self.indicator} but nothing is checked; set check_every_steps and new_views, or indicator."
            )
        if SUBJECT_SLOT not in self.caption:
            raise ConfigError(
                f"The caption {self.caption!r} does not mention the subject; write {SUBJECT_SLOT} where it belongs."
            )

    @property
    def needs_reference(self) -> bool:
        """Whether each step also asks the untrained model."""
        from_losses = (self.augmentation, self.weighting, self.measure) if self.indicator not in FROM_CHECKS else ()
        return any(bool(part) for part in (self.stabilization, self.alignment, *from_losses))

    @property
    def has_indicator(self) -> bool:
        """Whether there is a gamma to tell of."""
        return self.needs_reference or self.indicator in FROM_CHECKS

    @property
    def phrase(self) -> str:
        """Identifier and class word, the words that mean this one thing in a prompt."""
        return f"{self.identifier} {self.subject}".strip()

    @property
    def lora_alpha(self) -> float:
        """Alpha as trained: the rank when it was left at 0."""
        return self.alpha or float(self.rank)

    def steps_for(self, photo_count: int) -> int:
        """Steps to train with so many photos: as set, or about 100 a photo within 300 to 1,200."""
        return self.steps or max(300, min(1200, 100 * photo_count))

    def check_steps(self, last_step: int) -> int:
        """Steps from one check to the next in a run that ends there at the latest; 0 for none."""
        return max(self.check_every_steps, -(-last_step // MOST_CHECKS)) if self.check_every_steps else 0

    def checkpoints_in(self, last_step: int) -> int:
        """How many checkpoints a run of so many steps has at once, at most."""
        checks, samples = self.check_steps(last_step), self.sample_every_steps
        saved = set(range(self.save_every_steps, last_step + 1, self.save_every_steps))
        checked = set(range(checks, last_step + 1, checks)) if checks else set[int]()
        shown = {step for step in checked if samples and step % samples == 0}
        return 1 + len(saved | shown) + min(len(checked - saved - shown), MOST_SPARE)

    def fill(self, prompt: str) -> str:
        """A prompt with `{subject}` replaced by the phrase."""
        return prompt.replace(SUBJECT_SLOT, self.phrase)


def renewed(values: dict[str, Any]) -> dict[str, Any]:
    """Settings as this version writes them, of a run begun by one that could not stop by itself: that goes on as it began."""
    return values if "check_every_steps" in values else {"stop": "never", "check_every_steps": 0, **values}
