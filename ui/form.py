"""Inputs for settings, made from the metadata that each setting carries."""

import dataclasses
import typing
from collections.abc import Iterable
from typing import Any

import gradio as gr
from gradio.components import Component

from apt_engine.errors import ConfigError
from apt_engine.settings.fields import Setting, setting_of
from apt_engine.settings.sampling import SampleRequest
from apt_engine.settings.training import TrainingConfig
from ui.words import later, say, told

GROUP_TITLES = {
    "subject": later("Words"),
    "model": later("Base model"),
    "lora": later("LoRA"),
    "training": later("Training"),
    "augmentation": later("Augmentation"),
    "regularization": later("Regularization"),
    "prior": later("Prior preservation"),
    "output": later("Samples and checkpoints"),
}
SPECIAL_WORDS = {"lora": "LoRA", "snr": "SNR", "dtype": "Number format"}
Settings = type[TrainingConfig] | type[SampleRequest]


def build_settings(kind: type[TrainingConfig], values: dict[str, Any], left_out: Iterable[str]) -> dict[str, Component]:
    """Inputs for all settings but those `left_out`, under the headings of their groups; `values` are shown at first."""
    skipped = set(left_out)
    made: dict[str, Component] = {}
    for group, title in GROUP_TITLES.items():
        fields = [
            field
            for field in dataclasses.fields(kind)
            if setting_of(field).group == group and field.name not in skipped
        ]
        if not fields:
            continue
        with gr.Group(elem_classes="settings-group"):
            gr.HTML(f"<h3>{say(title)}</h3>", padding=False)
            with gr.Row():
                for field in fields:
                    made[field.name] = build_input(kind, field.name, value=values[field.name])
    return made


def build_input(
    kind: Settings,
    name: str,
    *,
    value: Any = None,
    label: str = "",
    is_slider: bool = False,
    placeholder: str = "",
    elem_id: str | None = None,
) -> Component:
    """The input that suits one setting: a tick, a list, a slider, a number or text, with its help and range.

    Args:
        kind: the record the setting belongs to.
        name: its field.
        value: what to show at first; the setting's default unless given.
        label: what to call it; made from the name unless given.
        elem_id: of the component on the page.
        placeholder: what an empty input stands for; it is one for text then, see `whole_number`.
        is_slider: whether a number is set by dragging; for those whose whole range is usual.
    """
    field = next(field for field in dataclasses.fields(kind) if field.name == name)
    about, wanted = setting_of(field), typing.get_type_hints(kind)[name]
    shown = to_component(field.default if value is None else value)
    shown = None if shown is dataclasses.MISSING else shown
    words: dict[str, Any] = {
        "label": label or told(label_of(field)),
        "info": told(about.help),
        "interactive": True,
        "elem_id": elem_id,
    }
    if wanted is bool:
        return gr.Checkbox(bool(shown), **words)
    if about.choices:
        return gr.Dropdown(list(about.choices), value=shown, filterable=False, **words)
    if wanted in (int, float):
        if is_slider:
            step = 1 if wanted is int else 0.05
            return gr.Slider(about.minimum or 0, about.maximum or 1, value=shown, step=step, buttons=[], **words)
        if placeholder:  # an empty input for numbers shows a 0
            return gr.Textbox("", placeholder=placeholder, max_lines=1, min_width=110, **{**words, "info": None})
        # Not given the range: Gradio's own message for a number out of range does not name the setting, ours does.
        return gr.Number(shown, min_width=220, **{**words, "info": f"{told(about.help)}{_range(about)}"})
    is_list = wanted is not str
    if is_list:
        words["info"] = f"{told(about.help)} {say('One per line.')}"
    lines = 4 if is_list else 1
    height = {"max_lines": 1} if name == "subject" else {}  # an input, to which a list of words can be attached
    return gr.Textbox(shown, lines=lines, min_width=460 if is_list else 220, **height, **words)


def whole_number(words: Any, name: str) -> int | None:
    """The number in an input with a placeholder; None where it is empty.

    Raises:
        ConfigError: it is no whole number.
    """
    said = str(words if words is not None else "").strip()
    if not said:
        return None
    try:
        return round(float(said.replace(",", "")))
    except (ValueError, OverflowError) as error:
        raise ConfigError(
            say(
                '{name} is "{said}", which is not a whole number; change it, or leave it empty.',
                name=name,
                said=said[:40],
            )
        ) from error


def initial_value(component: Component) -> Any:
    """What an input shows when the page is opened."""
    return getattr(component, "value", None)


def can_show(component: Component, value: Any) -> bool:
    """Whether an input can have a value that another version of the app kept; that version may have offered other choices."""
    if isinstance(component, gr.Dropdown | gr.Radio) and not getattr(component, "allow_custom_value", False):
        offered = [choice for _, choice in component.choices]
        return all(one in offered for one in (value if isinstance(value, list) else [value]))
    return True


def to_component(value: Any) -> Any:
    """A setting's value as an input shows it: a list is one item a line."""
    return "\n".join(value) if isinstance(value, list | tuple) else value


def changed_by(before: TrainingConfig, after: TrainingConfig, shown: dict[str, Any]) -> dict[str, Any]:
    """What to show when another base model or preset is chosen, for the inputs whose value moves.

    What a person changed by hand, so that it is not what `before` says, stays.
    """
    moved = {}
    for name, value in shown.items():
        old, new = to_component(getattr(before, name)), to_component(getattr(after, name))
        if value == old and new != old:
            moved[name] = new
    return moved


def label_of(field: dataclasses.Field[Any]) -> str:
    """What an input for a setting is called, made from its name and unit."""
    about, words = setting_of(field), [SPECIAL_WORDS.get(word, word) for word in field.name.split("_")]
    text = " ".join(words)
    return f"{text[0].upper()}{text[1:]}" + (f" ({about.unit})" if about.unit and about.unit not in words else "")


def _range(about: Setting) -> str:
    if about.minimum is None or about.maximum is None:
        return ""
    return " " + say("From {low:,.10g} to {high:,.10g}.", low=about.minimum, high=about.maximum)
