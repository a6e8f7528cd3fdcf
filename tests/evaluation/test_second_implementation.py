"""The whole evaluation once more, in plain numpy, from the protocols' descriptions alone.

Nothing of fadepth is used on that side, from the files' bytes to the mean over images. The truth of
a pixel is found point by point in a loop.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from fadepth.checkpoint import Identity
from fadepth.config import DataSettings
from fadepth.data.kitti import DepthValue, read_depth_png, velodyne_depth
from fadepth.data.manifest import Frame, Manifest
from fadepth.data.prepare import prepare_data
from fadepth.evaluation import depth_metrics
from fadepth.evaluation.evaluate import evaluate, predict_disparity
from fadepth.evaluation.protocols import find_protocol
from fadepth.geometry import disparity_to_inverse_depth
from fadepth.models import fold
from fadepth.training import Job, Training, load_depth_network
from tests.tiny import tiny_config

Map = NDArray[np.float64]

DRIVE = "2011_09_26/2011_09_26_drive_0001_sync"
IMPROVED_FRAMES = range(5, 17)
METRICS = ("abs_rel", "sq_rel", "rmse", "rmse_log", "delta_1", "delta_2", "delta_3")
SIZE = (64, 208)


class Kitti(NamedTuple):
    """The small subset, prepared."""

    root: Path
    manifest: Manifest
    improved: list[Frame]


@pytest.fixture(scope="module")
def kitti(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Kitti:
    """Its 19 test frames, 24 to train with, and the 12 that have improved ground truth."""
    source = test_data / "kitti_mini"
    base = tmp_path_factory.mktemp("lists")
    lists = source / "splits/tiny"
    train = (lists / "train_files.txt").read_text().splitlines()[:24]
    (base / "train_files.txt").write_text("\n".join(train) + "\n")
    (base / "val_files.txt").write_text(f"{DRIVE} 6 l\n")
    improved = [f"{DRIVE} {number} l\n" for number in IMPROVED_FRAMES]
    (base / "test_files.txt").write_text((lists / "test_files.txt").read_text() + "".join(improved))
    root = source / "kitti"
    config = DataSettings(root=str(root), splits=".")
    manifest = prepare_data(config, base / "manifest.jsonl", base=base)
    frames = manifest.splits["test"]
    assert len(frames) == 31
    return Kitti(root, manifest, frames[19:])


# The second implementation


def calibration(path: Path) -> dict[str, list[float]]:
    values = {}
    for line in path.read_text().splitlines():
        key, _, rest = line.partition(": ")
        if key != "calib_time":
            values[key] = [float(word) for word in rest.split()]
    return values


def raw_truth(root: Path, drive: str, number: int, value: str) -> Map:
    """Raw lidar of the left camera: each pixel's nearest point; `value` is "x" or "z".

    Pixels are rounded positions - 1. Points of one pixel are told by the key
    row * (width - 1) + column - 1; the pixel of the first of them gets the nearest, others keep
    their last.
    """
    day = root / drive.split("/")[0]
    cameras = calibration(day / "calib_cam_to_cam.txt")
    lidar = calibration(day / "calib_velo_to_cam.txt")
    width, height = (int(side) for side in cameras["S_rect_02"])
    rotation, rectify, motion = np.eye(4), np.eye(4), np.eye(4)
    rectify[:3, :3] = np.reshape(cameras["R_rect_00"], (3, 3))
    rotation[:3, :3], motion[:3, 3] = np.reshape(lidar["R"], (3, 3)), lidar["T"]
    matrix = np.reshape(cameras["P_rect_02"], (3, 4)) @ rectify @ motion @ rotation
    content = (root / drive / "velodyne_points/data" / f"{number:010d}.bin").read_bytes()
    points = np.frombuffer(content, dtype=np.float32).reshape(-1, 4)[:, :3].astype(float)
    truth = np.zeros((height, width))
    groups: dict[int, list[tuple[int, int, float]]] = {}
    for x, y, z in points.tolist():
        if x < 0:
            continue
        u, v, w = (row[0] * x + row[1] * y + row[2] * z + row[3] for row in matrix.tolist())
        column, row = round(u / w) - 1, round(v / w) - 1
        if not (0 <= column < width and 0 <= row < height):
            continue
        distance = x if value == "x" else w
        truth[row, column] = distance
        groups.setdefault(row * (width - 1) + column - 1, []).append((row, column, distance))
    for members in groups.values():
        if len(members) > 1:
            row, column, _ = members[0]
            truth[row, column] = min(distance for _, _, distance in members)
    return truth


def improved_truth(root: Path, drive: str, number: int) -> Map:
    path = root / drive / "proj_depth/groundtruth/image_02" / f"{number:010d}.png"
    with Image.open(path) as image:
        return np.array(image, dtype=float) / 256


def half_pixel_resize(values: NDArray[np.floating], height: int, width: int) -> Map:
    """Bilinear; the centre of output pixel i lies at (i + 0.5) * old / new - 0.5 of the input."""

    def along_rows(old: NDArray[np.floating], new: int) -> Map:
        result = np.empty((new, old.shape[1]))
        for i in range(new):
            place = min(max((i + 0.5) * len(old) / new - 0.5, 0.0), len(old) - 1.0)
            below = int(place)
            above = min(below + 1, len(old) - 1)
            result[i] = old[below] + (place - below) * (old[above] - old[below])
        return result

    return along_rows(along_rows(values, height).T, width).T


def garg(height: int, width: int) -> NDArray[np.bool_]:
    inside = np.zeros((height, width), dtype=bool)
    inside[
        int(0.40810811 * height) : int(0.99189189 * height),
        int(0.03594771 * width) : int(0.96405229 * width),
    ] = True
    return inside


def second_metrics(truth: Map, disparity: NDArray[np.floating], cropped: bool) -> dict[str, float]:
    """The seven metrics of one image, after scaling by medians and clamping to [1e-3, 80]."""
    height, width = truth.shape
    counts = truth > 0
    if cropped:
        counts = (truth > 1e-3) & (truth < 80) & garg(height, width)
    depth = 1 / half_pixel_resize(np.asarray(disparity, dtype=float), height, width)
    g, p = truth[counts], depth[counts]
    ratio = median(g.tolist()) / median(p.tolist())
    p = np.minimum(np.maximum(p * ratio, 1e-3), 80)
    n = len(g)
    worse = [max(a / b, b / a) for a, b in zip(g.tolist(), p.tolist(), strict=True)]
    result = {
        "abs_rel": (abs(g - p) / g).sum() / n,
        "sq_rel": ((g - p) * (g - p) / g).sum() / n,
        "rmse": (((g - p) * (g - p)).sum() / n) ** 0.5,
        "rmse_log": (np.log(g / p) ** 2).sum() ** 0.5 / n**0.5,
    }
    for k in (1, 2, 3):
        result[f"delta_{k}"] = sum(value < 1.25**k for value in worse) / n
    return {name: float(value) for name, value in result.items()} | {"scale_ratio": ratio}


@cache
def second_truth(root: Path, drive: str, number: int, protocol: str) -> Map:
    if protocol == "kitti_eigen_improved":
        return improved_truth(root, drive, number)
    return raw_truth(root, drive, number, "z" if protocol == "kitti_eigen_raw_z" else "x")


# Predictions


def constant(frame: Frame) -> NDArray[np.floating]:
    return np.full((48, 160), 0.07)


def ramp(frame: Frame) -> NDArray[np.floating]:
    """3 m at the bottom to 80 m at the top, half as far again at the right."""
    rows = np.geomspace(80, 3, 96)[:, None]
    depth = rows * np.linspace(1, 1.5, 320)[None]
    return 1 / depth


@pytest.fixture(scope="module")
def student(kitti: Kitti, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Frame], Map]:
    """A student after 8 steps, folded, as its run's evaluation uses it."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs") / "student"
    folder.mkdir()
    config = tiny_config(
        kitti.root, data__height=SIZE[0], data__width=SIZE[1],
        training__epochs=2, training__steps_per_epoch=4,
    )  # fmt: skip
    identity = Identity("c", "d", "e")
    job = Job("student", "student", config, 1, identity, folder, kitti.manifest, kitti.root)
    Training(job).run()
    trained, _ = load_depth_network(folder / "model.pt")
    folded: nn.Module = fold(trained).eval()

    @torch.inference_mode()
    def network(image: Tensor) -> Tensor:
        return disparity_to_inverse_depth(folded(image))

    protocol = find_protocol("kitti_eigen_raw")

    @cache
    def of_image(path: str) -> Map:
        frame = next(f for f in kitti.manifest.splits["test"] if f.image == path)
        return predict_disparity(network, frame, kitti.root, SIZE, protocol)

    return lambda frame: of_image(frame.image)


