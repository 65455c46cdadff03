"""Captions by a captioner that lies in the hub's cache, on the Train tab; where none lies there, nothing of this is shown."""

import html
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from apt_engine.bases.captioners import caption_from, captioners
from apt_engine.errors import EngineError
from apt_engine.photos.captions import LONGEST_CAPTION
from apt_engine.photos.photo_set import Photo, PhotoSet
from ui.context import AppContext, Values
from ui.photo_tiles import NO_PHOTOS
from ui.plots import progress_line
from ui.words import count, say, told

SIDE = 384  # px that BLIP looks at
Read = Callable[[Any], PhotoSet]


@dataclass(frozen=True)
class Captioning:
    """Its components.

    Attributes:
        captioner: which of those in the cache.
        describe: the button; nothing is done before it is pressed.
        said: how far it is, and what came of it.
        written: captions by photo that no tile has yet; photos may be added and taken out while they are written.
    """

    captioner: gr.Dropdown
    describe: gr.Button
    said: gr.HTML
    written: gr.State


def build(context: AppContext) -> Captioning:
    """Make the components; the same ones whether or not there is a captioner, as pages of other languages are made later."""
    names = [] if context.tenants.is_shared else captioners()
    with gr.Row(visible=bool(names), elem_classes="actions", elem_id="captioning"):
        captioner = gr.Dropdown(
            names, value=next(iter(names), None), show_label=False, container=False, interactive=True, min_width=220
        )
        describe = gr.Button(say("Let it write the captions"), size="sm", elem_id="describe", scale=0, min_width=180)
    return Captioning(captioner, describe, gr.HTML("", elem_id="described"), gr.State({}))


def connect(
    card: Captioning, context: AppContext, photos: gr.HTML, subject: gr.components.Component, read: Read
) -> None:
    """Wire its button.

    Args:
        card: its components.
        context: the engine.
        photos: the tiles, whose empty captions are filled in.
        subject: the class word.
        read: opens the photos behind the tiles.
    """
    card.describe.click(
        partial(describe_photos, card, context, photos, subject, read),
        {card.captioner, photos, subject},
        [card.written, card.said, card.describe],
        show_progress="hidden",
        api_visibility="private",
    ).then(
        partial(take_captions, card, photos),
        {card.written, photos},
        [card.written, photos, card.said],
        show_progress="hidden",
        api_visibility="private",
    )


def describe_photos(
    card: Captioning,
    context: AppContext,
    photos: gr.HTML,
    subject: gr.components.Component,
    read: Read,
    values: Values,
) -> Iterator[Values]:
    """Let the captioner write captions for the photos without one. What prevents it is a sentence below the photos."""
    bare = [photo for photo in read(values[photos]).photos if not photo.caption]
    if not bare:
        yield {card.said: _note(say("There is no photo without a caption; empty those to be written anew."))}
        return
    folder, said = context.uploads_dir / f"described-{secrets.token_hex(12)}", tuple[str, ...]()
    try:
        for progress in context.engine.describe(str(values[card.captioner] or ""), _cut(bare, folder)):
            bar = progress_line(progress.fraction, [(told(progress.message), "", "")])
            yield {card.said: bar, card.describe: gr.Button(interactive=False)}
            said = progress.captions
    except EngineError as error:
        yield {card.said: _note(told(str(error))), card.describe: gr.Button(interactive=True)}
        return
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    told_of = [caption_from(words, str(values[subject] or ""))[:LONGEST_CAPTION] for words in said]
    captions = {photo.source: caption for photo, caption in zip(bare, told_of, strict=False)}
    yield {card.written: captions, card.said: "", card.describe: gr.Button(interactive=True)}


def take_captions(card: Captioning, photos: gr.HTML, values: Values) -> Values:
    """Give what was written to the photos as they are by now; a caption that somebody typed meanwhile stays."""
    written, value = values[card.written], values[photos] or NO_PHOTOS
    if not written:
        return gr.skip()
    taken = {tile["path"] for tile in value["photos"] if tile["path"] in written and not tile.get("caption")}
    tiles = [{**tile, "caption": written[tile["path"]]} if tile["path"] in taken else tile for tile in value["photos"]]
    words = count(
        "{number} caption is written; read it, and change what is not so.",
        "{number} captions are written; read them, and change what is not so.",
        len(taken),
    )
    return {
        card.written: {},
        photos: {**value, "photos": tiles, "unfold": True},
        card.said: _note(words) if taken else "",
    }


def _cut(photos: Sequence[Photo], folder: Path) -> list[Path]:
    """The parts that are learnt, as files of their own: the engine opens nothing that was brought."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:02d}.jpg" for number in range(1, len(photos) + 1)]
    for photo, path in zip(photos, paths, strict=True):
        photo.image.crop(photo.square).resize((SIDE, SIDE)).save(path, quality=92)
    return paths


def _note(sentence: str) -> str:
    return f'<p class="note" role="status">{html.escape(sentence)}</p>'
