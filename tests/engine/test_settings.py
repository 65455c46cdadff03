"""Settings: validation, round trip, and the words of their errors."""

import dataclasses
import json

import pytest

from apt_engine.errors import ConfigError
from apt_engine.settings.fields import setting_of
from apt_engine.settings.sampling import SampleRequest, read_lora
from apt_engine.settings.training import TrainingConfig


def test_round_trips_through_json() -> None:
    config = TrainingConfig(subject="teddy bear", rank=8, sample_prompts=("a {subject}", "a cat"), learning_rate=3e-4)
    assert TrainingConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_accepts_the_strings_of_a_command_line() -> None:
    values = {
        "subject": " car ",
        "rank": "8",
        "learning_rate": "1e-3",
        "prior_preservation": "yes",
        "sample_prompts": "a\nb",
    }
    config = TrainingConfig.from_dict(values)
    assert (config.subject, config.rank, config.learning_rate) == ("car", 8, 1e-3)
    assert config.prior_preservation is True
    assert config.sample_prompts == ("a", "b")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "'subject' has no value"),
        ({"subject": "   "}, "subject is empty"),
        ({"subject": "car", "rnak": 8}, "no setting called 'rnak'"),
        ({"subject": "car", "rank": 0}, "rank cannot be 0; it must lie between 1 and 256"),
        ({"subject": "car", "rank": "many"}, "rank must be a whole number, not 'many'"),
        ({"subject": "car", "rank": 1.5}, "rank must be a whole number, not 1.5"),
        ({"subject": "car", "rank": True}, "rank must be a whole number, not True"),
        ({"subject": "car", "learning_rate": "nan"}, "learning_rate"),
        ({"subject": "car", "learning_rate": float("inf")}, "learning_rate"),
        ({"subject": "car", "dtype": "fp8"}, "dtype cannot be 'fp8'; choose one of auto, fp32"),
        ({"subject": "car", "prior_preservation": "maybe"}, "prior_preservation must be true or false"),
        ({"subject": "car", "caption": "a photo"}, "does not mention the subject"),
    ],
)
def test_refuses_nonsense_in_one_sentence(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=".") as caught:
        TrainingConfig.from_dict(values)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_constructor_checks_as_from_dict_does() -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        TrainingConfig(subject="car", batch_size=0)


def test_every_setting_is_documented_and_its_default_is_allowed() -> None:
    for kind in (TrainingConfig, SampleRequest):
        for field in dataclasses.fields(kind):
            about = setting_of(field)
            assert about.help
            assert about.group
    assert TrainingConfig(subject="car").rank == 16


@pytest.mark.parametrize(("photos", "steps"), [(2, 300), (5, 500), (12, 1200), (30, 1200)])
def test_steps_follow_from_the_photos(photos: int, steps: int) -> None:
    assert TrainingConfig(subject="car").steps_for(photos) == steps
    assert TrainingConfig(subject="car", steps=7).steps_for(photos) == 7


def test_alpha_is_the_rank_unless_set() -> None:
    assert TrainingConfig(subject="car", rank=8).lora_alpha == 8
    assert TrainingConfig(subject="car", rank=8, alpha=2).lora_alpha == 2


def test_the_subject_becomes_identifier_and_class_word() -> None:
    config = TrainingConfig(subject="backpack", identifier="sks")
    assert config.fill("a photo of a {subject} on the beach") == "a photo of a sks backpack on the beach"
    assert TrainingConfig(subject="backpack", identifier="").phrase == "backpack"


@pytest.mark.parametrize("prompt", ["", "  \n"])
def test_an_empty_prompt_is_refused(prompt: str) -> None:
    with pytest.raises(ConfigError, match="prompt is empty"):
        SampleRequest(prompt=prompt)


def test_a_bare_base_has_no_subject() -> None:
    with pytest.raises(ConfigError, match="needs a trained run"):
        SampleRequest(prompt="a {subject}", run="")
    assert SampleRequest(prompt="a cat", run="").run == ""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sensitivity": 0}, "sensitivity cannot be 0"),
        ({"augmentation": 1.5}, "augmentation cannot be 1.5"),
        ({"augmentation": 0, "border": "paper"}, "border is paper but augmentation is 0"),
        (
            {"augmentation": 0, "weighting": False, "stabilization": 0, "alignment": 0, "reference_caption": "class"},
            "reference_caption is class but all of APT is off",
        ),
    ],
)
def test_switches_that_contradict_each_other_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        TrainingConfig.from_dict({"subject": "car", **settings})


@pytest.mark.parametrize(
    ("words", "read"),
    [
        ("style.safetensors", ("style.safetensors", 1.0)),
        (r"C:\loras\style.safetensors", (r"C:\loras\style.safetensors", 1.0)),
        (r"C:\loras\style.safetensors:0.5", (r"C:\loras\style.safetensors", 0.5)),
        ("20260101-120000-car@300:2", ("20260101-120000-car@300", 2.0)),
    ],
)
def test_a_lora_is_read_with_its_strength(words: str, read: tuple[str, float]) -> None:
    assert read_lora(words) == read


@pytest.mark.parametrize(
    ("loras", "sentence"),
    [
        (
            ["a/style.safetensors:nan"],
            r"The strength of style\.safetensors cannot be nan; it must lie between 0 and 2\.",
        ),
        (["style.safetensors:100"], "cannot be 100; it must lie between 0 and 2"),
        (["style.safetensors:-1"], "cannot be -1; it must lie between 0 and 2"),
        (
            ["style.safetensors:much"],
            r'The strength "much" of style\.safetensors is not a number; write one like 0\.8\.',
        ),
        (["a/style.safetensors", "b/style.safetensors:0.5"], r"The LoRA style\.safetensors is given twice"),
        (["r1:0.5"], "The LoRA r1@kept is given twice"),
        ([f"{number}.safetensors" for number in range(8)], "9 LoRAs are too many at once; take at most 8"),
    ],
)
def test_a_lora_too_strong_too_many_or_twice_is_one_sentence(loras: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        SampleRequest(prompt="an owl", run="r1", loras=tuple(loras))
