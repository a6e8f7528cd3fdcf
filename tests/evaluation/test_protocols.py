"""Protocols against the published constants."""

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from fadepth.config import EvaluationSettings, parse_config
from fadepth.data.manifest import Frame
from fadepth.errors import FadepthError
from fadepth.evaluation.protocols import (
    PROTOCOLS,
    find_protocol,
    garg_crop,
    ground_truth_file,
    load_ground_truth,
    valid_pixels,
)


def test_every_configurable_protocol_exists() -> None:
    names = get_args(EvaluationSettings.model_fields["protocol"].annotation)
    assert set(names) == set(PROTOCOLS)
    assert all(find_protocol(name).name == name for name in names)


def test_garg_crop_at_kittis_size() -> None:
    # monodepth2 trainer.py: compute_depth_losses has 153:371 and 44:1197 for 375 x 1242.
    assert garg_crop(375, 1242) == (slice(153, 371), slice(44, 1197))


def test_raw_counts_strictly_within_range_and_crop() -> None:
    gt = np.full((375, 1242), 5.0)
    gt[200, 100:104] = [0, 1e-3, 80, 79.999]
    mask = valid_pixels(gt, PROTOCOLS["kitti_eigen_raw"])
    assert mask.sum() == (371 - 153) * (1197 - 44) - 3
    assert mask[200, 103]
    assert not mask[152].any()
    assert mask[153, 44]
    assert not mask[153, 1197]


def test_improved_counts_wherever_there_is_a_value() -> None:
    gt = np.zeros((375, 1242))
    gt[0, 0], gt[374, 1241] = 1 / 256, 85.0
    mask = valid_pixels(gt, PROTOCOLS["kitti_eigen_improved"])
    assert mask.sum() == 2


def test_ddad_counts_up_to_200_m_all_over_the_image() -> None:
    # packnet-sfm configs/eval_ddad.yaml: no crop, min_depth 0, max_depth 200.
    gt = np.zeros((1216, 1936))
    gt[0, 0], gt[1215, 1935], gt[600, :3] = 0.5, 199.9, [200, 230, 120]
    mask = valid_pixels(gt, PROTOCOLS["ddad"])
    assert mask.sum() == 3
    assert mask[0, 0] and mask[1215, 1935] and mask[600, 2]
    assert PROTOCOLS["ddad"].clamp == (0.0, 200.0)
    assert PROTOCOLS["ddad"].scaling == "median"


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
    assert ground_truth_file(kitti, PROTOCOLS["kitti_eigen_raw"]) == "scan"
    assert ground_truth_file(ddad, PROTOCOLS["ddad"]) == "scan"
    for wrong, name, expected in [
        (kitti, "ddad", r"\(a lidar scan of DDAD\)"),
        (ddad, "kitti_eigen_raw", r"\(a file of the KITTI raw layout\)"),
        (ddad, "kitti_eigen_improved", r"\(a file of the KITTI raw layout\)"),
    ]:
        with pytest.raises(FadepthError, match=rf"no ground truth {expected} for protocol {name}:"):
            load_ground_truth(wrong, Path(), PROTOCOLS[name])


@pytest.mark.parametrize(
    ("source", "protocol"), [("ddad", "kitti_eigen_raw"), ("kitti", "ddad"), ("synthetic", "ddad")]
)
def test_settings_refuse_a_protocol_of_other_data(source: str, protocol: str) -> None:
    content = {"data": {"source": source}, "evaluation": {"protocol": protocol}}
    with pytest.raises(FadepthError, match=r"for 'evaluation' in x\.yaml: 'protocol' must be ddad"):
        parse_config(content, "x.yaml")


def test_unknown_protocol() -> None:
    with pytest.raises(FadepthError, match="unknown protocol 'make3d': expected one of"):
        find_protocol("make3d")
