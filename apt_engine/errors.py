"""What can go wrong on the user's side. Each message is one plain sentence: what happened, which value, what to do."""


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
