"""Models of the Hugging Face hub: whether one lies in this computer's cache, and fetching it with a bar. Imports no torch."""

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download

from apt_engine.errors import BaseModelError
from apt_engine.settings.presets import is_hub_id

NOT_NEEDED = ("safety_checker", "feature_extractor", "image_encoder")
WITHOUT_WEIGHTS = ("scheduler", "tokenizer")  # how such names begin
SUFFIXES = (".json", ".txt", ".model", ".safetensors")
SECONDS_BETWEEN_LOOKS = 0.5


def is_downloaded(name: str) -> bool:
    """Whether the cache holds a snapshot of a model, with the weights of all its parts."""
    return any(_is_whole(index) for index in (_folder(name) / "snapshots").glob("*/model_index.json"))


def fetch(name: str) -> Iterator[tuple[int, int]]:
    """Download a model that is not here yet; yields the bytes so far and in all, twice a second.

    A name that is unknown to the hub, or a hub that does not answer or tells no sizes, yields nothing: loading will say it.

    Raises:
        BaseModelError: the download broke off; it can go on from there.
    """
    if not is_hub_id(name) or is_downloaded(name):
        return
    try:
        siblings = HfApi().model_info(name, files_metadata=True).siblings or []
    except (OSError, ValueError):
        return
    files = needed_files({file.rfilename: file.size or 0 for file in siblings})
    total = sum(files.values())
    if not total:
        return
    pool = ThreadPoolExecutor(1)
    job = pool.submit(snapshot_download, name, allow_patterns=list(files))
    pool.shutdown(wait=False)
    while not wait([job], SECONDS_BETWEEN_LOOKS).done:
        yield min(_bytes_below(_folder(name) / "blobs"), total), total
    try:
        job.result()
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise BaseModelError(
            f"The download of {name} broke off ({reason}); start again, it goes on from there."
        ) from error


def needed_files(sizes: dict[str, int]) -> dict[str, int]:
    """Of a repository's files, those a pipeline is loaded from, with their bytes: no variants, no other formats."""
    return {name: size for name, size in sizes.items() if name == "model_index.json" or _is_part(Path(name))}


def parts_of(index: dict[str, Any]) -> list[str]:
    """The folders that a pipeline's `model_index.json` names and that are loaded."""
    named = [name for name, value in index.items() if isinstance(value, list) and value[:1] != [None]]
    return [name for name in named if name not in NOT_NEEDED]


def described(name: str, done: int, total: int) -> str:
    """How far a download is, as a sentence."""
    return f"Downloading {name}, once: {done / 1e9:.1f} of {total / 1e9:.1f} GB."


def _is_part(path: Path) -> bool:
    is_variant = path.suffix == ".safetensors" and "." in path.stem  # model.fp16.safetensors
    return len(path.parts) == 2 and path.parts[0] not in NOT_NEEDED and path.suffix in SUFFIXES and not is_variant


def _folder(name: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"


def _bytes_below(folder: Path) -> int:
    return sum(_size(path) for path in _files(folder))


def _files(folder: Path) -> Iterable[Path]:
    return folder.iterdir() if folder.is_dir() else ()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # renamed since it was listed: from .incomplete to its name
        return 0


def _is_whole(index: Path) -> bool:
    try:
        parts = parts_of(json.loads(index.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False
    models = [name for name in parts if not name.startswith(WITHOUT_WEIGHTS)]
    return all(any((index.parent / name).glob("*.safetensors")) for name in models)
