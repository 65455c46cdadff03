"""A download that goes wrong: `python -m benchmarks.reliability.hub`.

A hub on 127.0.0.1 serves the toy, its U-Net's file made 64 MB long, and breaks as it is told to. Of each way: the seconds until
fetching ends, how many bytes came more than once, how many files are left half there, and the sentence. Seconds are those of a
person who waits, all tries and the start of their processes in them.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import Any

from huggingface_hub import constants

from apt_engine.bases import hub
from apt_engine.errors import BaseModelError
from tests.fake_hub import NAME, FakeHub, serve
from tests.toy import save_toy_base

SIZE = 64_000_000  # bytes; the hub's library keeps what came in pieces of 10 MB
NOBODY = "http://127.0.0.1:9"  # where no program listens
WAYS: dict[str, dict[str, Any]] = {
    "nothing goes wrong": {},
    "a file is cut once": {"cut": "unet/diffusion", "cuts": 1},
    "a file is cut each time": {"cut": "unet/diffusion", "cuts": 99},
    "it never answers": {"silent": "/api/models"},
    "it falls silent in the weights": {"silent": "unet/diffusion"},
    "gated": {"status": 403, "code": "GatedRepo"},
    "unknown, or private": {"status": 401, "code": "RepoNotFound"},
    "another refusal": {"status": 403},
    "500": {"status": 500},
    "nobody listens": {"address": NOBODY},
    "HF_HUB_OFFLINE": {"offline": "1"},
    "Stop": {"slow": 0.001, "stops": True},
}


def main() -> None:
    """Print the table."""
    print("| what happens | seconds | bytes fetched twice | left half there | the sentence |")
    print("| --- | ---: | ---: | ---: | --- |")
    for name, way in WAYS.items():
        with tempfile.TemporaryDirectory() as folder:
            print(f"| {name} | {_told(Path(folder), **way)} |", flush=True)


def _told(folder: Path, *, address: str = "", offline: str = "0", stops: bool = False, **breaks: Any) -> str:
    """One download to an empty cache, as cells of the table."""
    cache = folder / "cache"
    constants.HF_HUB_CACHE = str(cache)
    os.environ |= {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": offline}
    served = save_toy_base(folder / "served")
    os.truncate(served / "unet" / "diffusion_pytorch_model.safetensors", SIZE)
    with serve(FakeHub(served, **breaks)) as fake:
        os.environ["HF_ENDPOINT"] = address or fake.address
        seconds, sentence = _fetched(stops=stops)
        sizes = {name: path.stat().st_size for name, path in fake.files().items()}
        twice = sum(max(0, fake.sent.get(name, 0) - size) for name, size in sizes.items())
        half = len(list(cache.rglob("*.incomplete")))
    sentence = sentence.replace(str(cache), "...").replace("|", "/")
    return f"{seconds:.1f} | {twice:,} | {half} | {sentence}"


def _fetched(*, stops: bool) -> tuple[float, str]:
    """Seconds, and what was said; where it is to stop, a second after the first bytes, the seconds from then on."""
    began, first, sentence = time.monotonic(), 0.0, ""

    def should_stop() -> bool:
        return stops and 0 < first < time.monotonic() - 1

    try:
        for _ in hub.fetch(NAME, should_stop=should_stop):
            first = first or time.monotonic()
    except BaseModelError as error:
        sentence = str(error)
    return time.monotonic() - (first + 1 if stops else began), sentence


if __name__ == "__main__":
    main()
