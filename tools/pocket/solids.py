"""The solid objects as sprites: rendered once, from many sides in many lights, and kept as PNG files."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from tools.pocket.files import write_atomically
from tools.pocket.furniture import read_model
from tools.pocket.panoramas import panorama_file
from tools.pocket.parallel import map_over
from tools.pocket.settings import SEED, Workplace
from tools.pocket.vocabulary import PAINTED, SOLID

VIEWS = 12
PLAIN_VIEWS = 8  # of an object made in many colors; in the others its colors are turned
RENDER_SIZE = 128
SAMPLES = 48
LIGHTS = ("apartment", "city", "dawn", "forest", "lobby", "park", "studio", "sunset", "venice", "workshop")


def render_solids(workplace: Workplace, processes: int = 2) -> None:
    """Renders what is missing of every view of every solid object."""
    wanted = [(name, solid) for name, solids in SOLID.items() for solid in solids]
    missing = [(name, solid) for name, solid in wanted if not all(path.exists() for path in _paths(workplace, solid))]
    for light in LIGHTS:
        panorama_file(workplace.modules, workplace.panoramas, light)
    for _, solid in missing:
        read_model(workplace.furniture, solid)  # a missing source is reported here, once
    tasks = [(workplace, name, solid) for name, solid in missing]
    for index, solid in enumerate(map_over(processes, _render_views, tasks), 1):
        print(f"solids: {index} of {len(missing)}, {solid}", flush=True)


def load_solid(workplace: Workplace, solid: str) -> list[Image.Image]:
    """Every view of one solid object, RGBA."""
    missing = [path for path in _paths(workplace, solid) if not path.exists()]
    if missing:
        raise FileNotFoundError(f"{missing[0].name} is not rendered yet; run: python -m tools.pocket solids")
    return [Image.open(path).convert("RGBA") for path in _paths(workplace, solid)]


def draw_side(rng: np.random.Generator) -> tuple[float, float]:
    """How a thing is mostly looked at: yaw and elevation in degrees, its front two times in three."""
    yaw = rng.uniform(-70, 70) if rng.random() < 2 / 3 else rng.uniform(-180, 180)
    return float(yaw), float(rng.uniform(6, 32))


def _render_views(workplace: Workplace, name: str, solid: str) -> str:
    from tools.pocket.render import Stage

    rng = np.random.default_rng((SEED, *solid.encode()))
    stages = {0.0: Stage(read_model(workplace.furniture, solid))}
    shifts = [0.0] * VIEWS
    if name in PAINTED:
        shifts[PLAIN_VIEWS:] = [float(shift) for shift in rng.uniform(0.1, 0.9, VIEWS - PLAIN_VIEWS)]
    for path, shift in zip(_paths(workplace, solid), shifts, strict=True):
        yaw, elevation = draw_side(rng)
        stage = stages.setdefault(
            shift, stages[0.0] if not shift else Stage(read_model(workplace.furniture, solid), shift)
        )
        light = panorama_file(workplace.modules, workplace.panoramas, str(rng.choice(LIGHTS)))
        sprite = stage.sprite(
            light,
            yaw=yaw,
            elevation=elevation,
            light_yaw=float(rng.uniform(0, 360)),
            size=RENDER_SIZE,
            samples=SAMPLES,
        )
        write_atomically(path, lambda target, picture=sprite: picture.save(target, "PNG"))
    return solid


def _paths(workplace: Workplace, solid: str) -> list[Path]:
    return [workplace.solids / f"{solid.replace(':', '-')}-{view:02d}.png" for view in range(VIEWS)]


def list_solids() -> Iterable[str]:
    """Every solid object the world shows."""
    return (solid for solids in SOLID.values() for solid in solids)
