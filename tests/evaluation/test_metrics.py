"""Metrics and evaluation against closed forms and a plain second implementation."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fadepth.config import DataSettings
from fadepth.data.kitti import velodyne_depth
from fadepth.data.manifest import Frame
from fadepth.data.prepare import prepare_data
from fadepth.errors import FadepthError
from fadepth.evaluation import depth_metrics
from fadepth.evaluation.evaluate import evaluate, resize_map
from fadepth.evaluation.metrics import METRICS
from fadepth.evaluation.protocols import find_protocol

RAW = find_protocol("kitti_eigen_raw")
AS_IS = RAW.model_copy(update={"scaling": "none"})
PERFECT = dict.fromkeys(METRICS, 0.0) | {"delta_1": 1.0, "delta_2": 1.0, "delta_3": 1.0}


def depth_map(seed: int = 0, low: float = 2.0, high: float = 70.0) -> np.ndarray:
    """A map with holes, and values outside the range, (60, 200)."""
    rng = np.random.default_rng(seed)
    depth = rng.uniform(low, high, (60, 200))
    depth[rng.random(depth.shape) < 0.3] = 0
    depth[rng.random(depth.shape) < 0.1] = 90
    return depth


def slow_metrics(gt: np.ndarray, pred: np.ndarray) -> dict[str, float]:
    """KITTI Eigen with raw lidar, pixel by pixel, from its description."""
    height, width = gt.shape
    pairs = [
        (float(gt[y, x]), float(pred[y, x]))
        for y in range(int(0.40810811 * height), int(0.99189189 * height))
        for x in range(int(0.03594771 * width), int(0.96405229 * width))
        if 1e-3 < gt[y, x] < 80
    ]

    def median(values: list[float]) -> float:
        values = sorted(values)
        middle = len(values) // 2
        return values[middle] if len(values) % 2 else (values[middle - 1] + values[middle]) / 2

    ratio = median([g for g, _ in pairs]) / median([p for _, p in pairs])
    pairs = [(g, min(max(p * ratio, 1e-3), 80.0)) for g, p in pairs]
    n = len(pairs)
    result = {
        "abs_rel": sum(abs(g - p) / g for g, p in pairs) / n,
        "sq_rel": sum((g - p) ** 2 / g for g, p in pairs) / n,
        "rmse": math.sqrt(sum((g - p) ** 2 for g, p in pairs) / n),
        "rmse_log": math.sqrt(sum((math.log(g) - math.log(p)) ** 2 for g, p in pairs) / n),
    }
    for k in (1, 2, 3):
        result[f"delta_{k}"] = sum(max(g / p, p / g) < 1.25**k for g, p in pairs) / n
    return result


def test_perfect_prediction() -> None:
    gt = depth_map()
    assert depth_metrics(gt, np.maximum(gt, 1), "kitti_eigen_raw") == pytest.approx(PERFECT)


def test_median_scaling_removes_a_factor() -> None:
    gt = depth_map()
    assert depth_metrics(gt, np.maximum(2 * gt, 1), RAW) == pytest.approx(PERFECT, abs=1e-12)


def test_known_ratio_without_scaling() -> None:
    gt = depth_map(high=60.0)
    gt[gt > 60] = 0
    result = depth_metrics(gt, np.maximum(1.3 * gt, 1), AS_IS)
    used = gt[24:59, 7:192]
    used = used[used > 0]
    assert result == pytest.approx(
        {
            "abs_rel": 0.3,
            "sq_rel": 0.09 * used.mean(),
            "rmse": 0.3 * math.sqrt((used**2).mean()),
            "rmse_log": math.log(1.3),
            "delta_1": 0.0,
            "delta_2": 1.0,
            "delta_3": 1.0,
        }
    )
    assert depth_metrics(gt, np.maximum(1.24 * gt, 1), AS_IS)["delta_1"] == 1
    assert depth_metrics(gt, np.maximum(gt / 1.5625001, 1e-3), AS_IS)["delta_2"] == 0


def test_clamp_is_applied_after_scaling() -> None:
    gt = np.full((60, 200), 40.0)
    gt[:, 150:] = 79.0
    pred = np.full((60, 200), 0.4)
    pred[:, 150:] = 50.0  # 5000 m after scaling, 80 after the clamp
    assert depth_metrics(gt, pred, RAW)["delta_1"] == 1


def test_values_on_the_limits_do_not_count() -> None:
    gt = np.full((60, 200), 10.0)
    gt[30, 50], gt[30, 51], gt[30, 52] = 80.0, 1e-3, 0.0
    pred = np.full((60, 200), 10.0)
    pred[30, 50:53] = 1.0
    pred[:24] = 1.0  # above the crop
    assert depth_metrics(gt, pred, RAW) == pytest.approx(PERFECT)
    gt[30, 50] = np.nextafter(80.0, 0)
    assert depth_metrics(gt, pred, RAW)["abs_rel"] > 0


def test_result_is_float64_for_float32_input() -> None:
    gt = depth_map().astype(np.float32)
    pred = (depth_map(1).clip(1) ** 0.5).astype(np.float32)
    exact = depth_metrics(gt.astype(float), pred.astype(float), RAW)
    assert depth_metrics(gt, pred, RAW) == exact


@pytest.mark.parametrize("seed", range(3))
def test_slow_version_agrees(seed: int) -> None:
    gt, pred = depth_map(seed), depth_map(seed + 10).clip(0.5) ** 0.7
    assert depth_metrics(gt, pred, RAW) == pytest.approx(slow_metrics(gt, pred), rel=1e-12)


def test_bad_input_is_told() -> None:
    gt = depth_map()
    with pytest.raises(FadepthError, match=r"is \(60, 200\) but the prediction \(30, 100\)"):
        depth_metrics(gt, gt[::2, ::2], RAW)
    with pytest.raises(FadepthError, match="no ground truth pixel between"):
        depth_metrics(np.zeros_like(gt), np.ones_like(gt), RAW)
    for value in (0.0, -1.0, np.nan, np.inf):
        pred = np.ones_like(gt)
        pred[gt > 0] = value
        with pytest.raises(FadepthError, match="not positive and finite"):
            depth_metrics(gt, pred, RAW)
    with pytest.raises(
        FadepthError, match=r"unknown protocol 'eigen': expected one of .*kitti_eigen_raw"
    ):
        depth_metrics(gt, gt, "eigen")


@pytest.fixture(scope="module")
def tiny(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Frame]]:
    """The 19 test frames of kitti_mini and their root."""
    folder = test_data / "kitti_mini"
    base = tmp_path_factory.mktemp("tiny")
    test = (folder / "splits/tiny/test_files.txt").read_text()
    for name in ("train", "val"):
        (base / f"{name}_files.txt").write_text("2011_09_26/2011_09_26_drive_0001_sync 6 l\n")
    (base / "test_files.txt").write_text(test)
    config = DataSettings(root=str(folder / "kitti"), splits=".")
    return folder / "kitti", prepare_data(config, base / "m.json", base=base).splits["test"]


def bilinear(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Half-pixel bilinear resize with repeated edges, as cv2 documents INTER_LINEAR."""
    h, w = image.shape
    y = np.clip((np.arange(height) + 0.5) * h / height - 0.5, 0, h - 1)
    x = np.clip((np.arange(width) + 0.5) * w / width - 0.5, 0, w - 1)
    y0, x0 = np.floor(y).astype(int), np.floor(x).astype(int)
    y1, x1 = np.minimum(y0 + 1, h - 1), np.minimum(x0 + 1, w - 1)
    fy, fx = (y - y0)[:, None], (x - x0)[None]
    top = image[y0][:, x0] * (1 - fx) + image[y0][:, x1] * fx
    bottom = image[y1][:, x0] * (1 - fx) + image[y1][:, x1] * fx
    return top * (1 - fy) + bottom * fy


