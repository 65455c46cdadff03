"""Captions of pictures of the world, worded anew each time they are trained on."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tools.pocket.vocabulary import compose_caption
from tools.pocket.world import decode_label

DROPPED_CAPTIONS = 0.1


def draw_captions(codes: NDArray[np.int16], rng: np.random.Generator, words: Sequence[str]) -> list[str]:
    """A caption for each row of codes; one in ten is empty, for classifier-free guidance."""
    return [
        "" if rng.random() < DROPPED_CAPTIONS else compose_caption(decode_label(code), rng, words) for code in codes
    ]
