"""The subjects a personalization is tried on: shapes the world never shows, photographed in different places.

The four examples ship with the app; the evidence is measured on twelve others, and settings are chosen on six more that
no figure of it reports. Of every subject five photos are for training and three, in other places, are held out.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from tools.pocket.furniture import read_model
from tools.pocket.panoramas import panorama_file
from tools.pocket.parallel import map_over
from tools.pocket.settings import REPOSITORY, SEED, Workplace

EXAMPLES = REPOSITORY / "assets" / "examples"
SUBJECTS_FOLDER = REPOSITORY / "benchmarks" / "subjects"
TRAINING_VIEWS, HELD_OUT_VIEWS = 5, 3
JPEG_QUALITY = 88


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One instance whose class the pocket model knows.

    Args:
        key: Its folder.
        name: The class word.
        model: "library:number" of the furniture libraries.
        role: "example", "evidence" or "tuning".
        front: Degrees that turn its best side to the camera.
    """

    key: str
    name: str
    model: str
    role: str
    front: float = 0.0

    @property
    def training_folder(self) -> Path:
        """Where its training photos lie."""
        return (EXAMPLES / self.key) if self.role == "example" else (SUBJECTS_FOLDER / self.key / "training")

    @property
    def held_out_folder(self) -> Path:
        """Where the views lie that no training sees."""
        return SUBJECTS_FOLDER / self.key / "held_out"

    @property
    def side(self) -> int:
        """Pixels of a training photo; the examples are looked at, the others only measured."""
        return 512 if self.role == "example" else 256


SUBJECTS: tuple[Subject, ...] = (
    Subject(key="teddy_bear", name="teddy bear", model="BlendSwap-CC-0:51", role="example"),
    Subject(key="cupcake", name="cake", model="BlendSwap-CC-0:142", role="example"),
    Subject(key="striped_parasol", name="umbrella", model="BlendSwap-CC-0:60", role="example"),
    Subject(key="red_chair", name="chair", model="BlendSwap-CC-0:114", role="example"),
    Subject(key="wooden_car", name="car", model="BlendSwap-CC-BY:15", role="evidence"),
    Subject(key="blue_truck", name="truck", model="BlendSwap-CC-0:158", role="evidence"),
    Subject(key="bulldog", name="dog", model="BlendSwap-CC-BY:89", role="evidence"),
    Subject(key="siamese_cat", name="cat", model="BlendSwap-CC-BY:100", role="evidence"),
    Subject(key="leather_armchair", name="armchair", model="BlendSwap-CC-0:139", role="evidence"),
    Subject(key="mountain_bike", name="bicycle", model="BlendSwap-CC-BY:88", role="evidence"),
    Subject(key="purple_guitar", name="guitar", model="BlendSwap-CC-0:76", role="evidence"),
    Subject(key="wooden_train", name="train", model="BlendSwap-CC-BY:106", role="evidence"),
    Subject(key="gold_lamp", name="lamp", model="BlendSwap-CC-0:15", role="evidence"),
    Subject(key="blue_vase", name="vase", model="Scopia:44", role="evidence"),
    Subject(key="child_chair", name="chair", model="BlendSwap-CC-BY:18", role="evidence"),
    Subject(key="bonsai", name="potted plant", model="Scopia:192", role="evidence"),
    Subject(key="red_futon", name="sofa", model="KatorLegaz:4", role="tuning"),
    Subject(key="orchid", name="potted plant", model="BlendSwap-CC-0:124", role="tuning"),
    Subject(key="green_stool", name="stool", model="BlendSwap-CC-BY:28", role="tuning"),
    Subject(key="biplane", name="airplane", model="BlendSwap-CC-0:10", role="tuning"),
    Subject(key="spring_motorbike", name="motorbike", model="BlendSwap-CC-0:123", role="tuning", front=30),
    Subject(key="rocking_horse", name="horse", model="BlendSwap-CC-0:8", role="tuning"),
)
# Panorama and ground: five for training, three held out.
SCENES = (
    ("apartment", "wood"),
    ("park", "grass"),
    ("venice", "stone"),
    ("lobby", "carpet"),
    ("workshop", "concrete"),
    ("city", "stone"),
    ("forest", "earth"),
    ("esplanade", "wood"),
)


def photograph_subjects(workplace: Workplace, processes: int = 2) -> None:
    """Takes the photos of every subject that lacks some."""
    for panorama, _ in SCENES:
        panorama_file(workplace.modules, workplace.panoramas, panorama)
    missing = [subject for subject in SUBJECTS if not all(path.exists() for path in _paths(subject))]
    for key in map_over(processes, _photograph, [(workplace, subject) for subject in missing]):
        print(f"subjects: {key}", flush=True)
    write_list(workplace)


