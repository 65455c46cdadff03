"""Settings in a picture as other programs write and read them."""

import time

import pytest

from apt_engine.errors import ConfigError
from apt_engine.settings.parameters import read_parameters, write_parameters
from apt_engine.settings.sampling import SampleRequest

A1111 = (
    "a photo of a bear, <lora:my bear:0.7> best quality\n"
    "in the snow\n"
    "Negative prompt: blurry, text\nSteps: 3 legs\n"
    "Steps: 28, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 6.5, Seed: 123, Size: 512x768, Model hash: abc, "
    'Lora hashes: "my bear: 12ab, other: 34", Version: v1.10'
)


def test_a_picture_of_another_program_tells_its_settings() -> None:
    request = read_parameters(A1111)
    assert request.prompt == "a photo of a bear, best quality\nin the snow"
    assert request.negative_prompt == "blurry, text\nSteps: 3 legs"
    assert (request.lora, request.strength, request.run) == ("my bear.safetensors", 0.7, "")
    assert (request.steps, request.sampler, request.guidance_scale) == (28, "DPM++ 2M Karras", 6.5)
    assert (request.seed, request.width, request.height, request.count) == (123, 512, 768, 1)


def test_what_is_written_is_read_again() -> None:
    request = SampleRequest(
        prompt="x", run="", negative_prompt="text", strength=0.5, seed=9, steps=7, sampler="Euler a", guidance_scale=3
    )
    text = write_parameters(request, prompt="a zwx bear", size=(64, 96), model="pocket", loras=[("bear-000200", 0.5)])
    assert text.splitlines()[0] == "a zwx bear <lora:bear-000200:0.5>"
    assert text.endswith("Size: 64x96, Model: pocket")
    again = read_parameters(text)
    assert again == request.replace(prompt="a zwx bear", width=64, height=96, count=1, lora="bear-000200.safetensors")
    assert "<lora" not in write_parameters(request, prompt="a bear", size=(64, 64), model="pocket", loras=[])


def test_several_loras_are_written_and_read_with_their_strengths() -> None:
    request = SampleRequest(
        prompt="x", run="", lora="bear.safetensors", strength=0.5, loras=("/a/b/wool.safetensors:0.25",)
    )
    loras = [("bear", 0.5), ("wool", 0.25), ("off", 0.0)]
    text = write_parameters(request, prompt="a bear", size=(64, 64), model="pocket", loras=loras)
    assert text.splitlines()[0] == "a bear <lora:bear:0.5> <lora:wool:0.25>"
    again = read_parameters(text)
    assert (again.prompt, again.lora, again.strength) == ("a bear", "bear.safetensors", 0.5)
    assert again.loras == ("wool.safetensors:0.25",)
    with pytest.raises(ConfigError, match="strength cannot be -1"):
        read_parameters("a bear <lora:bear:-1>\nSteps: 20")


def test_samplers_of_other_programs_become_the_usual_one() -> None:
    assert read_parameters("a bear\nSteps: 20, Sampler: LCM Turbo").sampler == "DPM++ 2M"


@pytest.mark.parametrize("text", ["", "a bear", "a bear\nSteps: many", "a bear\nSteps: 20, Seed: x"])
def test_other_text_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"names no steps|invalid literal"):
        read_parameters(text)


@pytest.mark.parametrize(
    "text",
    [f"a bear\nSteps: 20, {'A' * 1_000_000}", f"{' ' * 1_000_000}<lora\nSteps: 20", "a\n" * 500_000 + "Steps: 1"],
)
def test_a_text_of_a_million_letters_is_not_looked_through(text: str) -> None:
    """Which would take hours; a picture may hold it."""
    with pytest.raises(ValueError, match="far too long"):
        read_parameters(text)
    begun = time.process_time()
    for part in (text[:19_000], f"a\nSteps: 900, {'A' * 19_000}"):
        with pytest.raises(ConfigError):
            read_parameters(f"{part}\nSteps: 900" if part in text else part)
    assert time.process_time() - begun < 5


@pytest.mark.parametrize("text", ["a bear\nSteps: 900", "a bear\nSteps: 20, Size: 9000x9000", "Steps: 20"])
def test_settings_that_are_not_allowed_are_named(text: str) -> None:
    with pytest.raises(ConfigError):
        read_parameters(text)
