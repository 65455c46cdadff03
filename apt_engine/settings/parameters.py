"""Settings of a picture as A1111, Forge and many others write and read them: text under "parameters" in a PNG."""

import re
from collections.abc import Sequence
from typing import Any

from apt_engine.settings.sampling import LORA_FILE, SAMPLERS, SampleRequest

LORA = re.compile(r"\s*<lora:([^:<>]+)(?::(-?[\d.]+))?[^<>]*>")
PAIR = re.compile(r'\s*([A-Z][\w /-]*):\s*("(?:[^"\\]|\\.)*"|[^,]*)(?:,|$)')
NEGATIVE = "Negative prompt:"
LONGEST = 20_000  # letters; a prompt has a thousand. Looking for pairs in a long text takes the square of its length
LONGEST_LINE = 4_000  # of settings


def write_parameters(
    request: SampleRequest, *, prompt: str, size: tuple[int, int], model: str, loras: Sequence[tuple[str, float]]
) -> str:
    """The text for a picture.

    Args:
        request: its settings.
        prompt: what was really asked for.
        size: its width and height in px.
        model: name of the base model.
        loras: name and strength of each LoRA.
    """
    worn = "".join(f" <lora:{name}:{strength:g}>" for name, strength in loras if strength)
    lines = [f"{prompt}{worn}"]
    if request.negative_prompt:
        lines.append(f"{NEGATIVE} {request.negative_prompt}")
    lines.append(
        f"Steps: {request.steps}, Sampler: {request.sampler}, CFG scale: {request.guidance_scale}, Seed: {request.seed}, "
        f"Size: {size[0]}x{size[1]}, Model: {model}"
    )
    return "\n".join(lines)


def read_parameters(text: str) -> SampleRequest:
    """A request with the settings that such a text tells; what it does not tell stays at its default.

    A LoRA is told by name alone, as a file of that name. A sampler that is not known here becomes the usual one.

    Raises:
        ConfigError: a setting is not allowed here.
        ValueError: it is no such text.
    """
    if len(text) > LONGEST:
        raise ValueError("It is far too long.")
    lines = text.strip().splitlines()
    last = max((number for number, line in enumerate(lines) if line.startswith("Steps: ")), default=None)
    if last is None:
        raise ValueError("It names no steps.")
    told = dict(PAIR.findall(lines[last][:LONGEST_LINE]))
    words = "\n".join(lines[:last])
    prompt, _, negative = words.partition(NEGATIVE)
    given: dict[str, Any] = {"run": "", "count": 1, "negative_prompt": negative.strip(), "steps": int(told["Steps"])}
    loras = LORA.findall(prompt)
    if loras:
        (name, strength), *others = loras
        given |= {
            "lora": f"{name}{LORA_FILE}",
            "strength": float(strength or 1),
            "loras": [f"{name}{LORA_FILE}:{strength or 1}" for name, strength in others],
        }
    given["prompt"] = LORA.sub("", prompt).strip()
    for name, key, kind in (("seed", "Seed", int), ("guidance_scale", "CFG scale", float), ("base", "Model", str)):
        if key in told:
            given[name] = kind(told[key])
    if size := re.fullmatch(r"(\d+)x(\d+)", told.get("Size", "")):
        given |= {"width": int(size[1]), "height": int(size[2])}
    sampler = " ".join(filter(None, [told.get("Sampler", ""), told.get("Schedule type", "")]))
    known = [one for one in (sampler, told.get("Sampler", "")) if one in SAMPLERS]
    return SampleRequest.from_dict({**given, "sampler": known[0] if known else SAMPLERS[0]})
