"""What the page shows of pictures: those just drawn, those drawn before, those in line. From files to what scripts draw."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apt_engine.jobs.engine import SampleProgress
from apt_engine.jobs.picture_line import Drawn, Wish
from apt_engine.runs import library
from ui.context import AppContext
from ui.plots import file_url
from ui.words import later, say, told

PICTURES_REMEMBERED = 24
IN_LINE = later("The engine is at work. These pictures are drawn as soon as it is free:")


def gallery(pictures: Sequence[tuple[str, int, Path]]) -> dict[str, Any]:
    """Pictures of (caption, seed, file) with their words."""
    return {
        "pictures": [
            {
                "url": file_url(path),
                "name": path.name,
                "words": f"{caption}, {words}" if caption else words,
            }
            for caption, seed, path in pictures
            for words in (say("seed {seed}", seed=seed),)
        ],
        "all": f"pictures?of={','.join(dict.fromkeys(path.parent.name for *_, path in pictures))}",
    }


def gallery_of_grid(whole: Path, first_seed: int, pictures: Sequence[tuple[str, int, Path]]) -> dict[str, Any]:
    """A grid over the whole width, then its pictures."""
    (sheet,) = gallery([(say("the grid"), first_seed, whole)])["pictures"]
    below = gallery(pictures)
    return {**below, "pictures": [{**sheet, "wide": True}, *below["pictures"]]}


def show_drawn(drawn: Drawn) -> dict[str, Any]:
    """The pictures in line that were drawn last."""
    if drawn.grid:
        return gallery_of_grid(drawn.grid, drawn.pictures[0][1], drawn.pictures)
    return gallery(drawn.pictures)


def remembered(context: AppContext) -> list[Path]:
    """The newest pictures in the data directory, newest first."""
    return library.recent_pictures(context.store, PICTURES_REMEMBERED)


def show_history(context: AppContext) -> dict[str, Any]:
    """The same, as the history shows them."""
    pictures = [{"url": file_url(path), "name": path.name, "words": ""} for path in remembered(context)]
    return {"pictures": pictures, "pick": True, "all": "pictures"}


def show_line(context: AppContext) -> dict[str, Any]:
    """The pictures in line, what went wrong with those before, and which were drawn last."""
    if not context.pictures:
        return {"wishes": [], "words": "", "problem": "", "done": ""}
    drawn, wishes = context.pictures.drawn, context.pictures.waiting()
    return {
        "wishes": [{"id": wish.id, "words": _of_wish(wish)} for wish in wishes if wish.requests],
        "words": say(IN_LINE),
        "problem": told(drawn.problem),
        "done": drawn.wish_id,
    }


def _of_wish(wish: Wish) -> str:
    said = f"{wish.count} x {wish.requests[0][1].prompt}"
    return said if wish.axes is None else say("a grid of {pictures}", pictures=said)


def preview(progress: SampleProgress) -> str:
    """A small picture of what the next one seems to become."""
    path = progress.preview
    about = say("the next picture, half done")
    return f'<img class="preview" src="{file_url(path)}" alt="{about}">' if path else ""
