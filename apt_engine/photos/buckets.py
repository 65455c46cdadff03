"""Photos learnt in their own proportions: sizes of as many pixels as the square has, at most, and a cut that fills one.

Sides are multiples of a step, so that a U-Net's levels divide them.
"""

import math

from PIL import Image

LARGEST_RATIO = 2  # of the longer to the shorter side; longer photos are cut
LARGEST_STEP = 64  # px


def sizes(resolution: int) -> list[tuple[int, int]]:
    """Width and height of all buckets, the square among them; none has more pixels than it."""
    step = max(8, min(LARGEST_STEP, resolution // 4))
    wide: list[tuple[int, int]] = []
    for height in range((resolution - 1) // step * step, 0, -step):
        width = min(resolution**2 // height, LARGEST_RATIO * height) // step * step
        if width > height:
            wide.append((width, height))
        if width == LARGEST_RATIO * height:
            break
    return [(resolution, resolution), *wide, *((height, width) for width, height in wide)]


def nearest(width: int, height: int, resolution: int) -> tuple[int, int]:
    """The bucket whose proportions are nearest to a photo's."""
    ratio = math.log(width / height)
    return min(sizes(resolution), key=lambda size: abs(math.log(size[0] / size[1]) - ratio))


def cut(
    image: Image.Image, square: tuple[int, int, int, int], resolution: int
) -> tuple[Image.Image, tuple[int, int, int, int]]:
    """A photo in its bucket, and what Stable Diffusion XL is told of that.

    Args:
        image: the whole photo.
        square: around its subject, which what is cut away is to spare.
        resolution: side of the square bucket.

    Returns:
        the picture; height and width of the photo, and top and left of the cut in pixels of the photo once it is scaled.
    """
    width, height = nearest(*image.size, resolution)
    scale = max(width / image.width, height / image.height)
    wide, high = min(image.width, width / scale), min(image.height, height / scale)
    left = min(max((square[0] + square[2] - wide) / 2, 0), image.width - wide)
    top = min(max((square[1] + square[3] - high) / 2, 0), image.height - high)
    made = image.resize((width, height), Image.Resampling.LANCZOS, box=(left, top, left + wide, top + high))
    return made, (image.height, image.width, round(top * scale), round(left * scale))
