"""Which cards a training fits, and what makes it fit smaller ones, told from shapes before it starts. Imports no torch.

The same ladder is climbed by itself where the memory runs out (`jobs.failures`): gradient checkpointing, smaller batches of which
several make a step, and pictures through the VAE in tiles. Each learns the same.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from apt_engine.jobs.estimate import TILE, memory_of
from apt_engine.jobs.failures import smaller_batch
from apt_engine.settings.training import TrainingConfig

CARDS = (6, 8, 12, 16, 24)  # GB of 2**30 bytes, as their makers count
TAKEN = 800_000_000  # bytes: the driver's own, and what an allocator cannot use


@dataclass(frozen=True)
class Fit:
    """A card, and the first settings of the ladder that fit it; None where none do.

    Attributes:
        card: GB.
        config: the settings.
        memory: bytes that they take at the most.
    """

    card: int
    config: TrainingConfig | None
    memory: int


def plan(config: TrainingConfig) -> list[Fit]:
    """For each card what fits it; empty where the shapes of the base are not known, or no card is used."""
    if config.device in ("cpu", "mps"):
        return []
    rungs: list[tuple[TrainingConfig, int]] = []
    with contextlib.suppress(
        LookupError, TypeError, ValueError, StopIteration
    ):  # its own config lacks what it must say
        rungs = list(_ladder(config))
    fits: list[Fit] = []
    for card in CARDS if rungs else ():
        room = card * 2**30 - TAKEN
        found = next(((made, memory) for made, memory in rungs if memory <= room), None)
        fits.append(Fit(card, *found) if found else Fit(card, None, min(memory for _, memory in rungs)))
    return fits


def in_words(config: TrainingConfig) -> str:
    """The plan in a sentence; empty where there is none."""
    fits = plan(config)
    if not fits:
        return ""
    as_it_is = next((fit.card for fit in fits if fit.config == config), None)
    smaller = next((fit for fit in fits if fit.config and fit.config != config), None)
    if as_it_is is None and smaller is None:
        return f"Takes a graphics card of more than {CARDS[-1]} GB."
    begin = (
        f"Fits a graphics card of {as_it_is} GB" if as_it_is else f"Takes a graphics card of more than {CARDS[-1]} GB"
    )
    if smaller is None or smaller.config is None:
        return f"{begin}."
    return f"{begin}; with {_changes(config, smaller.config)}, which is set by itself where needed, one of {smaller.card} GB."


def _ladder(config: TrainingConfig) -> Iterator[tuple[TrainingConfig, int]]:
    """Settings that learn the same with less and less memory, and what they take."""
    whole = memory_of(config)
    if whole is None:
        return
    yield config, whole
    while True:
        yield config, memory_of(config, largest_whole=TILE) or whole
        if not config.gradient_checkpointing:
            config = config.replace(gradient_checkpointing=True)
            continue
        batch, accumulate = smaller_batch(config)
        if batch == config.batch_size:
            return
        config = config.replace(batch_size=batch, accumulate=accumulate)


def _changes(config: TrainingConfig, other: TrainingConfig) -> str:
    parts = ["gradient checkpointing"] if other.gradient_checkpointing != config.gradient_checkpointing else []
    if other.batch_size != config.batch_size:
        parts.append(f"batches of {other.batch_size}, {other.accumulate} to a step")
    return " and ".join(parts)
