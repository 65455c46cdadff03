"""The process that asks the hub for a model and loads it: `python -m apt_engine.bases.download OWNER/NAME half|full`.

It writes JSON lines: {"total": bytes} once it knows what to load, {"error": sentence} where the model cannot be had or used,
{"interrupted": reason} where another try may help. It ends when its parent is gone. Imports no torch.
"""

import errno
import json
import os
import shutil
import sys
import threading
from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import logging

from apt_engine.bases import variants
from apt_engine.bases.hub import NOT_NEEDED, SECONDS_OF_SILENCE, WITHOUT_WEIGHTS
from apt_engine.errors import BaseModelError

# Which client the hub's library speaks HTTP with depends on its version: httpx, or its successor.
HTTPError: type[Exception] = HfHubHTTPError.__bases__[0]
TEXTS = (".json", ".txt", ".model", ".jinja")
HALF = ".fp16."
FULL = "The disk of {} is full before {} is all there; free some and try again, the files that arrived whole are kept."
FREE_AFTERWARDS = 1_000_000_000  # bytes; the sentence says so


def main() -> int:
    """Load one model."""
    name, precision = sys.argv[1:3]
    logging.set_verbosity(logging.CRITICAL)  # of each cut it would write three lines, in its own words
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _load(name, is_half=precision == "half")
    except BaseModelError as error:
        _say("error", str(error))
    except (OSError, ValueError, RuntimeError, HTTPError) as error:
        _say(*_sentence(name, error))
    return 0


def chosen_files(sizes: dict[str, int], *, is_half: bool) -> dict[str, int]:
    """Of a repository's files, those a pipeline is loaded from, with their bytes.

    Configs and words always; of the weights of each part one format and one precision. The VAE stays in full precision, as it
    computes. Where a part has half precision alone, that is taken.
    """
    texts = {name: size for name, size in sizes.items() if name == "model_index.json" or _is_part(name, TEXTS)}
    chosen = dict(texts)
    weights = [name for name in sizes if _is_part(name, (".safetensors",))]
    for part in dict.fromkeys(name.split("/")[0] for name in weights):
        own = [name for name in weights if name.startswith(f"{part}/")]
        plain = [name for name in own if _stem(name).count(".") == 0]
        half = [name for name in own if HALF in name]
        chosen |= {
            name: sizes[name] for name in (half if half and ((is_half and part != "vae") or not plain) else plain)
        }
    return chosen


def _load(name: str, *, is_half: bool) -> None:
    info = HfApi().model_info(name, files_metadata=True, timeout=SECONDS_OF_SILENCE)
    sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
    if "model_index.json" not in sizes:
        raise BaseModelError(
            f"{name} on the hub is not in diffusers layout; choose a model that is, or give a local file."
        )
    files = chosen_files(sizes, is_half=is_half)
    small = [file for file in files if file.endswith(TEXTS)]
    folder = Path(snapshot_download(name, revision=info.sha, allow_patterns=small))
    _refuse_others(name, folder, files)
    _refuse_full_disk(name, folder, files)
    _say("total", sum(files.values()))
    snapshot_download(name, revision=info.sha, allow_patterns=list(files))


def _refuse_full_disk(name: str, folder: Path, files: dict[str, int]) -> None:
    """Before weights are fetched: room for those that are not in a model's folder yet."""
    needed = sum(size for file, size in files.items() if not (folder / file).exists()) + FREE_AFTERWARDS
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise BaseModelError(
            f"{name} needs {needed / 1e9:.2f} GB, 1 GB of it to spare, and the disk of {constants.HF_HUB_CACHE} has "
            f"{free / 1e9:.2f} GB free; free some."
        )


def _refuse_others(name: str, folder: Path, files: Iterable[str]) -> None:
    """Before its weights are fetched: a family that is supported, and weights that cannot run code."""
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    kind = str(index.get("_class_name"))
    if kind not in variants.PIPELINES:
        raise BaseModelError(f"{name} is a {kind}; supported are {', '.join(variants.PIPELINES)}.")
    if "unet" in index:
        variants.refuse_others(name, folder, index)
    for part, value in index.items():
        has_weights = isinstance(value, list) and value[:1] != [None] and not part.startswith(WITHOUT_WEIGHTS)
        if (
            has_weights
            and part not in NOT_NEEDED
            and not any(file.startswith(f"{part}/") and file.endswith(".safetensors") for file in files)
        ):
            raise BaseModelError(
                f"{name} has no .safetensors weights for its {part}; choose a model whose weights cannot run code."
            )


def _sentence(name: str, error: Exception) -> tuple[str, str]:
    """What went wrong, and whether another try may help."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    match error:
        case OfflineModeIsEnabled():
            return "error", f"{name} is not on this computer, and the hub is switched off here (HF_HUB_OFFLINE)."
        case GatedRepoError():
            return "error", (
                f"{name} is given to those alone who accept its terms; accept them on its page of the hub, and set HF_TOKEN."
            )
        case RepositoryNotFoundError():
            return "error", f"The hub knows no model {name}; check the name, or set HF_TOKEN where it is private."
        case HfHubHTTPError() if error.response.status_code in (401, 403):
            return "error", (
                f"The hub does not give {name} to this account; check HF_TOKEN, and on its page of the hub whether your account "
                "may have it."
            )
        case HfHubHTTPError():
            return "interrupted", f"the hub answered {error.response.status_code}"
        case _ if isinstance(error, LocalEntryNotFoundError) or type(error).__name__.startswith("Connect"):
            return "interrupted", "the hub cannot be reached; check the network, or give a local folder or file"
        case _ if isinstance(error, HTTPError):
            return "interrupted", f"the network failed, {reason}"
        case _:
            is_full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
            told = FULL.format(constants.HF_HUB_CACHE, name) if is_full else f"{name} cannot be downloaded ({reason})."
            return "error", told


def _is_part(name: str, endings: tuple[str, ...]) -> bool:
    parts = name.split("/")
    return len(parts) == 2 and parts[0] not in NOT_NEEDED and name.endswith(endings)


def _stem(name: str) -> str:
    return name.split("/")[1].rsplit(".", 1)[0]


def _say(kind: str, value: str | int) -> None:
    print(json.dumps({kind: value}), flush=True)


def _end_with_parent() -> None:
    """The parent holds the other end of our input; where it is killed, that closes."""
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
