"""The process that decodes: `python -m apt_engine.photos.child`, started by `pool`. Imports no torch, and numpy only at need.

Asked by lines of JSON, `{"name": ..., "path": ...}`. It answers with a line, `{"size": [width, height]}` and then the pixels as
RGB, or `{"refusal": sentence}`. Where the system has such limits, it may take little memory and write no file.
"""

import contextlib
import json
import sys
from pathlib import Path

from apt_engine.errors import PhotoError
from apt_engine.photos.decode import decode

MEMORY = 900_000_000  # bytes of address space, of which Python and Pillow take 100 million


def main() -> None:
    """Answer until nobody asks any more."""
    _limit_itself()
    answers = sys.stdout.buffer
    answers.write(b"{}\n")  # awake
    answers.flush()
    for line in sys.stdin.buffer:
        asked = json.loads(line)
        try:
            image = decode(asked["name"], Path(asked["path"]))
        except PhotoError as error:
            answers.write(json.dumps({"refusal": str(error)}).encode() + b"\n")
        else:
            answers.write(json.dumps({"size": image.size}).encode() + b"\n" + image.tobytes())
            del image  # it would stand beside the next one
        answers.flush()


def _limit_itself() -> None:
    """What the system grants no more: Windows has no such limits, and macOS not all of them."""
    if sys.platform == "win32":
        return
    import resource

    limits = {resource.RLIMIT_AS: MEMORY, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0}
    for limit, most in limits.items():
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(limit, (most, most))


if __name__ == "__main__":
    main()
