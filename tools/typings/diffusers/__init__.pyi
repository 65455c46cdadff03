# diffusers' own annotations contradict its code (tuple[int] for any length, from_config returning a pair), so that the
# type checker reports dozens of faults that are none. For it, everything in diffusers is Any.
from typing import Any

def __getattr__(name: str) -> Any: ...
