"""Which of several processes this is, as `accelerate launch` and torchrun say in the environment. Without torch."""

import os


def process_rank() -> int:
    """Number of this process, 0 without others. Process 0 prints, writes and draws."""
    return int(os.environ.get("RANK", "0"))


def process_count() -> int:
    """How many processes share the run."""
    return int(os.environ.get("WORLD_SIZE", "1"))
