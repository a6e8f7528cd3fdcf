"""Protocols against the published constants."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from fadepth.data.ddad import project_lidar
from fadepth.data.manifest import Frame
from fadepth.errors import FadepthError
from fadepth.evaluation import depth_metrics
from fadepth.evaluation.evaluate import depth_at, network_input, post_process, predict_disparity
from fadepth.evaluation.protocols import (
    FOLDER,
    Box,
    find_protocol,
    ground_truth_file,
    load_ground_truth,
    protocol_names,
    valid_pixels,
)
from fadepth.study import resolve_study


def test_every_file_is_a_protocol_of_its_name_and_says_where_it_is_from() -> None:
    assert {"kitti_eigen_raw", "kitti_eigen_improved", "ddad", "make3d"} <= set(protocol_names())
    for name in protocol_names():
        protocol = find_protocol(name)
        assert protocol.name == name
        derived = "[derived]" in (FOLDER / f"{name}.yaml").read_text()
        assert protocol.sources or derived


def test_garg_crop_at_kittis_size() -> None:
    # monodepth2 trainer.py: compute_depth_losses has 153:371 and 44:1197 for 375 x 1242.
    crop = find_protocol("kitti_eigen_raw").crop
    assert crop is not None
    assert crop.slices(375, 1242) == (slice(153, 371), slice(44, 1197))


def test_protocol_of_ones_own(tmp_path: Path) -> None:
    """A file beside the project is read like those that come with it."""
    text = (FOLDER / "kitti_eigen_raw.yaml").read_text()
    own = tmp_path / "near.yaml"
    own.write_text(text.replace("max_depth: 80", "max_depth: 50"))
    gt = np.full((375, 1242), 60.0)
    gt[200, 600] = 40.0
    assert find_protocol(str(own)).name == "near"
    assert valid_pixels(gt, find_protocol(str(own))).sum() == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("scaling: median", "scaling: mean", "key 'scaling"),
        ("max_depth: 80", "", "key 'max_depth': Field required"),
        ("post_process:", "postprocess:", "key 'postprocess': Extra inputs"),
        ("rows: [0.40810811, 0.99189189]", "rows: [0.9, 0.4]", "key 'crop': rows and columns must"),
        ("clamp: [1.0e-3, 80]", "clamp: [80, 1]", ".*clamp must be"),
        ("scaling: median", "scaling: -1", ".*scaling must be above 0"),
        ("max_depth: 80", "max_depth: 0", ".*min_depth must be below"),
        ("data: [kitti]", "data: [make3d]", ".*data must not name make3d"),
        ("rows: [0.40810811, 0.99189189]", "rows: [153, 371]", r"key 'crop': .* within \[0, 1\]"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    text = (FOLDER / "kitti_eigen_raw.yaml").read_text()
    assert old in text
    (tmp_path / "own.yaml").write_text(text.replace(old, new))
    with pytest.raises(FadepthError, match=rf"protocol .*own\.yaml, {said}.*mend the file"):
        find_protocol(str(tmp_path / "own.yaml"))


def test_ddad_is_packnets_arithmetic() -> None:
    """Depth (not disparity) resized with aligned corners, torch's median, cap and clamp at 200 m.

    packnet-sfm `packnet_sfm/utils/depth.py`: scale_depth, compute_depth_metrics.
    """
    rng = np.random.default_rng(4)
    disparity = rng.uniform(0.01, 0.4, (12, 20))
    gt = rng.uniform(1, 260, (38, 60)) * (rng.random((38, 60)) < 0.3)
    depth = F.interpolate(
        torch.from_numpy(1 / disparity)[None, None], gt.shape, mode="bilinear", align_corners=True
    )[0, 0]
    truth = torch.from_numpy(gt)
    valid = (truth > 0) & (truth < 200)
    g, p = truth[valid], depth[valid]
    assert len(g) % 2 == 0  # else both medians agree
    p = (p * torch.median(g) / torch.median(p)).clamp(0, 200)
    protocol = find_protocol("ddad")
    ours = depth_metrics(gt, depth_at(disparity, gt.shape, protocol), protocol)
    assert ours["abs_rel"] == pytest.approx(float(((g - p).abs() / g).mean()), rel=1e-12)
    assert ours["sq_rel"] == pytest.approx(float(((g - p) ** 2 / g).mean()), rel=1e-12)
    assert ours["delta_1"] == float((torch.maximum(g / p, p / g) < 1.25).double().mean())
    usual = find_protocol("ddad_nearest")
    other = depth_metrics(gt, depth_at(disparity, gt.shape, usual), usual)
    assert abs(other["abs_rel"] - ours["abs_rel"]) > 1e-4


def test_ddad_counts_the_scans_last_point_or_the_nearest() -> None:
    points = np.array([[0.0, 0.0, 5.0], [0.0, 0.0, 9.0]])
    camera = np.eye(4), (10.0, 10.0, 2.0, 1.0), 3, 5
    assert project_lidar(points, *camera, collision="last")[1, 2] == 9
    assert project_lidar(points, *camera, collision="nearest")[1, 2] == 5


def test_post_processing_takes_the_outer_parts_from_the_pass_that_sees_more() -> None:
    """Left 5 % of the width from the mirrored pass, right 5 % from the plain one, ramps of 5 %."""
    width = 401
    plain, mirrored = np.full((2, width), 1.0), np.full((2, width), 3.0)
    mixed = post_process(plain, mirrored)
    x = np.linspace(0, 1, width)
    np.testing.assert_allclose(mixed[:, x <= 0.05], 3.0)
    np.testing.assert_allclose(mixed[:, x >= 0.95], 1.0)
    np.testing.assert_allclose(mixed[:, (x >= 0.1) & (x <= 0.9)], 2.0)
    # Half way down the left ramp: half mirrored, half mean.
    np.testing.assert_allclose(mixed[:, np.argmin(abs(x - 0.075))], 2.5, atol=1e-9)


def test_post_processed_prediction_mirrors_back(tmp_path: Path) -> None:
    """A network that sees brightness gives the same map twice, so the mean changes nothing."""
    pixels = np.random.default_rng(0).integers(0, 255, (32, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "i.png")

    def network(image: torch.Tensor) -> torch.Tensor:
        return image.mean(1, keepdim=True) + 0.1

    protocol = find_protocol("kitti_eigen_raw")
    maps = [
        predict_disparity(network, frame(), tmp_path, (32, 64), p)
        for p in (protocol, find_protocol("kitti_eigen_raw_pp"))
    ]
    np.testing.assert_allclose(maps[0], maps[1], rtol=1e-6)


def test_image_crop_shows_the_network_that_part_alone(tmp_path: Path) -> None:
    pixels = np.zeros((40, 64, 3), dtype=np.uint8)
    pixels[10:30] = 200
    Image.fromarray(pixels).save(tmp_path / "i.png")
    box = Box(unit="pixel", rows=(10, 30))
    image = network_input(frame(), tmp_path, (32, 64), box)
    assert image.shape == (1, 3, 32, 64)
    np.testing.assert_allclose(image.numpy(), 200 / 255, rtol=1e-6)


def test_raw_counts_strictly_within_range_and_crop() -> None:
    gt = np.full((375, 1242), 5.0)
    gt[200, 100:104] = [0, 1e-3, 80, 79.999]
    mask = valid_pixels(gt, find_protocol("kitti_eigen_raw"))
    assert mask.sum() == (371 - 153) * (1197 - 44) - 3
    assert mask[200, 103]
    assert not mask[152].any()
    assert mask[153, 44]
    assert not mask[153, 1197]


def test_improved_counts_wherever_there_is_a_value() -> None:
    gt = np.zeros((375, 1242))
    gt[0, 0], gt[374, 1241] = 1 / 256, 85.0
    mask = valid_pixels(gt, find_protocol("kitti_eigen_improved"))
    assert mask.sum() == 2


def test_ddad_counts_up_to_200_m_all_over_the_image() -> None:
    # packnet-sfm configs/eval_ddad.yaml: no crop, min_depth 0, max_depth 200.
    gt = np.zeros((1216, 1936))
    gt[0, 0], gt[1215, 1935], gt[600, :3] = 0.5, 199.9, [200, 230, 120]
    mask = valid_pixels(gt, find_protocol("ddad"))
    assert mask.sum() == 3
    assert mask[0, 0] and mask[1215, 1935] and mask[600, 2]
    assert find_protocol("ddad").clamp == (0.0, 200.0)


def frame(**changes: Any) -> Frame:
    values: dict[str, Any] = {
        "drive": "2011_09_26/2011_09_26_drive_0001_sync", "frame": 5, "side": "l", "image": "i.png",
        "neighbours": {}, "intrinsics": (1.0, 1.0, 0.0, 0.0), "height": 2, "width": 3,
        "velodyne": "scan", "depth_png": None,
    }  # fmt: skip
    return Frame(**(values | changes))


def test_protocol_of_other_data_finds_no_ground_truth() -> None:
    """A scan of DDAD is no scan of KITTI: the values behind it would mean something else."""
    kitti = frame()
    ddad = frame(drive="000001", side="CAMERA_01", lidar_to_camera=tuple(range(12)))
    assert ground_truth_file(kitti, find_protocol("kitti_eigen_raw")) == "scan"
    assert ground_truth_file(ddad, find_protocol("ddad")) == "scan"
    for wrong, name, expected in [
        (kitti, "ddad", r"\(a lidar scan of DDAD\)"),
        (ddad, "kitti_eigen_raw", r"\(a file of the KITTI raw layout\)"),
        (ddad, "kitti_eigen_improved", r"\(a file of the KITTI raw layout\)"),
    ]:
        with pytest.raises(FadepthError, match=rf"no ground truth {expected} for protocol {name}:"):
            load_ground_truth(wrong, Path(), find_protocol(name))


@pytest.mark.parametrize(
    ("source", "protocol"), [("ddad", "kitti_eigen_raw"), ("kitti", "ddad"), ("synthetic", "ddad")]
)
def test_a_protocol_of_other_data_is_refused(source: str, protocol: str, repository: Path) -> None:
    preset = {"data": {"source": source}, "evaluation": {"protocol": protocol}}
    study = repository / "ablations" / "components.yaml"
    with pytest.raises(FadepthError, match=rf"'evaluation.protocol' in x.yaml is {protocol}"):
        resolve_study(study, preset, "x.yaml")


def test_unknown_protocol() -> None:
    with pytest.raises(FadepthError, match="unknown protocol 'nyu': expected one of"):
        find_protocol("nyu")
