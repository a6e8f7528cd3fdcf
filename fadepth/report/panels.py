"""Pictures of what a run predicts: input, disparity and error of one frame, one above the other."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fadepth.files import atomic_path

#: Relative errors from this value on share the brightest colour.
ERROR_CEILING = 0.5
LABEL_HEIGHT = 16


def _coloured(values: NDArray[np.floating], colormap: str) -> NDArray[np.uint8]:
    import matplotlib  # here, since evaluations without panels need none

    colours = matplotlib.colormaps[colormap](np.clip(values, 0, 1))[..., :3]
    return np.round(255 * colours).astype(np.uint8)


def _resized(picture: NDArray[np.uint8], width: int) -> Image.Image:
    image = Image.fromarray(picture)
    height = max(1, round(image.height * width / image.width))
    return image.resize((width, height), Image.Resampling.BILINEAR)


def draw_panel(
    path: Path,
    image: NDArray[np.uint8],
    disparity: NDArray[np.floating],
    relative_error: NDArray[np.floating],
    *,
    title: str,
    width: int = 640,
) -> None:
    """Write one PNG: input, disparity, and |prediction - truth| / truth after scaling.

    Args:
        path: the file to write.
        image: (H, W, 3) uint8.
        disparity: (h, w), any positive scale; colours span its 1st to 99th percentile.
        relative_error: (H, W), NaN where there is no ground truth (drawn dark grey).
        title: run and frame.
        width: of the picture in pixels.
    """
    low, high = np.percentile(disparity, [1, 99])
    scaled = (disparity - low) / max(high - low, 1e-9)
    known = np.isfinite(relative_error)
    error = _coloured(np.where(known, relative_error, 0) / ERROR_CEILING, "inferno")
    error[~known] = 60
    if known.mean() < 0.2:
        error = thickened(error, known)
    strips = [
        (f"{title}: input", _resized(image, width)),
        ("disparity (bright: near)", _resized(_coloured(scaled, "magma"), width)),
        (
            f"relative error (black 0, bright {ERROR_CEILING} or more, grey: no ground truth)",
            Image.fromarray(error).resize(
                (width, round(error.shape[0] * width / error.shape[1])), Image.Resampling.NEAREST
            ),
        ),
    ]
    height = sum(strip.height + LABEL_HEIGHT for _, strip in strips)
    canvas = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(canvas)
    top = 0
    for label, strip in strips:
        pen.text((4, top + 2), label, fill="black")
        canvas.paste(strip, (0, top + LABEL_HEIGHT))
        top += strip.height + LABEL_HEIGHT
    with atomic_path(path) as temporary:
        canvas.save(temporary, format="PNG")


def thickened(picture: NDArray[Any], known: NDArray[Any], reach: int = 2) -> NDArray[Any]:
    """Spread sparse points over (2 reach + 1)^2 pixels, so that they can be seen.

    Args:
        picture: (H, W) or (H, W, C).
        known: (H, W) bool, where the points are.
        reach: pixels to either side.
    """
    result = picture.copy()
    rows, columns = known.nonzero()
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            y = (rows + dy).clip(0, picture.shape[0] - 1)
            x = (columns + dx).clip(0, picture.shape[1] - 1)
            free = ~known[y, x]
            result[y[free], x[free]] = picture[rows[free], columns[free]]
    return result
