"""What the world is drawn from, and the sentence when it is not installed."""


class MissingSourceError(RuntimeError):
    """Something the world is drawn from is not installed; the message says how to install it."""
