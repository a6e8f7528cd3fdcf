"""Depth on disk, read back by others' eyes: Pillow, numpy, and a reader of PLY written here."""

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from fadepth.depth_files import disparity_picture, npy_bytes, png_bytes, png_values, point_cloud


def test_png_holds_metres_times_256() -> None:
    depth = np.array([[0.1, 5.43, 80.0], [255.99, 256.1, np.inf], [np.nan, -1.0, 0.001]])
    image = Image.open(io.BytesIO(png_bytes(png_values(depth))))
    assert image.mode == "I;16"
    # By hand: 0.1 * 256 = 25.6, 5.43 * 256 = 1390.08, 80 * 256, 255.99 * 256 = 65533.44; no value.
    expected = [[26, 1390, 20480], [65533, 0, 0], [0, 0, 0]]
    assert np.asarray(image).tolist() == expected


def test_npy_is_float32() -> None:
    values = np.random.default_rng(0).uniform(0.1, 100, (3, 5))
    read = np.load(io.BytesIO(npy_bytes(values)))
    assert read.dtype == np.float32 and np.array_equal(read, values.astype(np.float32))


def test_near_is_bright_and_ends_are_cut() -> None:
    picture = disparity_picture(np.array([[-5.0, 1.0, 2.0, 3.0, 99.0]]), 1.0, 3.0)
    luma = picture.astype(float).sum(2)[0]
    assert luma[0] == luma[1] < luma[2] < luma[3] == luma[4]
    # The ends of magma are #000004 and #fcfdbf, https://bids.github.io/colormap/.
    assert picture[0, 0].tolist() == [0x00, 0x00, 0x04]
    assert picture[0, 4].tolist() == [0xFC, 0xFD, 0xBF]
    flat = disparity_picture(np.ones((2, 2)), 1.0, 1.0)
    assert (flat == flat[0, 0]).all()


def read_ply(content: bytes) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Points (N, 3) and colours (N, 3) by the format's own description."""
    head, _, body = content.partition(b"end_header\n")
    lines = head.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    count = int(next(line for line in lines if line.startswith("element vertex")).split()[-1])
    properties = [line.split()[1:] for line in lines if line.startswith("property")]
    assert properties == [
        *(["float", axis] for axis in "xyz"),
        *(["uchar", colour] for colour in ("red", "green", "blue")),
    ]
    assert len(body) == 15 * count
    rows = np.frombuffer(body, np.uint8).reshape(count, 15)
    return rows[:, :12].copy().view("<f4"), rows[:, 12:]


@pytest.mark.parametrize("missing", [False, True])
def test_points_are_seen_at_their_pixels(missing: bool) -> None:
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 50, (7, 11))
    image = rng.integers(0, 255, (7, 11, 3), dtype=np.uint8)
    if missing:
        depth[2, 3], depth[4, 5] = np.inf, 0
    points, colours = read_ply(point_cloud(depth, image, (60.0, 70.0, 5.5, 2.25)))
    assert len(points) == 77 - 2 * missing
    x, y, z = points.astype(float).T
    columns, rows = 60 * x / z + 5.5, 70 * y / z + 2.25
    assert np.allclose(columns, columns.round(), atol=1e-4)
    assert np.allclose(rows, rows.round(), atol=1e-4)
    u, v = columns.round().astype(int), rows.round().astype(int)
    assert len({*zip(u, v, strict=True)}) == len(points)
    assert np.allclose(z, depth[v, u], rtol=1e-6)
    assert np.array_equal(colours, image[v, u])
