"""A training of a base model of real size with random weights, on this machine: `python -m benchmarks.real_size sdxl`.

Three photos, steps of APT in bf16 with gradient checkpointing, one picture, export, verification, and the file loaded anew.
Prints seconds and peak memory of each stage, the pages of the model's own files counted once while they are in use. Linux alone
tells them. Of klein and Z-Image transformer and VAE have their real size, the language model the real width of its states.
"""

import argparse
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from apt_engine.bases.checkpoints import ASSETS, TOKENIZER_DIR
from apt_engine.jobs.session import train
from apt_engine.photos.photo_set import photos_in, read_photos
from apt_engine.runs.events import ExportReady, StageChanged, StepFinished
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig
from apt_engine.training.watch import Watched
from benchmarks import flow_shapes

PHOTOS = Path(__file__).resolve().parents[1] / "assets" / "examples" / "teddy_bear"
DTYPE = torch.bfloat16
FLOW = ("klein", "z-image")
# A prime: no two rows of a matrix are alike.
_NORMAL = torch.randn(4_194_301, generator=torch.Generator().manual_seed(0)) * 0.02


def make_base(family: str, folder: Path) -> None:
    """Write a model with the shapes of a family, in the layout of diffusers; its pictures are noise."""
    configs = ASSETS / family
    parts = flow_shapes.parts(family) if family in FLOW else _parts(configs)
    for part, build in parts.items():
        with torch.device("meta"):
            module: Any = build()
        module.to(dtype=DTYPE).to_empty(device="cpu")
        _fill(module)
        module.save_pretrained(folder / part)
        del module  # before the next is made
        if family not in FLOW and part.startswith("text_encoder"):
            CLIPTokenizer.from_pretrained(TOKENIZER_DIR).save_pretrained(
                folder / part.replace("text_encoder", "tokenizer")
            )
    if family in FLOW:
        flow_shapes.write_rest(family, folder)
        return
    shutil.copytree(configs / "scheduler", folder / "scheduler")
    shutil.copy(configs / "model_index.json", folder)  # last: what breaks off before is no model


def _parts(configs: Path) -> dict[str, Callable[[], nn.Module]]:
    """How each part is built, by the name of its folder."""
    parts: dict[str, Callable[[], nn.Module]] = {
        "unet": lambda: UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(configs / "unet")),
        "vae": lambda: AutoencoderKL.from_config(AutoencoderKL.load_config(configs / "vae")),
        "text_encoder": lambda: CLIPTextModel(CLIPTextConfig.from_pretrained(configs / "text_encoder")),
    }
    if (configs / "text_encoder_2").exists():
        second = CLIPTextConfig.from_pretrained(configs / "text_encoder_2")
        parts["text_encoder_2"] = lambda: CLIPTextModelWithProjection(second)
    return parts


@torch.no_grad()
def _fill(module: nn.Module) -> None:
    """Random matrices, and norms that change nothing."""
    for name, value in (*module.named_parameters(), *module.named_buffers()):
        if name.endswith("position_ids"):
            value.copy_(torch.arange(value.shape[-1])[None])
        elif value.dim() > 1:
            _fill_matrix(value)
        else:
            value.fill_(0 if name.endswith("bias") else 1)


def _fill_matrix(value: torch.Tensor) -> None:
    """With normal numbers that come again after some four millions: to draw billions takes minutes."""
    numbers = value.view(-1)
    for begin in range(0, len(numbers), len(_NORMAL)):
        part = numbers[begin : begin + len(_NORMAL)]
        part.copy_(_NORMAL[: len(part)])


def layers_seen() -> dict[str, set[str]]:
    """Of features and of maps, the layers that the tuned pass is held against from now on."""
    seen: dict[str, set[str]] = {"features": set(), "maps": set()}

    def note(kind: str, method: str) -> None:
        own = getattr(Watched, method)

        def noting(self: Watched, name: str, value: Any) -> None:
            if self.is_tuned:
                seen[kind].add(name)
            own(self, name, value)

        setattr(Watched, method, noting)

    note("features", "on_features")
    note("maps", "on_attention")
    return seen


def peak_bytes() -> int:
    """The most memory of this process since it was asked last."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return int(status["VmHWM"].split()[0]) * 1024


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="One step of training of a base model of real size.")
    parser.add_argument("family", choices=("sd15", "sd2", "sdxl", *FLOW))
    parser.add_argument(
        "--folder", type=Path, default=Path(".bench"), help="model and run are kept there (%(default)s)"
    )
    parser.add_argument("--resolution", type=int, default=512)
    parser.add_argument("--steps", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = options.folder / f"{options.family}-random"
    if not (model / "model_index.json").exists():
        make_base(options.family, model)
    size = sum(path.stat().st_size for path in model.rglob("*.safetensors"))
    print(f"{options.family}, weights of {size / 1e9:.2f} GB in bf16 on disk, {options.resolution} px\n")
    print("| stage | seconds | peak GB |\n| --- | ---: | ---: |")
    config = TrainingConfig.from_dict(
        {
            "subject": "teddy bear",
            "base": str(model),
            "resolution": options.resolution,
            "device": "cpu",
            "dtype": "bf16",
            "gradient_checkpointing": True,
            "steps": options.steps,
            "warped_views": 1,
            "sample_every_steps": 0,
            "drift_every_steps": 0,
            "sample_prompts": ["a photo of a {subject}"],
            "sample_steps": 1,
        }
    )
    seen = layers_seen()
    store = RunStore(options.folder / "runs")
    photos = read_photos(photos_in(PHOTOS)[:3])
    run = store.create(config, lambda folder: photos.save(folder, config.resolution))
    stage, started = "start", time.monotonic()
    peak_bytes()

    def end(done: str, following: str) -> None:
        nonlocal stage, started
        print(f"| {done} | {time.monotonic() - started:.0f} | {peak_bytes() / 1e9:.2f} |", flush=True)
        stage, started = following, time.monotonic()

    for event in train(store, run, lambda: False):
        match event:
            case StageChanged() if event.stage != stage:
                end(stage, event.stage)
            case StepFinished():
                end(f"one step, loss {event.loss:.3f}" + ", skipped" * event.was_skipped, "checkpoint")
            case ExportReady():
                end(f"{event.layout}, {event.keys} keys, pixels differ by at most {event.difference:.4f}", stage)
            case _:
                pass
    print(
        f"\n{len(seen['features'])} layers' features and {len(seen['maps'])} layers' maps were seen in the tuned pass."
    )


if __name__ == "__main__":
    main()
