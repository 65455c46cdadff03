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


def frame(
    size: tuple[int, int], square: tuple[int, int, int, int], resolution: int
) -> tuple[float, float, float, float]:
    """What of a photo its bucket shows: left, top, right and bottom in pixels of the photo.

    Args:
        size: width and height of the whole photo.
        square: around its subject, which what is cut away is to spare.
        resolution: side of the square bucket.
    """
    width, height = nearest(*size, resolution)
    scale = max(width / size[0], height / size[1])
    wide, high = min(size[0], width / scale), min(size[1], height / scale)
    left = min(max((square[0] + square[2] - wide) / 2, 0), size[0] - wide)
    top = min(max((square[1] + square[3] - high) / 2, 0), size[1] - high)
    return (left, top, left + wide, top + high)


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
    box = frame(image.size, square, resolution)
    made = image.resize((width, height), Image.Resampling.LANCZOS, box=box)
    left, top = box[:2]
    return made, (image.height, image.width, round(top * scale), round(left * scale))
