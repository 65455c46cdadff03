"""The folders of other programs that the base models of the list are looked for in, kept in the data directory."""

import json
from collections.abc import Sequence
from pathlib import Path

from apt_engine.errors import ConfigError
from apt_engine.reading.regular import is_folder, read_json
from apt_engine.runs.files import write_atomically
from apt_engine.settings.presets import at_home

REMEMBERED = "model-folders.json"
LONGEST_SHOWN = 300  # letters of a path that is none


def remembered(data_dir: Path) -> list[Path]:
    """The folders pointed at; none where nothing was, or the list cannot be read."""
    try:
        return [Path(str(folder)) for folder in read_json(data_dir / REMEMBERED)["folders"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def remember(data_dir: Path, folders: Sequence[str]) -> list[Path]:
    """Keep a list of folders in place of the one before.

    Raises:
        ConfigError: one is not there; the old list stays.
        DiskError: it cannot be written.
    """
    paths = [at_home(folder.strip()) for folder in folders if folder.strip()]
    missing = next((path for path in paths if not is_folder(path)), None)
    if missing:
        raise ConfigError(
            f"The model folder {str(missing)[:LONGEST_SHOWN]} is not there; check the path and the drive."
        )
    write_atomically(data_dir / REMEMBERED, json.dumps({"folders": [str(path) for path in paths]}).encode())
    return paths
