"""Lidar over images: that it lies on what it has hit, and that the figure shows it as it is."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from fadepth.data import kitti
from fadepth.data.ddad import DdadFrame, DdadScene
from fadepth.errors import FadepthError
from fadepth.report import lidar_figure
from fadepth.report.lidar_figure import (
    Box,
    DataSet,
    LidarFrame,
    cut,
    ddad_frames,
    draw_lidar,
    draw_points,
    figure_of,
    kitti_comparison,
    kitti_frames,
    kitti_id,
    scanned,
    shared_pixels,
    street_frames,
)

Matrix = NDArray[np.float64]

SHIFTS = [(sign * size, 0) for size in (4, 8) for sign in (-1, 1)]
SHIFTS += [(0, shift) for shift, _ in SHIFTS]
TURNS = [(axis, angle) for axis in "xyz" for angle in (-0.5, 0.5)]  # degrees


def shifted(columns: float, rows: float) -> Matrix:
    """(3, 3) for points to land so many pixels farther right and down."""
    return np.array([[1, 0, columns], [0, 1, rows], [0, 0, 1.0]])


def turn(axis: str, angle: float) -> Matrix:
    """(3, 3) rotation of the camera's frame, degrees."""
    return Rotation.from_euler(axis, angle, degrees=True).as_matrix()


# Alignment on KITTI: brightness changes where depth does


def edges_score(brightness: Matrix, depth: NDArray[np.float32]) -> tuple[float, int]:
    """Sum and number of brightness gradients halfway between near and far neighbours.

    Neighbours are points at most 5 pixels from each other; across a step from left to right counts
    the gradient along rows, across one from above to below that along columns.
    """
    rows, columns = np.nonzero(depth)
    places = np.stack([rows, columns], 1).astype(float)
    one, other = cKDTree(places).query_pairs(5, output_type="ndarray").T
    step = np.abs(np.log(depth[rows, columns][one] / depth[rows, columns][other]))
    one, other = one[step > np.log(1.3)], other[step > np.log(1.3)]
    middle = np.rint((places[one] + places[other]) / 2).astype(int)
    apart = np.abs(places[one] - places[other])
    total, number = 0.0, 0
    for axis, order in ((0, (1, 0)), (1, (0, 1))):
        gradient = np.abs(ndimage.gaussian_filter(brightness, 1.5, order=order))
        across = apart[:, axis] > 2 * apart[:, 1 - axis]
        total += gradient[tuple(middle[across].T)].sum()
        number += int(across.sum())
    return total, number


def kitti_score(root: Path, left: Matrix, inner: Matrix) -> float:
    """Mean gradient at depth edges of six frames.

    Args:
        left: multiplied to the calibration from the left, in pixels.
        inner: multiplied in the camera's frame.
    """
    names = [("0005", 88), ("0005", 104), ("0009", 16), ("0013", 10), ("0013", 20), ("0002", 3)]
    total, number = 0.0, 0
    for frame in (kitti_id(*name) for name in names):
        path = kitti.image_path(root, frame)
        assert path is not None
        image = np.asarray(kitti.read_image(path).convert("L"), dtype=float)
        fx, fy, cx, cy = kitti.read_camera(root, frame).intrinsics
        k = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        calibration = kitti.read_velodyne_to_image(root, frame)
        changed = left @ k @ inner @ np.linalg.inv(k) @ calibration
        scan = kitti.read_velodyne(kitti.velodyne_path(root, frame))
        depth = kitti.project_velodyne(scan, changed, *image.shape)
        of_frame = edges_score(image, depth)
        total, number = total + of_frame[0], number + of_frame[1]
    assert number > 4000
    return total / number


def test_kitti_calibration_puts_depth_edges_on_image_edges(test_data: Path) -> None:
    root, still = test_data / "kitti_mini" / "kitti", np.eye(3)
    true = kitti_score(root, still, still)
    for shift in SHIFTS:
        assert kitti_score(root, shifted(*shift), still) < 0.96 * true, shift
    for change in TURNS:
        assert kitti_score(root, still, turn(*change)) < 0.98 * true, change


