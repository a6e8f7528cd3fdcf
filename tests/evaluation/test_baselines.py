"""Baselines: medians of known depth maps, and a sanity check on real frames."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fadepth.data.manifest import Frame
from fadepth.errors import FadepthError
from fadepth.evaluation.baselines import MIN_SAMPLES, fit_baseline
from fadepth.evaluation.evaluate import evaluate

DENSE = "synthetic_dense"


def frame(number: int, size: tuple[int, int], depth: str | None) -> Frame:
    return Frame(
        drive="day/drive",
        frame=number,
        side="l",
        image=f"{number}.png",
        neighbours={},
        intrinsics=(1.0, 1.0, 0.0, 0.0),
        height=size[0],
        width=size[1],
        velodyne=None,
        depth_png=depth,
    )


def write(root: Path, depths: list[np.ndarray]) -> list[Frame]:
    """Store depth maps as PNGs (multiples of 1/256 m survive) and list them."""
    frames = []
    for number, depth in enumerate(depths):
        Image.fromarray(np.round(depth * 256).astype(np.uint16)).save(root / f"d{number}.png")
        frames.append(frame(number, depth.shape, f"d{number}.png"))
    return frames


def test_constant_needs_no_ground_truth(tmp_path: Path) -> None:
    baseline = fit_baseline("constant", [frame(0, (4, 4), None)], tmp_path, DENSE, 6, 8)
    assert np.array_equal(baseline.disparity, np.ones((6, 8)))
    assert baseline.frames_used == 0


def test_row_median_pools_rows_and_fills_empty_ones(tmp_path: Path) -> None:
    # Native 8 x 6 -> map 4 x 3: map row r pools native rows 2r and 2r + 1.
    one, two = np.zeros((8, 6)), np.zeros((8, 6))
    one[2, :3] = [4, 5, 30]
    two[3, 4] = 8  # with the row above: median of 4, 5, 8, 30 = 6.5
    two[6, 2] = 20
    two[7, 2] = 90  # beyond the cap
    frames = [*write(tmp_path, [one, two]), frame(9, (8, 6), None)]
    baseline = fit_baseline("row_median", frames, tmp_path, DENSE, 4, 3)
    expected = 1 / np.repeat([[6.5], [6.5], [6.5], [20.0]], 3, axis=1)
    np.testing.assert_allclose(baseline.disparity, expected)
    assert (baseline.frames_used, baseline.frames_available) == (2, 2)
    assert baseline(frames[0]) is baseline.disparity


def test_native_pixels_go_to_the_cell_that_covers_their_centre(tmp_path: Path) -> None:
    # Centres of 5 rows in units of 4: 0.4, 1.2, 2.0, 2.8, 3.6.
    depth = np.tile([[4.0], [8.0], [16.0], [32.0], [64.0]], (1, 3))
    baseline = fit_baseline("row_median", write(tmp_path, [depth]), tmp_path, DENSE, 4, 3)
    np.testing.assert_allclose(1 / baseline.disparity[:, 0], [4, 8, 24, 64])


def test_pixel_median_falls_back_to_its_row(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    depths = [rng.integers(256, 60 * 256, (6, 10)) / 256 for _ in range(MIN_SAMPLES)]
    for depth in depths:
        depth[0, 0] = 0
    depths[0][3, 7] = 0  # one sample too few
    frames = write(tmp_path, depths)
    baseline = fit_baseline("pixel_median", frames, tmp_path, DENSE, 6, 10)
    stack = np.stack(depths)
    expected = np.median(stack, 0)
    rows = [np.median(stack[:, r][stack[:, r] > 0]) for r in range(6)]
    expected[0, 0], expected[3, 7] = rows[0], rows[3]
    np.testing.assert_allclose(baseline.disparity, 1 / expected)


def test_frames_are_spread_evenly_when_limited(tmp_path: Path) -> None:
    frames = write(tmp_path, [np.full((4, 4), float(n + 1)) for n in range(9)])
    baseline = fit_baseline("row_median", frames, tmp_path, DENSE, 4, 4, max_frames=3)
    assert (baseline.frames_used, baseline.frames_available) == (3, 9)
    np.testing.assert_allclose(baseline.disparity, 1 / 5)  # frames 1, 5 and 9


def test_a_fixed_street_is_predicted_perfectly(tmp_path: Path) -> None:
    street = np.tile(np.linspace(40, 4, 64)[:, None], (1, 208))
    frames = write(tmp_path, [street * 0.5, street, street * 1.5])
    baseline = fit_baseline("row_median", frames, tmp_path, DENSE, 64, 208)
    _, mean = evaluate(frames, tmp_path, baseline, DENSE)
    assert mean["abs_rel"] < 1e-3
    assert mean["delta_1"] == 1


def test_no_ground_truth_is_told(tmp_path: Path) -> None:
    with pytest.raises(FadepthError, match="none of 1 training frames has ground truth for"):
        fit_baseline("row_median", [frame(0, (4, 4), None)], tmp_path, DENSE, 4, 4)
    empty = write(tmp_path, [np.zeros((4, 4))])
    with pytest.raises(FadepthError, match="of 1 training frames holds no depth in the range"):
        fit_baseline("pixel_median", empty, tmp_path, DENSE, 4, 4)
    with pytest.raises(FadepthError, match="unknown baseline 'mean'"):
        fit_baseline("mean", empty, tmp_path, DENSE, 4, 4)  # type: ignore[arg-type]


def test_order_on_real_frames(test_data: Path, tmp_path: Path) -> None:
    from fadepth.config import DataSettings
    from fadepth.data.prepare import prepare_data

    root = test_data / "kitti_mini" / "kitti"
    config = DataSettings(root=str(root), splits=str(test_data / "kitti_mini/splits/tiny"))
    manifest = prepare_data(config, tmp_path / "m.json", base=tmp_path)
    abs_rel = {}
    for kind in ("constant", "row_median"):
        baseline = fit_baseline(
            kind,
            manifest.splits["train"],
            root,
            "kitti_eigen_raw",
            64,
            208,
        )
        _, mean = evaluate(manifest.splits["test"], root, baseline, "kitti_eigen_raw")
        abs_rel[kind] = mean["abs_rel"]
    # A road in perspective explains much of a street's depth.
    assert abs_rel["row_median"] < 0.6 * abs_rel["constant"]