@pytest.mark.parametrize("size", [(375, 1242), (30, 100), (96, 320), (100, 41)])
def test_resize_reads_four_neighbours_at_half_pixel_centres(size: tuple[int, int]) -> None:
    disparity = np.random.default_rng(0).uniform(0.01, 10, (60, 200))
    np.testing.assert_allclose(resize_map(disparity, *size), bilinear(disparity, *size))


def test_evaluation_on_real_frames(tiny: tuple[Path, list[Frame]]) -> None:
    root, frames = tiny
    frames = frames[:3]

    def predict(frame: Frame) -> np.ndarray:
        rng = np.random.default_rng(frame.frame)
        ramp = np.linspace(0.01, 0.3, 48)[:, None]
        return (ramp * rng.uniform(0.7, 1.4, (48, 160))).astype(np.float32)

    table, mean = evaluate(frames, root, predict, "kitti_eigen_raw")
    assert list(table.columns) == ["drive", "frame", "side", *METRICS, "scale_ratio"]
    for row, frame in zip(table.to_dict("records"), frames, strict=True):
        assert (row["drive"], row["frame"], row["side"]) == (frame.drive, frame.frame, "l")
        gt = velodyne_depth(root, frame.id)
        depth = 1 / bilinear(predict(frame).astype(float), *gt.shape)
        expected = slow_metrics(gt, depth)
        assert {name: row[name] for name in METRICS} == pytest.approx(expected, rel=1e-9)
    for name in METRICS:
        assert mean[name] == pytest.approx(sum(table[name]) / 3)