# Alignment on DDAD, where leaves make edges everywhere: brightness tells most about reflectance


def information(one: NDArray[np.int64], other: NDArray[np.int64]) -> float:
    """Mutual information of two series of classes 0 to 15, nats."""
    joint = np.bincount(16 * one + other, minlength=256).reshape(16, 16) / len(one)
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    there = joint > 0
    return float((joint[there] * np.log(joint[there] / apart[there])).sum())


def classes(values: Matrix, all_values: Matrix) -> NDArray[np.int64]:
    """16 classes of about equal size in `all_values`."""
    limits = np.quantile(all_values, np.arange(1, 16) / 16)
    return np.searchsorted(limits, values)


def ddad_scores(frame: DdadFrame) -> NDArray[np.float64]:
    """Information of brightness on reflectance: as calibrated, after each of SHIFTS, TURNS."""
    assert frame.lidar is not None
    assert frame.T_lidar_to_camera is not None
    with np.load(frame.lidar) as content:
        scan = content["data"].astype(float)
    image = np.asarray(kitti.read_image(frame.image).convert("L"), dtype=float)
    image = ndimage.gaussian_filter(image, 1.0)
    bright = classes(image, image[::4, ::4])
    fx, fy, cx, cy = frame.intrinsics
    k = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    still = np.eye(3)
    changes = [(still, still), *((shifted(*shift), still) for shift in SHIFTS)]
    changes += [(still, turn(*change)) for change in TURNS]
    scores = []
    for left, inner in changes:
        motion = inner @ frame.T_lidar_to_camera[:3]
        points = scan[:, :3] @ motion[:, :3].T + motion[:, 3]
        front = points[:, 2] > 1
        u, v, w = left @ k @ points[front].T
        column, row = np.rint(u / w).astype(int), np.rint(v / w).astype(int)
        # Without the lowest rows, which show the car itself.
        inside = (column >= 10) & (column < frame.width - 10) & (row >= 10)
        inside &= row < frame.height - 200
        reflectance = scan[front, 3][inside]
        reflectance += 1e-9 * np.arange(len(reflectance))  # few levels: ties in the scan's order
        found = information(classes(reflectance, reflectance), bright[row[inside], column[inside]])
        scores.append(found)
    return np.array(scores)


def test_ddad_calibration_and_poses_put_reflectance_on_brightness(test_data: Path) -> None:
    """All cameras of scene_02 together; scene_01 is left out, as its scan and images disagree."""
    path = next((test_data / "ddad_mini" / "scene_02").glob("scene_*.json"))
    scene = DdadScene(path)
    frames = [frame for camera in scene.cameras for frame in scene.frames(camera)]
    assert len(frames) == 18
    true, *changed = np.sum([ddad_scores(frame) for frame in frames], 0)
    for score, change in zip(changed, [*SHIFTS, *TURNS], strict=True):
        assert score < true, change


# What is drawn


def test_a_dot_for_every_pixel_with_depth_near_ones_on_top() -> None:
    depth = np.zeros((20, 30), dtype=np.float32)
    depth[3, 4], depth[10, 25], depth[19, 0] = 5, 60, 12
    axes = Figure().subplots()
    dots = draw_points(axes, np.zeros((20, 30, 3), dtype=np.uint8), depth, LogNorm(4, 80), 3)
    assert np.asarray(dots.get_offsets()).tolist() == [[25, 10], [0, 19], [4, 3]]
    values = dots.get_array()
    assert values is not None
    assert values.tolist() == [60, 12, 5]
    assert axes.get_xlim() == (-0.5, 29.5)
    assert axes.get_ylim() == (19.5, -0.5)


