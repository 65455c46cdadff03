"""Randomness keyed by (seed, step, sample, purpose), never drawn from a global stream.

A resumed run, a run on two processes and a run with a part switched off therefore draw the same samples.
"""

import hashlib

import torch


def generator(seed: int, step: int, sample: int, purpose: str) -> torch.Generator:
    """A CPU generator that depends on its key alone. Draw on the CPU, then move: every device sees the same numbers."""
    key = hashlib.sha256(f"{seed}/{step}/{sample}/{purpose}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)
