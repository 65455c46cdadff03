"""What can go wrong on the user's side. Each message is one plain sentence: what happened, which value, what to do."""

import errno

# What torch says where it has no class of its own for it: the CPU on Linux and macOS, on Windows, a Mac's GPU, and CUDA's
# libraries, which allocate beside torch.
ALLOCATORS = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "MPS backend out of memory",
    "Invalid buffer size",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
DEVICE_ERRORS = ("CUDA error", "CUDA driver error", "HIP error", "cuDNN error")


class EngineError(Exception):
    """Something the user can mend; `str(error)` is the sentence shown on the page and on the command line."""


class ConfigError(EngineError):
    """A setting is out of range, unknown, or contradicts another."""


class PhotoError(EngineError):
    """A photo, or the set of them, cannot be used."""


class BaseModelError(EngineError):
    """A base model is missing, is no model, or cannot be trained."""


class LoraError(EngineError):
    """A LoRA file cannot be read, or does not fit the base model."""


class RunError(EngineError):
    """A run does not exist, is damaged, or is not in a state that allows what was asked."""


class DiskError(EngineError):
    """The disk is full or cannot be written."""


class BusyError(EngineError):
    """The engine already does something else."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator had no more to give: Python's, or torch's, which is known by what it says alone on CPU and MPS."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = str(error)
    return isinstance(error, RuntimeError) and any(sign in words for sign in ALLOCATORS)


def is_device_lost(error: BaseException) -> bool:
    """Whether a GPU does not answer any more; nothing can be computed on it in this process."""
    is_theirs = type(error).__name__ == "AcceleratorError" or str(error).startswith(DEVICE_ERRORS)
    return isinstance(error, RuntimeError) and is_theirs and not is_out_of_memory(error)
