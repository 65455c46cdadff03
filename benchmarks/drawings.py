"""A subject that is no photograph, drawn by code: `python -m benchmarks.drawings` writes its pictures anew.

One robot of pixel art, 32 x 32 squares of eight pixels, flat colors, no light and no perspective. Its parts never change: a teal
body, an orange chest plate, one red arm, an antenna to one side, wheels. What changes is where it stands, which way it faces,
how it holds its arms, and the plain ground. Five pictures to train on, three to hold out; nothing in it is anybody else's.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw

SUBJECTS = Path(__file__).resolve().parent / "subjects"
INDEX = SUBJECTS / "drawings.json"
KEY, NAME, ROLE = "pixel_robot", "robot", "drawing"
GRID, SQUARE = 32, 8  # squares a side, pixels a square
TEAL, DARK, ORANGE, RED, WHITE, BLACK, YELLOW = (
    "#1f9e8f",
    "#126257",
    "#f28c28",
    "#d62839",
    "#f4f4f4",
    "#1b1b1b",
    "#ffd23f",
)

BODY = (  # left, top, width and height of each part, and its color
    (11, 0, 1, 3, BLACK),
    (10, 0, 3, 1, YELLOW),
    (3, 3, 10, 6, TEAL),
    (3, 8, 10, 1, DARK),
    (6, 5, 2, 2, WHITE),
    (10, 5, 2, 2, WHITE),
    (7, 5, 1, 1, BLACK),
    (11, 5, 1, 1, BLACK),
    (4, 9, 8, 7, TEAL),
    (5, 10, 6, 3, ORANGE),
    (6, 11, 1, 1, YELLOW),
    (5, 16, 2, 2, DARK),
    (9, 16, 2, 2, DARK),
    (4, 18, 4, 3, BLACK),
    (5, 19, 2, 1, WHITE),
    (8, 18, 4, 3, BLACK),
    (9, 19, 2, 1, WHITE),
)


@dataclass(frozen=True)
class Pose:
    """How one picture differs from the others: squares from the left and the top, facing, arms, ground."""

    left: int
    top: int
    faces_left: bool
    near_arm: int  # squares that it is raised by
    far_arm: int
    ground: str
    floor: str


POSES = {
    "training": (
        Pose(8, 5, faces_left=False, near_arm=0, far_arm=0, ground="#cfe8f3", floor="#9db4ab"),
        Pose(5, 7, faces_left=True, near_arm=3, far_arm=0, ground="#f6e7cb", floor="#d9b382"),
        Pose(11, 4, faces_left=False, near_arm=0, far_arm=4, ground="#d8d3e8", floor="#8e84b0"),
        Pose(7, 8, faces_left=True, near_arm=0, far_arm=2, ground="#e4f1d7", floor="#7fa650"),
        Pose(10, 6, faces_left=False, near_arm=4, far_arm=4, ground="#e9e9e9", floor="#b0b0b0"),
    ),
    "held_out": (
        Pose(6, 5, faces_left=False, near_arm=4, far_arm=0, ground="#f9d9d9", floor="#c98b8b"),
        Pose(9, 8, faces_left=True, near_arm=1, far_arm=4, ground="#d5eef0", floor="#6d8fa6"),
        Pose(8, 6, faces_left=True, near_arm=0, far_arm=0, ground="#fff3b0", floor="#c9a227"),
    ),
}


def draw(pose: Pose) -> Image.Image:
    """The robot in a pose, 256 px square."""
    robot = Image.new("RGBA", (16, 21), (0, 0, 0, 0))
    pen = ImageDraw.Draw(robot)
    far, near = -pose.far_arm, -pose.near_arm
    arms = ((1, 10 + far, 3, 2, DARK), (0, 9 + far, 2, 4, DARK), (12, 10 + near, 3, 2, RED), (14, 9 + near, 2, 4, RED))
    for left, top, width, height, color in (*BODY, *arms):
        pen.rectangle((left, top, left + width - 1, top + height - 1), fill=color)
    if pose.faces_left:
        robot = robot.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    picture = Image.new("RGB", (GRID, GRID), pose.ground)
    picture.paste(pose.floor, (0, pose.top + 20, GRID, GRID))
    picture.paste(robot, (pose.left, pose.top), robot)
    return picture.resize((GRID * SQUARE, GRID * SQUARE), Image.Resampling.NEAREST)


def write(folder: Path) -> list[Path]:
    """All pictures, into folders of their own in that of the subject."""
    written: list[Path] = []
    for part, poses in POSES.items():
        (folder / KEY / part).mkdir(parents=True, exist_ok=True)
        for number, pose in enumerate(poses, 1):
            written.append(folder / KEY / part / f"{number:02d}.png")
            draw(pose).save(written[-1], optimize=True)
    return written


def main() -> None:
    """Write pictures and index."""
    for path in write(SUBJECTS):
        print(path)
    own = {part: f"benchmarks/subjects/{KEY}/{part}" for part in POSES}
    row = {"key": KEY, "name": NAME, "role": ROLE, **own, "model": "benchmarks/drawings.py", "creator": "APT Studio"}
    INDEX.write_text(json.dumps([row], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
