"""The seam of the house: what a family of base models is, is known behind it alone."""

import re
from pathlib import Path

import pytest

from apt_engine.bases import registry
from apt_engine.bases.base import BaseModel, unanswered
from apt_engine.bases.registry import load_base
from apt_engine.bases.sd import StableDiffusion
from apt_engine.errors import BaseModelError
from apt_engine.jobs.session import train
from apt_engine.photos.photo_set import photos_in, read_photos
from apt_engine.runs.events import ExportReady, Noticed, StepFinished
from apt_engine.runs.store import RunStore
from apt_engine.settings.training import TrainingConfig
from tests.engine.test_bases import stable_diffusion, stable_diffusion_xl
from tests.klein import toy_klein
from tests.z_image import toy_z_image

ROOT = Path(__file__).resolve().parents[2]
ALLOWED = (ROOT / "apt_engine" / "bases", ROOT / "apt_engine" / "lora" / "kohya.py")
PARTS_OF_A_UNET = re.compile(
    r"unet|attn[12]|up_blocks|mid_block|\bto_(q|k|v|out)\b|cross.?attention|[\"']epsilon[\"']|\bepsilon or\b",
    re.IGNORECASE,
)


def test_nothing_but_the_bases_knows_a_part_of_a_unet() -> None:
    files = [ROOT / "app.py", *(path for room in ("apt_engine", "ui") for path in (ROOT / room).rglob("*.py"))]
    told = [
        f"{path.relative_to(ROOT)}:{number} {line.strip()}"
        for path in files
        if not any(path.is_relative_to(place) for place in ALLOWED)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if PARTS_OF_A_UNET.search(line)
    ]
    assert told == []
    assert PARTS_OF_A_UNET.search((ALLOWED[0] / "unet.py").read_text(encoding="utf-8"))


@pytest.mark.parametrize("base", [stable_diffusion(), stable_diffusion_xl(), toy_klein(), toy_z_image()])
def test_a_family_answers_every_question(base: BaseModel) -> None:
    assert unanswered(base) == []


def test_a_base_that_answers_half_of_the_questions_is_refused_when_it_is_loaded(
    toy_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Half:
        """Has a network and the pictures, and nothing that training needs."""

        name = "half"

        @classmethod
        def load(cls, _source: Path, **_: object) -> "Half":
            return cls()

    monkeypatch.setitem(registry.FAMILIES, "StableDiffusionPipeline", Half)
    with pytest.raises(
        BaseModelError, match=r"Half does not say device, dtype, .*draw.*; choose another base model\.$"
    ) as caught:
        load_base(str(toy_base), device="cpu")
    assert "\n" not in str(caught.value)
    assert "name" not in str(caught.value).partition("does not say")[2]


def test_a_base_without_names_elsewhere_is_told_before_the_first_step_and_exported_for_diffusers(
    toy_base: Path, photo_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StableDiffusion, "_kohya", None)
    store = RunStore(tmp_path)
    config = TrainingConfig.from_dict(
        {
            "subject": "car",
            "base": str(toy_base),
            "resolution": 32,
            "steps": 1,
            "sample_every_steps": 0,
            "drift_every_steps": 0,
            "sample_steps": 2,
            "warped_views": 1,
            "sample_prompts": ["a {subject}"],
        }
    )
    run = store.create(config, lambda folder: read_photos(photos_in(photo_dir)).save(folder, 32))
    events = list(train(store, run, lambda: False))
    told = next(number for number, event in enumerate(events) if isinstance(event, Noticed))
    assert "is exported for diffusers alone" in str(events[told])
    assert told < next(number for number, event in enumerate(events) if isinstance(event, StepFinished))
    (export,) = [event for event in events if isinstance(event, ExportReady)]
    assert export.layout == "diffusers"
    assert sorted(path.name for path in (run.path / "exports").iterdir()) == [
        "README.md",
        "zwx_car-000001-diffusers.safetensors",
    ]