# Agreement


@pytest.mark.parametrize("prediction", ["constant", "ramp", "student"])
@pytest.mark.parametrize(
    "protocol", ["kitti_eigen_raw", "kitti_eigen_raw_z", "kitti_eigen_improved"]
)
def test_both_implementations_agree(
    protocol: str, prediction: str, kitti: Kitti, request: pytest.FixtureRequest
) -> None:
    """Per image and in the mean, to a millionth."""
    predict: Callable[[Frame], NDArray[np.floating]]
    if prediction == "student":
        predict = request.getfixturevalue("student")
    else:
        predict = {"constant": constant, "ramp": ramp}[prediction]
    improved = protocol == "kitti_eigen_improved"
    frames = kitti.improved if improved else kitti.manifest.splits["test"][:19]
    table, mean = evaluate(frames, kitti.root, predict, protocol)
    expected = [
        second_metrics(
            second_truth(kitti.root, frame.drive, frame.frame, protocol),
            np.asarray(predict(frame), dtype=float),
            cropped=not improved,
        )
        for frame in frames
    ]
    assert len(table) == len(expected) == (12 if improved else 19)
    for name in (*METRICS, "scale_ratio"):
        of_images = [row[name] for row in expected]
        np.testing.assert_allclose(table[name], of_images, rtol=1e-6, err_msg=name)
        if name in METRICS:
            assert mean[name] == pytest.approx(sum(of_images) / len(of_images), rel=1e-6)
    assert list(mean) == list(METRICS)


