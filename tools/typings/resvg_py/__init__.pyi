# Only the recipe of the pocket model needs this package; the gate must judge that code without having it installed.
from typing import Any

def svg_to_bytes(*, svg_string: str, **options: Any) -> bytes: ...
