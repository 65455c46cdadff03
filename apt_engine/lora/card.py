"""The model card that lies beside exported files as README.md: what they are, how each is used, how it was trained."""

import json
from dataclasses import dataclass
from pathlib import Path

from apt_engine import VERSION
from apt_engine.lora.about import ExportInfo
from apt_engine.reading.regular import read_regular
from apt_engine.runs.files import write_atomically

NAME = "README.md"
MARK = "<!-- written by APT Studio; it is written anew at each export until this line is gone -->"
LARGEST = 1_000_000  # bytes
PURPOSES = {
    "kohya": "ComfyUI (`models/loras`), Forge and AUTOMATIC1111 (`models/Lora`)",
    "diffusers": "diffusers and APT Studio",
    "merged": "the whole model with the LoRA inside: ComfyUI (`models/checkpoints`), Forge, AUTOMATIC1111, diffusers",
}


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a card tells.

    Attributes:
        info: what the files say about themselves.
        base: how strangers know the base model: its hub id, or its kind.
        hub_id: of the base; empty where it has none.
        caption: of the photos, filled in.
        files: exported files by layout: kohya, diffusers, merged.
    """

    info: ExportInfo
    base: str
    hub_id: str
    caption: str
    files: dict[str, str]

    def __str__(self) -> str:
        phrase = self.info.trigger_phrase
        files = "\n".join(f"| `{name}` | {PURPOSES[layout]} |" for layout, name in self.files.items())
        details = "\n".join(f"| {name.replace('_', ' ')} | {value} |" for name, value in self.info.details.items())
        return "\n".join(
            [
                *self._front_matter(),
                MARK,
                "",
                f"# {_plain(phrase)}",
                "",
                f"A LoRA for {self.base}, trained on a few photos with APT Studio {VERSION}.",
                f"In a prompt, `{_plain(phrase)}` means the thing that was trained.",
                "",
                "| file | for |",
                "| --- | --- |",
                files,
                "",
                *self._diffusers(),
                "## How it was trained",
                "",
                "| | |",
                "| --- | --- |",
                f"| resolution | {self.info.resolution} px |",
                details,
                "",
                "The licence of the base model holds for these files too.",
                "",
            ]
        )

    def _front_matter(self) -> list[str]:
        base = [f"base_model: {json.dumps(self.hub_id)}", "base_model_relation: adapter"] if self.hub_id else []
        tags = ["text-to-image", "lora", "diffusers", "apt-studio"]
        said = f"instance_prompt: {json.dumps(self.caption)}"
        return ["---", *base, "library_name: diffusers", "tags:", *(f"- {tag}" for tag in tags), said, "---"]

    def _diffusers(self) -> list[str]:
        """How diffusers loads it, where the base can be had from the hub."""
        if not self.hub_id or "diffusers" not in self.files:
            return []
        return [
            "```python",
            "from diffusers import AutoPipelineForText2Image",
            "",
            f"pipeline = AutoPipelineForText2Image.from_pretrained({json.dumps(self.hub_id)})",
            f"pipeline.load_lora_weights({json.dumps(self.files['diffusers'])})",
            f"pipeline({json.dumps(self.caption + ' on the beach')}).images[0]",
            "```",
            "",
        ]


def write(card: Card, folder: Path) -> Path | None:
    """Write a card into a folder; returns its path, or None where a README.md lies there that is not ours.

    Raises:
        DiskError: it cannot be written.
    """
    path = folder / NAME
    if path.exists():
        try:
            if MARK.encode() not in read_regular(path, LARGEST):
                return None
        except OSError:
            return None
    write_atomically(path, str(card).encode())
    return path


def _plain(text: str) -> str:
    """Without what Markdown or HTML would make something of."""
    return "".join(letter for letter in text if letter not in "`<>|[]#*_\n\r\\")
