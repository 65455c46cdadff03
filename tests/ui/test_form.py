"""The form is made from the settings and turns back into them."""

import dataclasses

import gradio as gr
import pytest
from gradio.components import Component

from apt_engine.bases.profiles import build_config
from apt_engine.settings.fields import setting_of
from apt_engine.settings.presets import load_presets
from apt_engine.settings.sampling import SampleRequest
from apt_engine.settings.training import TrainingConfig
from ui.form import build_input, build_settings, changed_by, to_component

CONFIG = TrainingConfig(subject="backpack")


@pytest.fixture(scope="module")
def inputs() -> dict[str, Component]:
    with gr.Blocks(analytics_enabled=False):
        return build_settings(TrainingConfig, CONFIG.to_dict(), ["subject"])


def test_every_setting_has_an_input_with_its_help(inputs: dict[str, Component]) -> None:
    fields = {field.name: setting_of(field) for field in dataclasses.fields(TrainingConfig) if field.name != "subject"}
    assert set(inputs) == set(fields)
    for name, about in fields.items():
        assert about.help in getattr(inputs[name], "info", "")


def test_what_the_inputs_show_is_the_config_again(inputs: dict[str, Component]) -> None:
    shown = {name: getattr(component, "value", None) for name, component in inputs.items()}
    assert TrainingConfig.from_dict({"subject": "backpack", **shown}) == CONFIG


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("gradient_checkpointing", gr.Checkbox),
        ("device", gr.Dropdown),
        ("rank", gr.Number),
        ("learning_rate", gr.Number),
        ("sample_prompts", gr.Textbox),
        ("caption", gr.Textbox),
    ],
)
def test_each_kind_of_setting_has_its_kind_of_input(
    inputs: dict[str, Component], name: str, kind: type[Component]
) -> None:
    assert isinstance(inputs[name], kind)


def test_range_and_unit_stand_beside_a_number(inputs: dict[str, Component]) -> None:
    assert getattr(inputs["resolution"], "label", "") == "Resolution (px)"
    assert "From 32 to 2,048." in getattr(inputs["resolution"], "info", "")


def test_a_slider_has_the_range_of_its_setting() -> None:
    with gr.Blocks(analytics_enabled=False):
        slider = build_input(SampleRequest, "strength", is_slider=True)
    assert isinstance(slider, gr.Slider)
    assert (slider.minimum, slider.maximum, slider.value) == (0, 2, 1.0)


def test_another_choice_moves_what_nobody_touched() -> None:
    presets = load_presets()
    pocket = build_config(presets, [], {"subject": "thing"})
    classic = build_config(presets, [], {"subject": "thing", "base": "stable-diffusion-v1-5/stable-diffusion-v1-5"})
    shown = {name: to_component(value) for name, value in pocket.to_dict().items() if name not in ("subject", "base")}
    moved = changed_by(pocket, classic, shown)
    assert moved["resolution"] == classic.resolution
    assert moved.keys() == {name for name in shown if getattr(pocket, name) != getattr(classic, name)}
    by_hand = changed_by(pocket, classic, {**shown, "resolution": 128})
    assert "resolution" not in by_hand
    assert by_hand.keys() == moved.keys() - {"resolution"}
