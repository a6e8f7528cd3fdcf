"""Does the camera move from one image to the next?"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: Motion is told of pictures this wide, in blocks of this side, pixels [derived].
MOTION_WIDTH, MOTION_BLOCK = 416, 26
#: Mean slope, grey levels a pixel, below which a block is too plain to show motion [derived].
PLAIN = 2.0


def motion_picture(image: Image.Image) -> NDArray[np.float32]:
    """Grey (h, `MOTION_WIDTH`) of an image, in which motion is told."""
    height = max(MOTION_BLOCK, round(image.height * MOTION_WIDTH / image.width))
    grey = image.convert("L").resize((MOTION_WIDTH, height), Image.Resampling.BOX)
    return np.asarray(grey, dtype=np.float32)


def picture_motion(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """How far the picture has moved between two `motion_picture`s, in about pixels of these.

    In each block, the mean change of grey by the mean slope: a small shift along the slope changes
    grey by shift times slope. The change's mean, which other light brings, is left out. The median
    over the blocks counts, so that a car that passes a standing camera does not. Blocks without
    texture show no motion; where no block has any, 0.

    [derived], for the purpose of Zhou et al. (arXiv 1704.07813), who left out frames with a mean
    optical flow below 1 pixel. It saturates at a few pixels and is no speed. In samples of DDAD and
    KITTI at 10 Hz it is 0.06 to 0.09 while the car stands and 0.9 to 2.6 while it drives.
    """
    down, right = np.gradient((first + second) / 2)
    slopes, changes = _blocks(np.hypot(down, right)).mean(axis=1), _blocks(second - first)
    changes = np.abs(changes - changes.mean(axis=1, keepdims=True)).mean(axis=1)
    textured = slopes >= PLAIN
    return float(np.median(changes[textured] / slopes[textured])) if textured.any() else 0.0


def _blocks(picture: NDArray[Any]) -> NDArray[Any]:
    """(blocks, pixels of a block); what is left at the right and at the bottom does not count."""
    side = MOTION_BLOCK
    rows, columns = picture.shape[0] // side, picture.shape[1] // side
    whole = picture[: rows * side, : columns * side]
    return whole.reshape(rows, side, columns, side).swapaxes(1, 2).reshape(rows * columns, -1)
