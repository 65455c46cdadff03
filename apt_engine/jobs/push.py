"""Exported files to a repository of the Hugging Face hub, in the name of whoever's token this computer has.

The token comes from the environment (HF_TOKEN), from the system's keyring where the `keyring` package is installed (service
`huggingface`, user `apt-studio`), or from `hf auth login`. It is sent to the hub alone, and stands in no setting, file or log.
"""

import contextlib
import importlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from apt_engine.errors import ConfigError, EngineError
from apt_engine.runs.events import ExportReady

MODEL_CARD = "README.md"  # where the hub looks for it
KEYRING = ("huggingface", "apt-studio")  # service and user
REPOSITORY = re.compile(r"[\w\-.]{1,96}/[\w\-.]{1,96}", re.ASCII)
# Which client the hub's library speaks HTTP with depends on its version: httpx, or its successor.
HTTPError: type[Exception] = HfHubHTTPError.__bases__[0]


def send(folder: Path, written: Sequence[ExportReady], repository: str, *, is_public: bool) -> str:
    """Send files just written into a folder, with their model card; returns the address. Errors as of `push`."""
    cards = [path for path in [folder / MODEL_CARD] if path.is_file()]
    files = [folder / Path(event.path).name for event in written]
    message = f"Step {written[0].step}, by APT Studio"
    return push(repository, [*cards, *files], is_public=is_public, message=message)


def push(repository: str, files: Sequence[Path], *, is_public: bool, message: str) -> str:
    """Put files into a repository, made if it is not there, in one commit; returns its address.

    Args:
        repository: OWNER/NAME.
        files: go to the top of the repository; a file of that name is replaced.
        is_public: whether a repository that is made now can be seen by all; one that is there stays as it is.
        message: of the commit.

    Raises:
        EngineError: there is no token, the name is none, or the hub does not take the files.
    """
    if not REPOSITORY.fullmatch(repository):
        raise ConfigError(f"{repository} is not the name of a repository on the hub; write it as OWNER/NAME.")
    token = _token()
    if not token:
        raise ConfigError(
            "The hub wants to know who you are; set HF_TOKEN to a token that may write, or log in: hf auth login."
        )
    hub = HfApi(token=token)
    operations = [CommitOperationAdd(path_in_repo=path.name, path_or_fileobj=path) for path in files]
    try:
        made = hub.create_repo(repository, private=not is_public, exist_ok=True)
        hub.create_commit(repository, operations, commit_message=message)
    except OfflineModeIsEnabled:
        raise EngineError("The hub is switched off here (HF_HUB_OFFLINE); unset it to send files.") from None
    except HfHubHTTPError as error:
        raise EngineError(_refusal(repository, error)) from error
    except (HTTPError, OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise EngineError(
            f"The files could not be sent to {repository} ({reason}); check the network and send them again."
        ) from error
    return str(made)


def _token() -> str | None:
    """The token; the environment's first, so that one run can be another account's."""
    if os.environ.get("HF_TOKEN"):
        return os.environ["HF_TOKEN"].strip()
    # Not installed, locked, or no keyring on this system: each has errors of its own.
    with contextlib.suppress(Exception):
        found = importlib.import_module("keyring").get_password(*KEYRING)
        if found:
            return str(found)
    return get_token()


def _refusal(repository: str, error: HfHubHTTPError) -> str:
    status = error.response.status_code
    if status in (401, 403):
        return f"The hub does not let this account write to {repository}; check the name, and that the token may write."
    if status == 404:
        return f"The hub knows no account or repository for {repository}; check the name."
    return f"The hub did not take the files for {repository} (it answered {status}); send them again later."
