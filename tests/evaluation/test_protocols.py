"""Protocols against the published constants."""

from typing import get_args

import numpy as np
import pytest

from fadepth.config import EvaluationSettings
from fadepth.errors import FadepthError
from fadepth.evaluation.protocols import PROTOCOLS, find_protocol, garg_crop, valid_pixels


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


def test_unknown_protocol() -> None:
    with pytest.raises(FadepthError, match="unknown protocol 'make3d': expected one of"):
        find_protocol("make3d")
