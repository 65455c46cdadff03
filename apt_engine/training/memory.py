"""How much memory this process took at its peak, and giving back what it does not use."""

import gc
import sys

import torch


def peak_memory_bytes() -> int:
    """Peak of the GPU's memory where there is one, else of the process's resident memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        import psutil  # comes with accelerate

        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def release_memory() -> None:
    """Give back what nothing holds any more, the GPU's own cache included."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