def test_beams_of_the_scanner() -> None:
    k = np.array([[720.0, 0, 621], [0, 720, 187], [0, 0, 1]])
    rows, columns = np.nonzero(scanned(k, (375, 1242)))
    x, y = (columns - 621) / 720, (rows - 187) / 720
    elevation = np.degrees(np.arctan2(-y, np.hypot(x, 1)))
    beams = 2 - 26.8 / 63 * np.arange(64)
    off = np.abs(elevation[:, None] - beams).min(1)
    assert off.max() < np.degrees(0.75 / 720)  # half a pixel each way
    assert elevation.max() < 2.1
    # In the middle, 375 rows reach 14.6 degrees down: 16.6 degrees at 0.425 a beam.
    assert len(np.unique(rows[np.abs(columns - 621) < 3])) == 40


def test_shared_pixels() -> None:
    raw = np.array([[0, 10, 22, 30, 50]], dtype=np.float32)
    improved = np.array([[5, 8, 20, 33, 0]], dtype=np.float32)
    everywhere = shared_pixels(raw, improved)
    assert everywhere.pixels == 3
    assert everywhere.difference == pytest.approx(2)
    assert everywhere.relative == pytest.approx(0.1)
    near = shared_pixels(raw, improved, 5, 20)
    assert near == pytest.approx((1, 2, 0.25))
    assert shared_pixels(raw, improved, 60, 80).pixels == 0


@pytest.fixture(scope="module")
def frames(test_data: Path) -> list[LidarFrame]:
    return kitti_frames(test_data / "kitti_mini" / "kitti") + ddad_frames(test_data / "ddad_mini")


def test_enlarged_parts_show_near_before_far(frames: list[LidarFrame]) -> None:
    for frame in [*frames, *street_frames()]:
        assert frame.image.shape == (*frame.depth.shape, 3)
        for box in frame.crops:
            part = cut(frame.depth, box)
            assert part.shape == (box.height, box.width), frame.label
            near, far = np.percentile(part[part > 0], [5, 95])
            assert far > 1.4 * near, (frame.label, box)


def test_the_street_shows_no_far_point_through_a_near_one() -> None:
    """Scanner and camera are at one place there: a row of a trunk is of one depth."""
    trunk = cut(street_frames()[0].depth, Box(250, 190, 8, 60))
    assert 0 < np.ptp(trunk[trunk > 0]) < 1


def test_the_figure_is_written(test_data: Path, tmp_path: Path) -> None:
    output = tmp_path / "figures" / "lidar.png"
    draw_lidar("kitti", output, test_data)
    with Image.open(output) as picture:
        assert picture.size[0] == round(lidar_figure.WIDTH * lidar_figure.DPI)
        pixels = np.asarray(picture.convert("RGB"), dtype=int)
    coloured = np.ptp(pixels, 2) > 120
    assert 0.05 < coloured.mean() < 0.6


def test_titles_tell_frames_and_points(test_data: Path, frames: list[LidarFrame]) -> None:
    root = test_data / "kitti_mini" / "kitti"
    chosen = [frames[0], frames[-1]]
    figure = figure_of("title", "caption", chosen, LogNorm(4, 80), kitti_comparison(root))
    titles = [axes.get_title() for part in figure.subfigs for axes in part.axes]
    for frame in chosen:
        assert f"{frame.label}: {(frame.depth > 0).sum():,} points" in titles
    shared = [title for title in titles if "7,372 shared pixels" in title]
    assert [title.split(": median ")[1] for title in shared] == ["+0.23 m, 1.7%", "-0.05 m, 0.6%"]


def test_absent_data_is_told(tmp_path: Path) -> None:
    names: tuple[DataSet, ...] = ("kitti", "ddad")
    for name in names:
        with pytest.raises(FadepthError, match=f"FADEPTH_TEST_DATA to .* {name}_mini"):
            draw_lidar(name, tmp_path / "x.png", tmp_path)
    assert not list(tmp_path.iterdir())