def test_scale_ratio_of_a_constant_is_the_median_depth(tiny: tuple[Path, list[Frame]]) -> None:
    root, frames = tiny
    table, _ = evaluate(frames[:1], root, lambda frame: np.full((8, 8), 0.5), RAW)
    gt = velodyne_depth(root, frames[0].id)[153:371, 44:1197]
    assert table["scale_ratio"][0] == pytest.approx(np.median(gt[(gt > 1e-3) & (gt < 80)]) / 2)


def test_improved_ground_truth(test_data: Path, tiny: tuple[Path, list[Frame]]) -> None:
    root, frames = tiny
    drive = "2011_09_26/2011_09_26_drive_0001_sync"
    png = f"{drive}/proj_depth/groundtruth/image_02/0000000008.png"
    frame = replace(frames[0], drive=drive, frame=8, velodyne=None, depth_png=png)
    table, _ = evaluate([frame], root, lambda f: np.full((8, 8), 0.5), "kitti_eigen_improved")
    from PIL import Image

    with Image.open(root / png) as image:
        gt = np.asarray(image) / 256
    median = np.median(gt[gt > 0])
    assert table["scale_ratio"][0] == pytest.approx(median / 2)
    expected = np.mean(np.abs(gt - median)[gt > 0] / gt[gt > 0])
    assert table["abs_rel"][0] == pytest.approx(expected)


def test_missing_ground_truth_is_told_before_predicting(tiny: tuple[Path, list[Frame]]) -> None:
    root, frames = tiny
    without = replace(frames[1], velodyne=None)

    def predict(frame: Frame) -> np.ndarray:
        raise AssertionError("predicted before the check")

    with pytest.raises(FadepthError) as error:
        evaluate([frames[0], without], root, predict, RAW)
    assert str(without) in str(error.value)
    assert f"velodyne_points/data/{without.frame:010d}.bin" in str(error.value)
    with pytest.raises(FadepthError, match=r"proj_depth/groundtruth/image_02/\d{10}\.png for prot"):
        evaluate(frames[:1], root, predict, "kitti_eigen_improved")


def test_diverged_prediction_names_the_frame(tiny: tuple[Path, list[Frame]]) -> None:
    root, frames = tiny
    with pytest.raises(FadepthError, match=r"^frame .*drive_0002_sync 0000000003 l: .*diverged"):
        evaluate(frames[:1], root, lambda frame: np.full((8, 8), np.nan), RAW)
    with pytest.raises(FadepthError, match="there is no frame to evaluate"):
        evaluate([], root, lambda frame: np.ones((8, 8)), RAW)
