"""Parts of the Train tab: the photos with their examples, the presets with what they do, and what training would take."""

import hashlib
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

import gradio as gr
from PIL import Image

from apt_engine.bases.profiles import warning_of
from apt_engine.errors import EngineError
from apt_engine.jobs.estimate import facts
from apt_engine.jobs.plan import in_words
from apt_engine.photos.photo_set import Photo
from apt_engine.settings.training import TrainingConfig
from ui.context import AppContext, Example
from ui.photo_tiles import NO_PHOTOS
from ui.plots import thumbnails
from ui.scripted import scripted
from ui.words import later, say, told

ORDER = ("off", "quick", "gentle", "light", "standard", "strong", "dreambooth")
CHOICES = {
    "training": later("How long"),
    "augmentation": later("Re-frame photos as they wear out"),
    "regularization": later("Keep what the model knows"),
}
DEFAULTS = {
    "training": "standard",
    "augmentation": "augmentation-standard",
    "regularization": "regularization-standard",
}
WARP_SIDE = 96
WARPS = ((0.25, -0.4), (0.5, 0.7), (0.75, -0.9), (1.0, 1.0))  # shares of the most zoom and turn


def build_photos(context: AppContext) -> tuple[gr.HTML, gr.HTML]:
    """Tiles of the photos, and sentences on them."""
    about = (
        say("3 to 10, different places and angles. Click one to crop it.")
        if context.tenants.is_shared
        else say("3 to 10, different places and angles. They stay on this computer. Click one to crop it.")
    )
    gr.HTML(f'<h2 class="title">{say("1. Photos of the thing")}</h2><p>{about}</p>', padding=False)
    photos = scripted("photos", NO_PHOTOS, elem_id="photos")
    return photos, gr.HTML("", elem_id="notes")


def build_examples(context: AppContext) -> list[tuple[gr.Button, Example]]:
    """A button for each example."""
    examples = []
    if context.examples:
        gr.HTML(f'<p class="quiet">{say("No photos at hand? Try it with:")}</p>')
        with gr.Row(elem_classes="examples"):
            examples = [
                (
                    gr.Button(
                        told(example.title),
                        size="sm",
                        elem_id=f"example-{key}",
                        icon=str(example.photo_paths[0]),
                        min_width=120,
                    ),
                    example,
                )
                for key, example in context.examples.items()
            ]
        gr.HTML(credits_of(context.examples.values()))
    return examples


def credits_of(examples: Iterable[Example]) -> str:
    """Who made the example photos, and their licenses, as a list that a click opens."""
    lines = "".join(
        f"<li>{html.escape(f'{told(example.title)}: {example.credit} {example.licence}')}</li>" for example in examples
    )
    return f'<details class="credits"><summary>{say("Who made these photos")}</summary><ul>{lines}</ul></details>'


def build_presets(context: AppContext) -> tuple[dict[str, gr.Radio], gr.HTML]:
    """A choice for each kind of preset, and below that of re-framing what it does to the photos."""
    made, warps = {}, None
    for kind in CHOICES:
        made[kind] = _preset_choice(context, kind)
        if kind == "augmentation":
            warps = gr.HTML("", elem_id="warps")
    assert warps
    return made, warps


def _preset_choice(context: AppContext, kind: str) -> gr.Radio:
    presets = [(told(preset.name), key) for key, preset in context.presets.items() if preset.kind == kind]
    presets.sort(key=lambda item: ORDER.index(end) if (end := item[1].rpartition("-")[2]) in ORDER else len(ORDER))
    about = told(context.presets[DEFAULTS[kind]].description)
    return gr.Radio(presets, value=DEFAULTS[kind], label=say(CHOICES[kind]), info=about, interactive=True)


def draw_warps(photos: Sequence[Photo], config: TrainingConfig, folder: Path) -> str:
    """A few of the photos as re-framing would show them to the model, from gently to as far as it goes; nothing if it is off.

    Args:
        photos: those on the tab.
        config: the settings in the form.
        folder: where the small pictures are kept.
    """
    if not photos or not config.augmentation:
        return ""
    paths = []
    for number, (zoom, turn) in enumerate(WARPS):
        photo = photos[number % len(photos)]
        warp = 1 + zoom * (config.max_zoom - 1), turn * config.max_rotation_degrees
        box = photo.learnt(config.resolution, config.crop)
        key = hashlib.sha256(f"{photo.source}/{box}/{warp}".encode()).hexdigest()[:24]
        path = folder / f"{key}-warp.jpg"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            warped(photo.image.crop(box), *warp).save(path, quality=85)
        paths.append(path)
    return thumbnails(paths, say("your photo, re-framed"))


def warped(picture: Image.Image, zoom: float, degrees: float) -> Image.Image:
    """A picture shrunk to 1 / zoom and turned counter-clockwise, black around it; its longer side has WARP_SIDE px."""
    scale = WARP_SIDE / max(picture.size)
    made = Image.new("RGB", (max(1, round(scale * picture.width)), max(1, round(scale * picture.height))))
    width, height = (max(1, round(side / zoom)) for side in made.size)
    made.paste(picture.resize((width, height)), ((made.width - width) // 2, (made.height - height) // 2))
    return made.rotate(degrees, Image.Resampling.BILINEAR)


def describe(context: AppContext, config: TrainingConfig, photo_count: int) -> str:
    """One line on the steps, time, memory and disk that training would take."""
    spans = "".join(map(_fact, facts(config, photo_count, context.store)))
    said = [sentence for sentence in (in_words(config), warning_of(config.base)) if sentence]
    notes = "".join(f'<p class="quiet">{html.escape(told(sentence))}</p>' for sentence in said)
    return f'<h2 class="title">{say("3. Train")}</h2><p class="numbers">{spans}</p>{notes}'


def _fact(fact: tuple[str, str, str]) -> str:
    words, number, more = (html.escape(told(said)) for said in fact)
    return f"<span>{words} <b>{number}</b> {more}</span>".replace(" ,", ",")


def problem(error: EngineError) -> str:
    """A mistake, said where it was made."""
    return f'<p class="problem" role="alert">{html.escape(told(str(error)))}</p>'
