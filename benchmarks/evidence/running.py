"""Trains and measures what is not there yet, row by row; a kill at any point costs the row in hand and no more."""

import dataclasses
import functools
import subprocess
from collections.abc import Generator, Iterator, Sequence
from typing import Any, TypeVar

from apt_engine.apt.bins import BINS
from apt_engine.apt.split import MIRROR, SHOT, ZOOM, Cell, all_cells
from apt_engine.bases.registry import load_base_of
from apt_engine.lora import files
from apt_engine.runs.events import RunFinished
from apt_engine.runs.run import Run
from apt_engine.runs.store import RunStore
from apt_engine.training.captions import Captions
from apt_engine.training.drift import PriorDrift
from apt_engine.training.latents import encode_photos
from apt_engine.training.split import SplitProbe, encode_framings
from benchmarks.evidence.methods import CHECKED_AT, DRAWN_AT, FIXED, STEPS, settings_of, trained_as
from benchmarks.evidence.pictures import Observer
from benchmarks.evidence.rows import Drift, Finished, Photos, Pictures, Row, Rows, Split
from benchmarks.likeness import ROOT, Subject
from benchmarks.runs import finished_run

BATCH = 15  # a fifth quicker than the two at a time of a run


def measure_all(rows: Rows, store: RunStore, wanted: Sequence[tuple[Subject, str, int]]) -> Iterator[Row]:
    """Yields each new row as soon as it is kept.

    Args:
        rows: what is there.
        store: where runs are trained, and taken up again.
        wanted: subject, method and seed of each run, in the order of doing.
    """
    for subject, method, seed in wanted:
        if _is_measured(rows, subject.key, method, seed):
            continue
        settings = {"subject": subject.name, "seed": seed, **FIXED, **settings_of(method)}
        with trained_as(method):
            run = finished_run(store, f"{subject.key}-{method}-{seed}", subject.training, settings)
        for row in Measuring(subject, method, run).missing(rows):
            rows.add(row)
            yield row


def _is_measured(rows: Rows, subject: str, method: str, seed: int) -> bool:
    """Whether nothing of a run is missing, so that neither it nor a base model need be opened."""
    wanted = [(Finished, STEPS), *((Pictures, step) for step in DRAWN_AT), *((Drift, step) for step in CHECKED_AT)]
    return all(rows.has(kind, subject, method, seed, step) for kind, step in wanted)


class Measuring:
    """Measures the checkpoints of a trained run. What is not asked for is not made ready: that takes seconds each.

    Args:
        subject: whose run it is.
        method: by which it was trained.
        run: with checkpoints at all steps.
    """

    def __init__(self, subject: Subject, method: str, run: Run) -> None:
        self._run = run
        self._config = run.config
        self._subject = subject
        self._own = {"subject": subject.key, "method": method, "seed": self._config.seed}
        config = self._config
        self._base = load_base_of(config)

    def missing(self, rows: Rows) -> Iterator[Row]:
        """What is not there yet, one after the other."""
        yield from self._of_base(rows)
        for step in CHECKED_AT:
            yield from self._of_step(rows, step)
        if rows.has(Finished, **self._own, step=STEPS):
            return
        ends = [event for event in self._run.events()[0] if isinstance(event, RunFinished)]
        yield Finished(
            **self._own,
            step=STEPS,
            seconds=sum(end.seconds for end in ends),
            photos=len(self._run.photo_paths),
            settings=self._config.to_dict(),
            version=_version(),
        )

    def _of_base(self, rows: Rows) -> Iterator[Row]:
        """The photos, and the untrained model; before any LoRA is attached."""
        key = self._subject.key
        own = {"subject": key, "method": "base", "seed": 0, "step": 0}
        if not rows.has(Photos, key, "base"):
            yield Photos(**own, two_views=self._observer.two_views, nearest=self._observer.nearest)
        if not rows.has(Pictures, key, "base"):
            yield Pictures(**own, **dataclasses.asdict(self._observer.observe(self._base)), drift=0.0)

    def _of_step(self, rows: Rows, step: int) -> Iterator[Row]:
        kinds = (Split, Drift, Pictures) if step in DRAWN_AT else (Split, Drift)
        missing = [kind for kind in kinds if not rows.has(kind, **self._own, step=step)]
        if missing:
            files.load(self._base, self._run.checkpoint(str(step)).lora_path)
        if Split in missing:
            yield Split(**self._own, step=step, gains=self._split())
        if Drift in missing:
            yield Drift(**self._own, step=step, drift=self._drift.measure())
        if Pictures in missing:
            seen, drift = self._observer.observe(self._base), self._thorough_drift.measure()
            yield Pictures(**self._own, step=step, **dataclasses.asdict(seen), drift=drift)

    def _split(self) -> list[list[list[float]]]:
        """All gains by framing, photo and bin, of the LoRA that is attached."""
        photos = range(len(self._run.photo_paths))
        found = self._probe.measure(
            all_cells(len(photos), [(photo, framing) for photo in photos for framing in (MIRROR, ZOOM)])
        )
        return [
            [[found[Cell(photo, framing, index)] for index in range(BINS)] for photo in photos]
            for framing in (SHOT, MIRROR, ZOOM)
        ]

    @functools.cached_property
    def _observer(self) -> Observer:
        return Observer(self._subject, self._config)

    @functools.cached_property
    def _drift(self) -> PriorDrift:
        return PriorDrift(self._base, self._config)

    @functools.cached_property
    def _thorough_drift(self) -> PriorDrift:
        return PriorDrift(self._base, self._config.replace(thorough_checks=True))

    @functools.cached_property
    def _probe(self) -> SplitProbe:
        """Photos in all framings are encoded."""
        paths, config = self._run.photo_paths, self._config
        photos = finish(encode_photos(self._base, paths, "", lambda: None))
        latents = finish(encode_framings(self._base, paths, photos, (MIRROR, ZOOM), lambda: None))
        return SplitProbe(
            self._base, latents, Captions(self._base, config, self._run.captions), config.seed, batch=BATCH
        )


Result = TypeVar("Result")


def finish(work: Generator[Any, None, Result]) -> Result:
    """What a generator returns, its events unheard."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def _version() -> str:
    """The commit that is checked out, marked where files differ from it."""
    told = subprocess.run(
        ("git", "describe", "--always", "--dirty"), cwd=ROOT, capture_output=True, text=True, check=False
    )
    return told.stdout.strip() or "unknown"