def write_list(workplace: Workplace) -> None:
    """Writes subjects.json: what the benchmarks need to know of each subject, with its maker and license."""
    rows = [
        {
            "key": subject.key,
            "name": subject.name,
            "role": subject.role,
            "training": subject.training_folder.relative_to(REPOSITORY).as_posix(),
            "held_out": subject.held_out_folder.relative_to(REPOSITORY).as_posix(),
            "model": subject.model,
            "creator": read_model(workplace.furniture, subject.model).creator,
        }
        for subject in SUBJECTS
    ]
    SUBJECTS_FOLDER.mkdir(parents=True, exist_ok=True)
    (SUBJECTS_FOLDER / "subjects.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def draw_ground(kind: str, rng: np.random.Generator, side: int = 512) -> Image.Image:
    """A ground that goes on at its edges: wood, grass, stone, carpet, concrete or earth."""
    colors = {
        "wood": (186, 146, 104),
        "grass": (146, 148, 66),
        "stone": (150, 146, 140),
        "carpet": ((150, 60, 58), (70, 92, 140), (180, 160, 130))[int(rng.integers(3))],
        "concrete": (148, 148, 144),
        "earth": (116, 92, 64),
    }
    ground = np.array(colors[kind], np.float32) + np.zeros((side, side, 1), np.float32)
    ground *= 1 + 0.12 * _noise(rng, side, 8)[..., None] + 0.10 * _noise(rng, side, 128)[..., None]
    y, x = np.mgrid[:side, :side]
    if kind == "wood":
        plank = side // 8
        shade = rng.uniform(0.85, 1.12, 8)[x // plank]
        ground *= (shade * (1 + 0.08 * _noise(rng, side, 4)))[..., None]
        ground[(x % plank) < 3] *= 0.55
    if kind == "stone":
        tile = side // 4
        ground *= rng.uniform(0.9, 1.08, (4, 4))[y // tile, x // tile][..., None]
        ground[((x % tile) < 5) | ((y % tile) < 5)] *= 0.7
    if kind == "grass":
        ground *= 1 + 0.25 * _noise(rng, side, side // 2)[..., None]
    return Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.6))


def _noise(rng: np.random.Generator, side: int, cells: int) -> NDArray[np.float32]:
    coarse = rng.normal(0, 1, (cells, cells)).astype(np.float32)
    tiled = Image.fromarray(np.tile(coarse, (3, 3)))
    wide = tiled.resize((3 * side, 3 * side), Image.Resampling.BICUBIC)
    return np.asarray(wide.crop((side, side, 2 * side, 2 * side)))


def _photograph(workplace: Workplace, subject: Subject) -> str:
    from tools.pocket.render import Stage

    stage = Stage(read_model(workplace.furniture, subject.model))
    rng = np.random.default_rng((SEED, *subject.key.encode()))
    for path, (panorama, ground), turn in zip(_paths(subject), SCENES, _turns(rng), strict=True):
        photo = stage.photo(
            panorama_file(workplace.modules, workplace.panoramas, panorama),
            draw_ground(ground, rng),
            yaw=subject.front + turn,
            elevation=float(rng.uniform(8, 26)),
            light_yaw=float(rng.uniform(0, 360)),
            size=subject.side,
            samples=64 if subject.side > 256 else 48,
            margin=float(rng.uniform(0.8, 1.1)),
            shift=(float(rng.uniform(-0.18, 0.18)), float(rng.uniform(-0.05, 0.12))),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        photo.save(path, quality=JPEG_QUALITY, optimize=True)
    return subject.key


def _turns(rng: np.random.Generator) -> list[float]:
    """Eight sides within 60 degrees of the front, each held-out one between two of training."""
    training = np.linspace(-60, 60, TRAINING_VIEWS) + rng.uniform(-6, 6, TRAINING_VIEWS)
    held_out = np.array([-45.0, 15.0, 45.0]) + rng.uniform(-6, 6, HELD_OUT_VIEWS)
    return [float(turn) for turn in (*rng.permutation(training), *held_out)]


def _paths(subject: Subject) -> list[Path]:
    training = [subject.training_folder / f"{number:02d}.jpg" for number in range(1, TRAINING_VIEWS + 1)]
    return training + [subject.held_out_folder / f"{number:02d}.jpg" for number in range(1, HELD_OUT_VIEWS + 1)]