def test_predictions_differ_where_it_matters(kitti: Kitti, student: Callable[[Frame], Map]) -> None:
    """Else the agreement above would prove nothing: neither flat nor equal for all images."""
    one, other = (student(frame) for frame in kitti.manifest.splits["test"][:2])
    assert one.shape == SIZE
    assert np.ptp(one) > 0.05 * one.mean()
    assert not np.allclose(one, other, rtol=1e-3)


@pytest.mark.parametrize("slip", ["align corners", "depth resized", "no crop", "lower median"])
def test_the_agreement_would_show_a_slip(slip: str, kitti: Kitti) -> None:
    """Each of the well-known slips moves some metric by far more than a millionth."""
    frame = kitti.manifest.splits["test"][0]
    truth = second_truth(kitti.root, frame.drive, frame.frame, "kitti_eigen_raw")
    right = second_metrics(truth, ramp(frame), cropped=True)
    height, width = truth.shape
    depth = 1 / half_pixel_resize(ramp(frame), height, width)
    protocol = find_protocol("kitti_eigen_raw")
    if slip == "align corners":
        rows, columns = (np.linspace(0, n - 1, m) for n, m in ((96, height), (320, width)))
        depth = 80 * (3 / 80) ** (rows[:, None] / 95) * (1 + columns[None] / 319 / 2)
    elif slip == "depth resized":
        depth = half_pixel_resize(1 / ramp(frame), height, width)
    elif slip == "no crop":
        protocol = protocol.model_copy(update={"crop": None})
    else:
        protocol = protocol.model_copy(update={"scaling": "lower_median"})
        g = truth[(truth > 1e-3) & (truth < 80) & garg(height, width)]
        if len(g) % 2:
            truth[200, np.flatnonzero(truth[200])[100]] = 0  # an even number of pixels
            right = second_metrics(truth, ramp(frame), cropped=True)
    wrong = depth_metrics(truth, depth, protocol)
    assert max(abs(wrong[name] / right[name] - 1) for name in METRICS) > 1e-5


# The two ground truths


def test_improved_truth_is_read_from_its_16_bit_files(kitti: Kitti) -> None:
    for frame in kitti.improved:
        assert frame.depth_png is not None
        path = kitti.root / frame.depth_png
        head = path.read_bytes()[:26]
        assert head[24:26] == bytes([16, 0])  # IHDR: 16 bits, grey
        depth = read_depth_png(path)
        assert np.array_equal(depth, improved_truth(kitti.root, frame.drive, frame.frame))
        there = depth > 0
        assert 0.15 < there.mean() < 0.25
        assert 3 < depth[there].min() < 6
        assert 70 < depth[there].max() < 90


def test_raw_and_improved_agree_on_shared_pixels(kitti: Kitti) -> None:
    """To about 0.6 % along the camera's axis; forward x starts from the scanner, behind it."""
    frame = kitti.improved[0]
    improved = improved_truth(kitti.root, DRIVE, frame.frame)
    relative, signed = {}, {}
    values: tuple[DepthValue, ...] = ("forward_x", "camera_z")
    for value in values:
        raw = velodyne_depth(kitti.root, frame.id, depth=value)
        shared = (raw > 0) & (improved > 0)
        assert shared.sum() > 7000
        difference = raw[shared] - improved[shared]
        relative[value] = np.median(np.abs(difference) / improved[shared])
        signed[value] = np.median(difference)
    assert 0.001 < relative["camera_z"] < 0.015
    assert relative["forward_x"] > 2 * relative["camera_z"]
    lever = calibration(kitti.root / "2011_09_26" / "calib_velo_to_cam.txt")["T"][2]
    assert signed["forward_x"] - signed["camera_z"] == pytest.approx(-lever, abs=0.05)
    # Another frame's truth would not do.
    other = improved_truth(kitti.root, DRIVE, frame.frame + 11)
    raw = velodyne_depth(kitti.root, frame.id, depth="camera_z")
    shared = (raw > 0) & (other > 0)
    assert np.median(np.abs(raw - other)[shared] / other[shared]) > 2 * relative["camera_z"]
