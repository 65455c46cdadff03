"""Photos to train on, made here."""

from pathlib import Path

from PIL import Image, ImageDraw

SIDE = 96
BACKGROUNDS = ("white", "khaki", "skyblue", "darkgreen")


def draw_photos(folder: Path) -> Path:
    """Four of them, PNG and JPEG, of a red disc in different places; returns `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, background in enumerate(BACKGROUNDS):
        photo = Image.new("RGB", (SIDE, SIDE), background)
        draw = ImageDraw.Draw(photo)
        left, top, size = 8 + 12 * number, 44 - 12 * number, 40 + 4 * number
        draw.rectangle((0, 60 + 6 * number, SIDE, SIDE), fill="saddlebrown")
        draw.ellipse((left, top, left + size, top + size), fill="crimson", outline="black", width=3)
        photo.save(folder / f"{number + 1}.{'png' if number % 2 else 'jpg'}")
    return folder
