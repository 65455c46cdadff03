"""What an exported file says about itself, in its header: by the model specification 1.0.1, and in words of our own, `apt.*`.

https://github.com/Stability-AI/ModelSpec; nothing of whoever trained it: no folder, no name, no time. Equal trainings give
equal files.
"""

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import Image

THUMBNAIL_SIDE = 256  # px, as the specification recommends
FOR_KOHYA = "For ComfyUI, Forge, AUTOMATIC1111 and other programs that read kohya's layout."
FOR_DIFFUSERS = "For diffusers' load_lora_weights and APT Studio, with the base model it was trained on."
FOR_COMFYUI = "For ComfyUI, diffusers' load_lora_weights and APT Studio, with the base model it was trained on."
NOT_FOR_OTHERS = "Other programs take the file beside this one, without -diffusers in its name."
FOR_ALL = "A whole checkpoint, the LoRA inside: for ComfyUI, Forge, AUTOMATIC1111, diffusers' from_single_file and APT Studio."


@dataclass(frozen=True, kw_only=True)
class ExportInfo:
    """What a file for other programs says about itself.

    Attributes:
        name: title of the LoRA; shown to strangers, so no path.
        resolution: side of the training pictures in pixels.
        trigger_phrase: the words in a prompt that mean the subject.
        thumbnail: a picture of it, see `thumbnail`; empty for none.
        details: how it was trained, by names without `apt.`.
    """

    name: str
    resolution: int
    trigger_phrase: str
    thumbnail: str = ""
    details: Mapping[str, str] = field(default_factory=dict)

    def header(self, architecture: str, hint: str, *, prediction: str = "") -> dict[str, str]:
        """The entries of a safetensors header.

        Args:
            architecture: in the specification's words; with `/lora` behind it where it is one.
            hint: what the file is for.
            prediction: what the model predicts, in the specification's words; empty where it has none for it.
        """
        said = {
            "sai_model_spec": "1.0.1",
            "architecture": architecture,
            "implementation": "diffusers",
            "title": self.name,
            "resolution": f"{self.resolution}x{self.resolution}",
            "prediction_type": prediction,
            "trigger_phrase": self.trigger_phrase,
            "usage_hint": f"Write {self.trigger_phrase} in the prompt. {hint}",
            "thumbnail": self.thumbnail,
        }
        spec = {f"modelspec.{name}": value for name, value in said.items() if value}
        return {**spec, **{f"apt.{name}": value for name, value in self.details.items()}}


def thumbnail(image: Image.Image) -> str:
    """A picture as the text that stands in a header: a small JPEG without metadata, some 10 kB."""
    small = Image.new("RGB", image.size)
    small.paste(image)  # pixels alone
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    content = io.BytesIO()
    small.save(content, format="JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()
