"""The pictures that a run keeps: samples, pictures of the class for prior preservation, and re-framed photos."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from apt_engine.bases.base import BaseModel
from apt_engine.runs.events import Event, SampleReady, StageChanged, ViewsShown
from apt_engine.runs.run import Run
from apt_engine.sampling.sampler import Picture, Sampler, Stopped, save_picture
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.captions import class_caption
from apt_engine.training.ending import StopSignal

VIEWS_SHOWN = 5


def draw_samples(
    run: Run, base: BaseModel, step: int, prompts: Sequence[str], kept: set[int], obey_stop: Callable[[float], None]
) -> Iterator[Event]:
    """The sample grid: each prompt with its own fixed seed, the same at every step. A wish to stop ends it early.

    Args:
        prompts: as they were written, with `{subject}`.
        kept: which samples, by their index, are there already and stay.
        obey_stop: raises Stopped where there is a wish to stop.
    """
    config = run.config
    pictures = {
        index: Picture.of(config, config.fill(prompt), config.seed + index)
        for index, prompt in enumerate(prompts)
        if index not in kept
    }
    if not pictures:
        return
    message = f"Drawing the samples of step {step}."
    yield StageChanged(stage="sampling", message=message, fraction=0.0)
    images = Sampler(base).generate(list(pictures.values()), obey_stop)
    with contextlib.suppress(Stopped):
        for done, ((index, picture), image) in enumerate(zip(pictures.items(), images, strict=True), 1):
            path = f"samples/{step:06d}-{index}.png"
            save_picture(image, run.path / path)
            yield SampleReady(step=step, index=index, prompt=picture.prompt, seed=picture.seed, path=path)
            yield StageChanged(stage="sampling", message=message, fraction=done / len(pictures))


def draw_prior_pictures(
    base: BaseModel, config: TrainingConfig, paths: Sequence[Path], stop: StopSignal
) -> Iterator[Event]:
    """Pictures of the class by the base model itself, those that are not there yet. A wish to stop ends it early."""
    missing = [path for path in paths if not path.exists()]
    caption = class_caption(config, config.caption)
    with contextlib.suppress(Stopped):
        for done, path in enumerate(missing):
            message = f"Drawing {config.subject} {done + 1} of {len(missing)}, to remember what that looks like."
            yield StageChanged(stage="prior", message=message, fraction=done / len(missing))
            picture = Picture.of(config, caption, config.seed + int(path.stem))
            save_picture(next(Sampler(base).generate([picture], stop.obey_alone)), path)


class RecentViews:
    """Small pictures of the re-framed photos just trained on; on disk all but the last two showings are dropped."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._views: deque[Image.Image] = deque(maxlen=VIEWS_SHOWN)

    def add(self, views: Sequence[Image.Image]) -> None:
        """Those of one step; older ones make room."""
        self._views.extend(views)

    def show(self, step: int) -> Iterator[ViewsShown]:
        """Keep as files what came since the last showing, if anything did."""
        if not self._views:
            return
        old = sorted((self._run.path / "views").glob("*.png"))
        paths = tuple(f"views/{step:06d}-{number}.png" for number in range(len(self._views)))
        for path, image in zip(paths, self._views, strict=True):
            save_picture(image, self._run.path / path)
        for path in old[: -len(paths)] if len(old) > len(paths) else ():
            path.unlink(missing_ok=True)
        self._views.clear()
        yield ViewsShown(step=step, paths=paths)
