"""A request of the page or the command line, from loading to PNG; base model and LoRA are kept ready between requests."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from apt_engine.bases import hub
from apt_engine.bases.profiles import build_config
from apt_engine.bases.prompts import cut_prompt
from apt_engine.bases.registry import choose_device, choose_dtype, load_base_of
from apt_engine.errors import ConfigError
from apt_engine.lora import adapter, stack
from apt_engine.runs.files import writing
from apt_engine.runs.store import RunStore
from apt_engine.runs.worn import loras_of
from apt_engine.sampling.sampler import Picture, Sampler, Stopped, save_picture
from apt_engine.settings.parameters import write_parameters
from apt_engine.settings.presets import load_presets
from apt_engine.settings.sampling import SampleRequest
from apt_engine.settings.training import TrainingConfig

MOST_AREA = 16  # of a picture, over that of the size the run or the base was made for


class Generator:
    """Serves requests: finds run and checkpoint, keeps the last base model loaded, saves pictures with their settings."""

    def __init__(self) -> None:
        self._sampler: Sampler | None = None
        self._loaded: tuple[str, ...] = ()
        self._worn: list[tuple[Path, int, float]] | None = None  # files on the base, of which time, at which strength
        self._left_out: list[str] = []  # sentences on what of them is not applied

    def forget(self) -> None:
        """Let go of the base model, before something else needs the memory."""
        self._sampler, self._loaded, self._worn = None, (), None

    def generate(
        self,
        store: RunStore,
        request: SampleRequest,
        folder: Path,
        on_progress: Callable[[str, float | None], None],
        on_preview: Callable[[Image.Image], None] | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Path]:
        """Make the pictures of a request into `folder`, one PNG after the other; its run is one of `store`.

        Pictures that lie there already are kept: the new ones are numbered on from the highest.

        A base model is downloaded first where it is not there; `should_stop` is asked meanwhile, even if nothing comes.

        Raises:
            Stopped: it was to stop.
            EngineError: the run, checkpoint or base model cannot be used, the folder not written, or what `on_progress` raises.
        """
        run = store.open(request.run) if request.run else None
        config = run.config if run else build_config(load_presets(), (), {"subject": "thing", "base": request.base})
        worn = loras_of(store, request)
        sampler = self._ready(config, on_progress, should_stop)
        for told in self._put_on(sampler, [(lora.path, lora.strength) for lora in worn]):
            on_progress(told, None)
        prompt = config.fill(request.prompt)
        cut = [said for said in (prompt, request.negative_prompt) if sampler.base.caption_tokens(said).is_cut]
        message = " ".join(["Drawing.", *map(cut_prompt, cut)]) if cut else "Drawing"
        pictures = [
            Picture(
                prompt=prompt,
                negative_prompt=request.negative_prompt,
                seed=request.seed + index,
                steps=request.steps,
                guidance_scale=request.guidance_scale,
                sampler=sampler.fitting(request.sampler),
                width=request.width or config.resolution,
                height=request.height or config.resolution,
            )
            for index in range(request.count)
        ]
        _check_area(config, pictures[0])
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        names = Path(config.base).stem, [(lora.name, lora.strength) for lora in worn]
        images = sampler.generate(pictures, lambda fraction: on_progress(message, fraction), on_preview)
        with adapter.fused(sampler.base.denoiser):
            for number, (picture, image) in enumerate(zip(pictures, images, strict=True), _next_number(folder)):
                path = folder / f"{number:02d}-seed{picture.seed}.png"
                save_picture(image, path, _settings_inside(request, picture, *names))
                while sampler.base.notices:
                    on_progress(sampler.base.notices.pop(0), None)
                yield path

    def _put_on(self, sampler: Sampler, loras: list[tuple[Path, float]]) -> list[str]:
        """Give the base its LoRAs, unless it has them already, as within a grid; returns what of them is not applied."""
        wanted = [(path, path.stat().st_mtime_ns if path.is_file() else 0, strength) for path, strength in loras]
        if wanted != self._worn:
            self._worn = None  # what is raised here leaves the base without any
            self._left_out = stack.put_on(sampler.base, loras)
            self._worn = wanted
        return self._left_out

    def _ready(
        self,
        config: TrainingConfig,
        on_progress: Callable[[str, float | None], None],
        should_stop: Callable[[], bool],
    ) -> Sampler:
        wanted = (config.base, config.device, config.dtype, config.attention, config.base_precision)
        if self._sampler is None or self._loaded != wanted:
            self.forget()
            is_half = choose_dtype(config.dtype, choose_device(config.device)) != torch.float32
            for done, total in hub.fetch(config.base, is_half=is_half, should_stop=should_stop):
                on_progress(hub.described(config.base, done, total), done / total)
            if should_stop():
                raise Stopped("Stopped, as asked.")
            on_progress(f"Loading {config.base}", None)
            base = load_base_of(config)
            self._sampler, self._loaded = Sampler(base), wanted
        return self._sampler


def _check_area(config: TrainingConfig, picture: Picture) -> None:
    """A picture far larger than the base was made for shows nothing sensible, and attention to all of it takes any memory."""
    if picture.width * picture.height > MOST_AREA * config.resolution**2:
        side = int(MOST_AREA**0.5) * config.resolution
        raise ConfigError(
            f"{picture.width} x {picture.height} px are too many for {config.base}; choose at most {side} x {side}."
        )


def _next_number(folder: Path) -> int:
    """The number after the highest that begins a picture's name, 1 in an empty folder."""
    numbers = (path.name.partition("-")[0] for path in folder.glob("*-seed*.png"))
    return max((int(number) for number in numbers if number.isdecimal()), default=0) + 1


def _settings_inside(request: SampleRequest, picture: Picture, model: str, loras: list[tuple[str, float]]) -> PngInfo:
    """The settings as other programs read them ("parameters") and as ours does, inside the PNG."""
    own = request.replace(seed=picture.seed, count=1)
    size = (picture.width, picture.height)
    info = PngInfo()
    used = own.replace(sampler=picture.sampler)
    info.add_itxt("parameters", write_parameters(used, prompt=picture.prompt, size=size, model=model, loras=loras))
    info.add_itxt("apt_studio", json.dumps(own.without_folders().to_dict()))
    return info
