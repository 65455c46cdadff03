"""What a folder in diffusers layout is beside its class, told from its configs before a weight is read. Imports no torch.

Many models have the class of Stable Diffusion and are none that a LoRA can be trained on as on one: they are shown more than
noise, were trained with other noise levels, or were distilled to draw in a few steps.
"""

import re
from pathlib import Path
from typing import Any

from apt_engine.errors import BaseModelError
from apt_engine.reading.regular import read_json

# Those that are supported.
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "Flux2KleinPipeline", "ZImagePipeline")
# Input channels of the first convolution that are no plain text-to-image model.
SHOWN = {
    9: "an inpainting model",
    5: "a model that is also shown depth",
    8: "a model that edits pictures",
    7: "an upscaler",
}
# By how the class of a scheduler begins.
NOISES = {
    "EDM": "was trained with the noise levels of EDM, such as Playground 2.5",
    "FlowMatch": "was trained on straight paths (flow matching)",
    "LCM": "is distilled to draw in a few steps (LCM)",
    "TCD": "is distilled to draw in a few steps (TCD)",
    "VQDiffusion": "is not a model of continuous noise",
    "Unclip": "is one stage of unCLIP",
}
PARTS = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "text_encoder": "CLIPTextModel",
    "text_encoder_2": "CLIPTextModelWithProjection",
    "tokenizer": "CLIPTokenizer",
    "tokenizer_2": "CLIPTokenizer",
}
DISTILLED = re.compile(r"turbo|lightning|(?<![a-z])(hyper|flash|lcm|tcd|dmd)(?![a-z])|\dsteps?(?![a-z])", re.IGNORECASE)
PLAIN = "choose a plain text-to-image model"


def refuse_others(name: str, folder: Path, index: dict[str, Any]) -> None:
    """Refuse a folder of Stable Diffusion's classes that cannot be trained as such.

    Raises:
        BaseModelError: says what it is.
    """
    for part, wanted in PARTS.items():
        given = index.get(part)
        if given is not None and not str(given[1:2]).startswith(f"['{wanted}"):
            raise BaseModelError(_about(name, f"has {_class_of(given)} as its {part}, not a {wanted}"))
    denoiser, vae = (_config(folder / part / "config.json") for part in ("unet", "vae"))
    channels, latents = denoiser.get("in_channels", 4), vae.get("latent_channels", 4)
    if channels != latents:
        what = SHOWN.get(channels, f"made for {channels} channels") if latents == 4 else f"made for {channels} channels"
        raise BaseModelError(_about(name, f"is {what}, and its VAE has {latents} channels"))
    if denoiser.get("time_cond_proj_dim"):
        raise BaseModelError(_about(name, "is distilled to draw in a few steps (LCM)"))
    if denoiser.get("class_embed_type") or denoiser.get("num_class_embeds"):
        raise BaseModelError(_about(name, "is also told a class or a noise level of its picture"))
    _refuse_other_noise(name, _config(folder / "scheduler" / "scheduler_config.json"))


def warning_of(name: str, folder: Path | None) -> str:
    """A sentence on a model that seems to be distilled to draw in a few steps, which training undoes; empty on any other.

    Such models have the shapes of what they were made from: they are told by what they are called, or by their scheduler's
    way to choose few of the noise levels.

    Args:
        name: as the user wrote it.
        folder: of the model in diffusers layout; None where it is one file, or not here.
    """
    own = re.split(r"[/\\]", name.rstrip("/\\"))[-1]
    scheduler = _config(folder / "scheduler" / "scheduler_config.json") if folder else {}
    is_trailing = scheduler.get("timestep_spacing") == "trailing" and not scheduler.get("rescale_betas_zero_snr")
    if not DISTILLED.search(own) and not is_trailing:
        return ""
    return (
        f"{own} seems to be distilled to draw in a few steps (Turbo, Lightning, LCM and the like); training undoes that, and "
        "its pictures need more steps afterwards. Better train on the model it was made from."
    )


def variant_of(folder: Path, *parts: str) -> str | None:
    """What stands between name and ending of the weights where some part has no plain ones: `fp16`, as a rule.

    Args:
        folder: of the whole model.
        parts: those that count; all unless given.

    Raises:
        BaseModelError: a part has pickled weights alone, which can run code.
    """
    found: set[str] = set()
    for part in parts or PARTS:
        files = sorted((folder / part).glob("*.safetensors"))
        if not files and any((folder / part).glob("*.bin")):
            raise BaseModelError(
                f"{folder} has the weights of its {part} as .bin alone, which can run code; get the model as .safetensors."
            )
        if files and all(path.stem.count(".") for path in files):  # model.fp16.safetensors
            found.add(files[0].name.split(".")[1].split("-")[0])
    return min(found, default=None)


def _refuse_other_noise(name: str, scheduler: dict[str, Any]) -> None:
    kind = str(scheduler.get("_class_name", ""))
    noise = next((what for start, what in NOISES.items() if kind.startswith(start)), "")
    if noise:
        raise BaseModelError(_about(name, f"{noise} ({kind})"))
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        raise BaseModelError(_about(name, f"predicts {prediction}, neither noise nor velocity"))
    if (
        not isinstance(scheduler.get("num_train_timesteps", 1000), int)
        or scheduler.get("num_train_timesteps", 1000) < 10
    ):
        raise BaseModelError(_about(name, "does not say how many noise levels it was trained with"))


def _about(name: str, what: str) -> str:
    return f"{name} {what}; {PLAIN}."


def _class_of(given: Any) -> str:
    return f"{given[1]}" if isinstance(given, list) and len(given) > 1 and given[1] else "nothing"


def _config(path: Path) -> dict[str, Any]:
    """A part's config; loading says what is wrong with one that cannot be read."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
