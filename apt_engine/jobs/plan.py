"""Which cards a training fits, and what makes it fit smaller ones, told from shapes before it starts. Imports no torch.

The same ladder is climbed by itself where the memory runs out (`jobs.failures`, `bases`): gradient checkpointing, smaller batches
of which several make a step, and pictures through the VAE in tiles. Each learns the same. Beyond its end stands a base
whose weights are kept in 8 or 4 bits: that learns a little otherwise, so it is offered and never taken by itself.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from apt_engine.bases.precision import BACKEND, is_available
from apt_engine.jobs.estimate import TILE, memory_of, size
from apt_engine.jobs.failures import smaller_batch
from apt_engine.settings.training import TrainingConfig

PRECISIONS = ("full", "8bit", "4bit")
CARDS = (6, 8, 12, 16, 24)  # GB of 2**30 bytes, as their makers count
TAKEN = 800_000_000  # bytes: the driver's own, and what an allocator cannot use


@dataclass(frozen=True)
class Fit:
    """A card, and the first settings of the ladder that fit it; None where none do.

    Attributes:
        card: GB.
        config: the settings.
        memory: bytes that they take at the most.
        is_offered: whether they are another precision of the base than was asked for, which a person has to choose.
    """

    card: int
    config: TrainingConfig | None
    memory: int
    is_offered: bool = False


def plan(config: TrainingConfig) -> list[Fit]:
    """For each card what fits it; empty where the shapes of the base are not known, or no card is used."""
    if config.device in ("cpu", "mps"):
        return []
    rungs: list[tuple[TrainingConfig, int]] = []
    # Its own config lacks what it must say.
    with contextlib.suppress(LookupError, TypeError, ValueError, StopIteration):
        rungs = list(_ladder(config))
        rungs += [rung for other in _lighter_precisions(config) for rung in _ladder(other)]
    fits: list[Fit] = []
    for card in CARDS if rungs else ():
        room = card * 2**30 - TAKEN
        found = next(((made, memory) for made, memory in rungs if memory <= room), None)
        if found:
            fits.append(Fit(card, *found, is_offered=found[0].base_precision != config.base_precision))
        else:
            fits.append(Fit(card, None, min(memory for _, memory in rungs)))
    return fits


def in_words(config: TrainingConfig) -> str:
    """The plan in a sentence; empty where there is none."""
    fits = plan(config)
    if not fits:
        return ""
    as_it_is = next((fit.card for fit in fits if fit.config == config), None)
    parts = [
        f"Fits a graphics card of {as_it_is} GB" if as_it_is else f"Takes a graphics card of more than {CARDS[-1]} GB"
    ]
    otherwise = "which learns a little otherwise" + ("" if is_available() else f" and needs {BACKEND}")
    for is_offered, how in ((False, "which is set by itself where needed"), (True, otherwise)):
        smaller = next((fit for fit in fits if fit.config not in (None, config) and fit.is_offered is is_offered), None)
        if smaller and smaller.config:
            parts.append(f"with {_changes(config, smaller.config)}, {how}, one of {smaller.card} GB")
    return "; ".join(parts) + "."


def lines(config: TrainingConfig) -> list[str]:
    """The plan card by card, for a terminal; none where there is none."""
    told: list[str] = []
    for fit in plan(config):
        if fit.config is None:
            told.append(f"{fit.card:>2} GB: does not fit, takes at least {size(fit.memory)}")
            continue
        how = _changes(config, fit.config)
        asked = ", to be chosen" if fit.is_offered else ""
        told.append(f"{fit.card:>2} GB: {size(fit.memory)}" + (f" with {how}{asked}" if how else ""))
    return told


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


def _lighter_precisions(config: TrainingConfig) -> list[TrainingConfig]:
    """The same with a base in fewer bits, those with more of them first."""
    fewer = PRECISIONS[PRECISIONS.index(config.base_precision) + 1 :]
    return [config.replace(base_precision=precision) for precision in fewer]


def _changes(config: TrainingConfig, other: TrainingConfig) -> str:
    """What differs, in words; empty where pictures go through the VAE in tiles and nothing else does."""
    parts = [f"base_precision {other.base_precision}"] if other.base_precision != config.base_precision else []
    parts += ["gradient checkpointing"] if other.gradient_checkpointing != config.gradient_checkpointing else []
    if other.batch_size != config.batch_size:
        parts.append(f"batches of {other.batch_size}, {other.accumulate} to a step")
    return " and ".join(parts)
