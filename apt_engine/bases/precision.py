"""In how many bits the weights of a base model's attention blocks are kept while it is trained. Imports no torch."""

import importlib.util

from apt_engine.errors import ConfigError

BACKEND = "bitsandbytes"
# Of packed weights: bits of a number, and how many numbers share a scale in fp32.
BITS, BLOCKS = {"8bit": 8, "4bit": 4}, {"8bit": 256, "4bit": 64}


def is_available() -> bool:
    """Whether weights can be packed here."""
    return importlib.util.find_spec(BACKEND) is not None


def check_precision(precision: str) -> None:
    """Refuse what cannot be kept here.

    Raises:
        ConfigError: the library that packs is not installed.
    """
    if precision != "full" and not is_available():
        raise ConfigError(
            f"base_precision {precision} needs {BACKEND}, which is not installed; run pip install -r requirements-quantized.txt, "
            "or set base_precision to full."
        )
