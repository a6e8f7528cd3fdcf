"""A depth map as files: 16-bit PNG, colours, points."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fadepth.data.kitti import Intrinsics

#: Steps of a metre in a depth PNG (KITTI's development kit, `readme.txt` of depth).
PNG_STEPS = 256.0
COLOURS = "magma"
"""Bright is near; as in `fadepth.report.panels`."""


def png_values(depth: NDArray[np.floating]) -> NDArray[np.uint16]:
    """What a depth PNG of KITTI holds: metres * 256 (H, W) uint16, 0 where there is no value.

    No value also where the depth, in metres, is not finite or does not go into 16 bits: 1/512 m and
    below, 256 m and above.
    """
    with np.errstate(invalid="ignore"):
        steps = np.round(depth * PNG_STEPS)
        fits = (steps >= 1) & (steps <= np.iinfo(np.uint16).max)
    return np.where(fits, steps, 0).astype(np.uint16)


def png_bytes(pixels: NDArray[Any]) -> bytes:
    """(H, W) uint16 or (H, W, 3) uint8 as a PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def npy_bytes(values: NDArray[np.floating]) -> bytes:
    """An array as numpy's file, float32."""
    buffer = io.BytesIO()
    np.save(buffer, values.astype(np.float32), allow_pickle=False)
    return buffer.getvalue()


def disparity_picture(
    inverse_depth: NDArray[np.floating], low: float, high: float
) -> NDArray[np.uint8]:
    """Colours (H, W, 3) of inverse depth (H, W): black at `low`, far; bright at `high`, near."""
    import matplotlib  # here, since who wants numbers alone needs none

    table = np.round(255 * matplotlib.colormaps[COLOURS](np.arange(256))[:, :3]).astype(np.uint8)
    scaled = (inverse_depth - low) * (256 / max(high - low, 1e-9))
    colours: NDArray[np.uint8] = table[np.clip(scaled, 0, 255).astype(np.uint8)]
    return colours


def point_cloud(
    depth: NDArray[np.floating], image: NDArray[np.uint8], intrinsics: Intrinsics
) -> bytes:
    """A binary PLY with a coloured point for each pixel that has a depth, row by row.

    Camera coordinates: x right, y down, z forward, in the unit of `depth`. A pixel (u, v), integer
    at its centre, is at z * ((u - cx) / fx, (v - cy) / fy, 1).

    Args:
        depth: (H, W), metres up to a scale.
        image: (H, W, 3) RGB.
        intrinsics: (fx, fy, cx, cy) in pixels of that image.
    """
    fx, fy, cx, cy = intrinsics
    rows, columns = np.nonzero(np.isfinite(depth) & (depth > 0))
    z = depth[rows, columns]
    fields = [*((axis, "<f4") for axis in "xyz"), *((c, "u1") for c in ("red", "green", "blue"))]
    points = np.empty(len(z), dtype=fields)
    points["x"], points["y"], points["z"] = z * (columns - cx) / fx, z * (rows - cy) / fy, z
    for channel, name in enumerate(("red", "green", "blue")):
        points[name] = image[rows, columns, channel]
    head = (
        "ply\nformat binary_little_endian 1.0\n"
        "comment camera coordinates: x right, y down, z forward\n"
        f"element vertex {len(points)}\n"
        "property float x\nproperty float y\nproperty float z\n"
        "property uchar red\nproperty uchar green\nproperty uchar blue\nend_header\n"
    )
    return head.encode("ascii") + points.tobytes()
