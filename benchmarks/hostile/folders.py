"""Run folders that are damaged, or were made to do harm, each by a name: a function that does it to a whole run's folder."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path], object]
PARTS = ("config.json", "events.jsonl", "title.txt", "photos", "samples", "checkpoints", "exports")
TEXTS = {
    "empty": b"",
    "no JSON": b"{",
    "a list": b"[]",
    "null": b"null",
    "a number": b"3",
    "a pair": b'[["subject", "cat"]]',
    "no UTF-8": b"\xff\xfe",
    "20,000 deep": b"[" * 20_000,
    "another type": b'{"subject": {"a": 1}, "steps": [], "sample_prompts": 3}',
    "null values": b'{"subject": null, "steps": null, "sample_prompts": null}',
    "huge numbers": b'{"subject": "cat", "steps": ' + b"9" * 4000 + b', "rank": 1e400}',
    "NaN": b'{"subject": "cat", "learning_rate": NaN}',
    "half a surrogate": b'{"subject": "\\ud800"}',
    "a newer setting": b'{"subject": "cat", "dreams": 3}',
    "no subject": b"{}",
    "50 MB": b'{"subject": "' + b"x" * 50_000_000 + b'"}',
    "a million letters": b'{"subject": "' + b"x" * 1_000_000 + b'"}',
}


def damages() -> dict[str, Damage]:
    """Every kind of damage."""
    found: dict[str, Damage] = {}
    for part in PARTS:
        found |= {
            f"{part} is gone": lambda run, part=part: _remove(run / part),
            f"{part} is the other kind": lambda run, part=part: _turn(run / part),
            f"{part} is a loop of links": lambda run, part=part: _remove(run / part).symlink_to(run / part),
            f"{part} leads to a device": lambda run, part=part: _remove(run / part).symlink_to("/dev/zero"),
        }
        if hasattr(os, "mkfifo"):
            found[f"{part} is a pipe"] = lambda run, part=part: os.mkfifo(_remove(run / part))
    for name, text in TEXTS.items():
        found[f"config.json is {name}"] = lambda run, text=text: (run / "config.json").write_bytes(text)
        found[f"manifest.json is {name}"] = lambda run, text=text: _manifest(run).write_bytes(text)
        found[f"captions.json is {name}"] = lambda run, text=text: (run / "photos/captions.json").write_bytes(text)
        found[f"title.txt is {name}"] = lambda run, text=text: (run / "title.txt").write_bytes(text)
    found |= {
        "a checkpoint of a superscript": lambda run: _manifest(run).parent.rename(run / "checkpoints" / "1²"),
        "a checkpoint of 5,000 digits": lambda run: (run / "checkpoints" / ("9" * 200)).mkdir(),
        "a checkpoint that is a file": lambda run: (run / "checkpoints/000002").touch(),
        "a manifest that names other files": lambda run: _manifest(run).write_text(
            json.dumps({"sha256": {"lora.safetensors": "0", "/etc/passwd": "0", "../../config.json": "0"}}),
        ),
        "a weight that is a pipe": lambda run: os.mkfifo(_remove(_manifest(run).with_name("lora.safetensors"))),
        "a photo that is a folder": lambda run: _turn(run / "photos/01.png"),
        "a photo that is a pipe": lambda run: os.mkfifo(_remove(run / "photos/01.png")),
        "a name that is no UTF-8": lambda run: run.rename(Path(os.fsdecode(os.fsencode(run) + b"\xff"))),
        **{
            f"a file of {place} whose name is no UTF-8": lambda run, place=place: _odd(run / place).touch()
            for place in ("photos", "samples", "exports")
        },
        "photos whose names are no UTF-8": lambda run: (run / "photos/01.png").rename(_odd(run / "photos")),
        "a name with a script": lambda run: run.rename(run.with_name("<script>alert(1)<")),
        "a name with a new line": lambda run: run.rename(run.with_name("a\nb")),
        "a folder that leads elsewhere": lambda run: _remove(run).symlink_to("/etc"),
        "a folder of its own": lambda run: _remove(run).symlink_to(run),
        "a file": _turn,
        "ten thousand files": lambda run: [(run / "samples" / f"{number}.png").touch() for number in range(10_000)],
    }
    return found


def _manifest(run: Path) -> Path:
    return run / "checkpoints/000001/manifest.json"


def _odd(folder: Path) -> Path:
    return folder / os.fsdecode(b"0\xff.png")


def _remove(path: Path) -> Path:
    """Take a file or folder away; returns where it was."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return path


def _turn(path: Path) -> None:
    """Put a folder in place of a file, or a file in place of a folder."""
    was_folder = path.is_dir()
    _remove(path)
    path.touch() if was_folder else path.mkdir()
