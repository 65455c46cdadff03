"""The whole recipe of the pocket model on a world of a few pictures: its own tiny icon pack, furniture and panorama."""

import base64
import json
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline, StableDiffusionPipeline
from diffusers.models.transformers import transformer_flux2
from PIL import Image
from safetensors.torch import load_file

pytest.importorskip("resvg_py", reason="needs tools/pocket/requirements.txt")
pytest.importorskip("mitsuba", reason="needs tools/pocket/requirements.txt")

from benchmarks.judge import Judge
from tools.pocket import (
    autoencoder,
    export,
    flow,
    flow_speed,
    judge,
    panoramas,
    solids,
    sprites,
    subjects,
    unet,
    vocabulary,
    world,
)
from tools.pocket.autoencoder import build_autoencoder, train_autoencoder
from tools.pocket.flow_export import export_flow_pipeline
from tools.pocket.furniture import read_model
from tools.pocket.judge import export_judge, train_judge
from tools.pocket.settings import Workplace
from tools.pocket.sources import MissingSourceError
from tools.pocket.tokenizer import train_tokenizer
from tools.pocket.unet import train_unet

# Said once a process where bf16 autocast meets an RMS norm with fp32 weights; slower on a GPU, and right.
pytestmark = pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
CUBE = """mtllib cube.mtl
v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nv 0 0 1\nv 1 0 1\nv 1 1 1\nv 0 1 1
vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1
usemtl painted
f 1/1 4/2 3/3 2/4\nf 5/1 6/2 7/3 8/4\nf 1/1 2/2 6/3 5/4
usemtl clear
f 4 8 7 3\nf -8 -4 -1 -5\nf 2 3 7 6
"""
MATERIALS = "newmtl painted\nKd 1 0 0\nmap_Kd paint.png\nnewmtl clear\nKd 0 0 1\nd 0.9\n"
CATALOGUE = """id#7=cube
name#7=Cube
model#7=/models/cube.obj
creator#7=Nobody
width#7=20
depth#7=10
height#7=40
modelRotation#7=1 0 0 0 1 0 0 0 1
"""


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A workplace with sources, and a vocabulary that needs no others."""
    place = Workplace(
        root=tmp_path / "work", assets=tmp_path / "assets", flow_assets=tmp_path / "flow", chunk=20, held_out=12
    )
    _write_pack(place.packs)
    _write_furniture(place.furniture)
    _write_panorama(place.modules)
    flat, solid = {"owl": ("fluent-emoji:owl",)}, {"lamp": ("Tiny:7",), "owl": ("Tiny:7",)}
    objects = {"owl": (*flat["owl"], *solid["owl"]), "lamp": solid["lamp"]}
    for module in (vocabulary, sprites, solids, world, export):
        for name, value in (("FLAT", flat), ("SOLID", solid), ("OBJECTS", objects)):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(world, "_OBJECT_NAMES", tuple(objects))
    for name, value in (("VIEWS", 2), ("PLAIN_VIEWS", 1), ("RENDER_SIZE", 24), ("SAMPLES", 2), ("LIGHTS", ("tiny",))):
        monkeypatch.setattr(solids, name, value)
    for module in (autoencoder, unet, judge, flow):
        monkeypatch.setattr(module, "BATCH", 4)
    monkeypatch.setattr(panoramas, "PANORAMAS", {"park": ("tiny",)})
    monkeypatch.setattr(flow_speed, "can_compile", lambda: False)  # it takes longer than all the rest
    # One worker is this process, which other tests of the transformer come after.
    monkeypatch.setattr(transformer_flux2, "dispatch_attention_fn", transformer_flux2.dispatch_attention_fn)
    monkeypatch.setattr(world, "PANORAMAS", dict.fromkeys(panoramas_of_places(), ("tiny",)))
    return place


def panoramas_of_places() -> list[str]:
    """The places that only photographs show."""
    return ["park", "room", "lobby", "workshop", "warehouse", "square"]


def test_from_sources_to_a_pipeline_that_draws_and_a_judge_that_looks(workplace: Workplace, tmp_path: Path) -> None:
    solids.render_solids(workplace, processes=1)
    drawn = world.draw_world(workplace, 60, processes=1)
    assert drawn.images.shape == (60, 64, 64, 3)
    assert drawn.training_count == 48
    assert drawn.images.std() > 20
    for _ in range(2):  # the second start goes on from the checkpoint
        train_autoencoder(workplace, time.time() + 0.1, workers=1)
    train_tokenizer(workplace)
    train_unet(workplace, time.time() + 0.1, workers=1)
    train_judge(workplace, time.time() + 0.1, workers=1)
    accuracy = export_judge(workplace, tmp_path / "judge.safetensors")
    assert set(accuracy) == {"pictures", "reconstructions"}

    export.export_pipeline(workplace)
    pipeline = StableDiffusionPipeline.from_pretrained(workplace.assets, torch_dtype=torch.float32)
    (picture,) = pipeline("a photo of an owl in the park", num_inference_steps=2).images
    assert picture.size == (64, 64)
    (seen,) = Judge(tmp_path / "judge.safetensors").look([picture])
    assert seen.place in vocabulary.PLACE_NAMES
    assert seen.treatment in vocabulary.TREATMENTS

    flow.train_flow(workplace, time.time() + 0.1, workers=1)
    export_flow_pipeline(workplace)
    stock = Flux2KleinPipeline.from_pretrained(workplace.flow_assets, torch_dtype=torch.float32)
    prompt = {"prompt": "a photo of an owl in the park", "num_inference_steps": 2, "max_sequence_length": 24}
    (picture,) = stock(**prompt, height=64, width=64, generator=torch.Generator().manual_seed(0)).images
    assert picture.size == (64, 64)
    assert np.asarray(picture).std() > 1


def test_a_flow_training_that_was_interrupted_equals_one_that_was_not(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    solids.render_solids(workplace, processes=1)
    world.draw_world(workplace, 20, processes=1)
    build_autoencoder().save_pretrained(workplace.assets / "vae")
    flow.train_flow(workplace, time.time() - 1, workers=1)  # the deadline is over: one step, and a checkpoint
    once = load_file(workplace.checkpoint("flow"))
    flow.train_flow(workplace, time.time() - 1, workers=1)
    resumed = load_file(workplace.checkpoint("flow"))
    workplace.checkpoint("flow").unlink()
    monkeypatch.setattr(flow, "Clock", _TwoSteps)
    flow.train_flow(workplace, time.time() - 1, workers=1)
    at_once = load_file(workplace.checkpoint("flow"))
    assert resumed.keys() == at_once.keys()
    assert all(torch.equal(resumed[key], at_once[key]) for key in resumed)
    assert any(not torch.equal(resumed[key], once[key]) for key in resumed)


def test_a_world_of_other_words_is_not_read(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    solids.render_solids(workplace, processes=1)
    world.draw_world(workplace, 20, processes=1)
    monkeypatch.setattr(world, "OBJECTS", {"owl": ("fluent-emoji:owl",)})
    with pytest.raises(FileNotFoundError, match="delete the folder, draw anew"):
        world.open_world(workplace)


def test_an_interrupted_rendering_goes_on_where_it_was(workplace: Workplace) -> None:
    solids.render_solids(workplace, processes=1)
    first, second = sorted(workplace.solids.iterdir())
    kept = second.stat().st_mtime_ns
    again = first.read_bytes()
    first.unlink()
    solids.render_solids(workplace, processes=1)
    assert first.read_bytes() == again
    assert second.stat().st_mtime_ns >= kept


def test_a_subject_is_photographed_in_eight_places_five_to_train_on(
    workplace: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = subjects.Subject(key="cube", name="lamp", model="Tiny:7", role="evidence")
    monkeypatch.setattr(subjects, "SUBJECTS", (subject,))
    monkeypatch.setattr(
        subjects, "SCENES", (("tiny", "wood"), ("tiny", "grass"), ("tiny", "stone"), ("tiny", "carpet")) * 2
    )
    monkeypatch.setattr(subjects, "SUBJECTS_FOLDER", tmp_path / "subjects")
    monkeypatch.setattr(subjects, "REPOSITORY", tmp_path)
    monkeypatch.setattr(subjects.Subject, "side", 16)
    subjects.photograph_subjects(workplace, processes=1)
    (row,) = json.loads((tmp_path / "subjects" / "subjects.json").read_text())
    assert (row["key"], row["creator"], row["role"]) == ("cube", "Nobody", "evidence")
    assert [len(list((tmp_path / row[kind]).iterdir())) for kind in ("training", "held_out")] == [5, 3]


def test_missing_sources_are_named_with_their_remedy(tmp_path: Path) -> None:
    nothing = Workplace(root=tmp_path)
    with pytest.raises(MissingSourceError, match="npm install .*@pmndrs"):
        panoramas.panorama_file(nothing.modules, nothing.panoramas, "park")
    with pytest.raises(MissingSourceError, match="apt-get download sweethome3d-furniture"):
        read_model(nothing.furniture, "Scopia:7")


def test_a_view_of_a_panorama_looks_where_it_is_told() -> None:
    panorama = np.zeros((256, 512, 3), np.float32)
    panorama[:128, :, 2] = 1  # blue above
    panorama[128:, 256:, 0] = 1  # red below, behind
    below_front = np.asarray(panoramas.look(panorama, 16, yaw=90, pitch=-60, field_of_view=40))
    below_behind = np.asarray(panoramas.look(panorama, 16, yaw=270, pitch=-60, field_of_view=40))
    above = np.asarray(panoramas.look(panorama, 16, yaw=0, pitch=60, field_of_view=40))
    assert below_front.max() == 0
    assert below_behind[..., 0].min() > 200
    assert above[..., 2].min() > 200


class _TwoSteps:
    """A clock that lets a training make two steps."""

    seconds = 0.0

    def __init__(self, deadline: float) -> None:
        self._progress = iter((0.5, 1.0))

    @property
    def progress(self) -> float:
        return next(self._progress)


def _write_pack(packs: Path) -> None:
    icon = {"body": '<rect width="16" height="16" fill="#a05020"/>', "width": 16, "height": 16}
    for pack in sprites.PACK_VERSIONS:
        (packs / pack).mkdir(parents=True)
        (packs / pack / "icons.json").write_text(json.dumps({"icons": {"owl": icon, "green-kettle": icon}}))


def _write_furniture(folder: Path) -> None:
    libraries = folder / "usr/share/sweethome3d/furniture"
    libraries.mkdir(parents=True)
    paint = libraries / "paint.png"
    Image.new("RGBA", (4, 4), (200, 40, 40, 255)).save(paint)
    with zipfile.ZipFile(libraries / "Tiny.sh3f", "w") as archive:
        archive.writestr("PluginFurnitureCatalog.properties", CATALOGUE)
        archive.writestr("models/cube.obj", CUBE)
        archive.writestr("models/cube.mtl", MATERIALS)
        archive.write(paint, "models/paint.png")


def _write_panorama(modules: Path) -> None:
    import mitsuba

    mitsuba.set_variant("scalar_rgb")
    target = modules / "@pmndrs/assets/hdri"
    target.mkdir(parents=True)
    picture = target / "tiny.exr"
    light = np.linspace(0.1, 1, 8 * 16 * 3, dtype=np.float32).reshape(8, 16, 3)
    mitsuba.Bitmap(light).write(str(picture))
    content = base64.b64encode(picture.read_bytes()).decode()
    (target / "tiny.exr.js").write_text(f'export default "data:application/octet-stream;base64,{content}"')
