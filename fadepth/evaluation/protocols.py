"""Protocols: which ground truth, which of its pixels, which scaling."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fadepth.data.ddad import project_lidar, read_point_cloud
from fadepth.data.kitti import (
    CAMERAS,
    depth_png_path,
    read_depth_png,
    velodyne_depth,
    velodyne_path,
)
from fadepth.data.manifest import Frame
from fadepth.errors import FadepthError

GroundTruth = Literal["velodyne_forward_x", "improved_png", "depth_png", "ddad_lidar"]


@dataclass(frozen=True)
class Protocol:
    """How predicted depth is compared with ground truth.

    Attributes:
        name: key in `PROTOCOLS`.
        ground_truth: `velodyne_forward_x`: lidar scan, see `fadepth.data.kitti.project_velodyne`;
            `improved_png`: accumulated lidar of KITTI depth (Uhrig et al., 3DV 2017);
            `depth_png`: dense depth of a renderer; both are uint16 PNGs in metres · 256;
            `ddad_lidar`: lidar scan along the camera's z, see `fadepth.data.ddad.project_lidar`.
        crop: `garg` (`garg_crop`) or none.
        min_depth, max_depth: ground truth counts strictly between them, metres.
        clamp: range that predictions are forced into after scaling, metres.
        scaling: `median`: each prediction is multiplied by median(gt) / median(prediction) over
            the pixels that count, as monocular training leaves scale open; None: as it is.
    """

    name: str
    ground_truth: GroundTruth
    crop: Literal["garg"] | None
    min_depth: float
    max_depth: float
    clamp: tuple[float, float]
    scaling: Literal["median"] | None = "median"


#: The first two are monodepth2's `evaluate_depth.py` with `--eval_split eigen` and
#: `eigen_benchmark` (https://github.com/nianticlabs/monodepth2); the improved ground truth counts
#: wherever it is present, without crop or cap. The third is the first one on dense depth [derived].
#: The last is packnet-sfm's `configs/eval_ddad.yaml` with `utils/depth.py: compute_depth_metrics`
#: (https://github.com/TRI-ML/packnet-sfm): the whole 1936 x 1216 image, up to 200 m. What all
#: protocols here share differs from it in the last digits: numpy's median, and how disparity is
#: resized.
PROTOCOLS: dict[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        Protocol("kitti_eigen_raw", "velodyne_forward_x", "garg", 1e-3, 80.0, (1e-3, 80.0)),
        Protocol("kitti_eigen_improved", "improved_png", None, 0.0, math.inf, (1e-3, 80.0)),
        Protocol("synthetic_dense", "depth_png", "garg", 1e-3, 80.0, (1e-3, 80.0)),
        Protocol("ddad", "ddad_lidar", None, 0.0, 200.0, (0.0, 200.0)),
    )
}


def find_protocol(name: str) -> Protocol:
    """Return the protocol called `name`.

    Raises:
        FadepthError: there is none; the known names are listed.
    """
    if name not in PROTOCOLS:
        raise FadepthError(f"unknown protocol '{name}': expected one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def garg_crop(height: int, width: int) -> tuple[slice, slice]:
    """Return rows and columns that count (Garg et al., arXiv 1603.04992, as in monodepth2)."""
    rows = slice(int(0.40810811 * height), int(0.99189189 * height))
    columns = slice(int(0.03594771 * width), int(0.96405229 * width))
    return rows, columns


def valid_pixels(ground_truth: NDArray[np.floating], protocol: Protocol) -> NDArray[np.bool_]:
    """Return the (h, w) mask of pixels that count."""
    mask = (ground_truth > protocol.min_depth) & (ground_truth < protocol.max_depth)
    if protocol.crop == "garg":
        inside = np.zeros_like(mask)
        inside[garg_crop(*mask.shape)] = True
        mask &= inside
    return mask


def ground_truth_file(frame: Frame, protocol: Protocol) -> str | None:
    """Return the file that holds the frame's ground truth, relative to the root; None if absent."""
    of_ddad = frame.lidar_to_camera is not None
    if protocol.ground_truth == "ddad_lidar":
        return frame.velodyne if of_ddad else None
    if protocol.ground_truth == "velodyne_forward_x":
        return None if of_ddad else frame.velodyne
    return frame.depth_png


def require_ground_truth(frame: Frame, root: Path, protocol: Protocol) -> Path:
    """Return the path of the frame's ground truth.

    Raises:
        FadepthError: the manifest has none of the protocol's kind.
    """
    path = ground_truth_file(frame, protocol)
    if path is not None:
        return root / path
    raise FadepthError(
        f"frame {frame} has no ground truth {_expected(frame, root, protocol)} for protocol "
        f"{protocol.name}: add the file and prepare the data again, or take the frame off the list"
    )


def _expected(frame: Frame, root: Path, protocol: Protocol) -> str:
    if protocol.ground_truth == "ddad_lidar":
        return "(a lidar scan of DDAD)"
    if frame.side not in CAMERAS:
        return "(a file of the KITTI raw layout)"
    lidar = protocol.ground_truth == "velodyne_forward_x"
    return str(velodyne_path(root, frame.id) if lidar else depth_png_path(root, frame.id))


def load_ground_truth(frame: Frame, root: Path, protocol: Protocol) -> NDArray[np.float32]:
    """Return (h, w) depth in metres at native size, 0 = none.

    Raises:
        FadepthError: the frame has no ground truth of the protocol's kind, or it is damaged.
    """
    path = require_ground_truth(frame, root, protocol)
    if protocol.ground_truth == "velodyne_forward_x":
        return velodyne_depth(root, frame.id, depth="forward_x")
    if protocol.ground_truth == "ddad_lidar":
        assert frame.lidar_to_camera is not None, "ground_truth_file has looked"
        motion = np.reshape(frame.lidar_to_camera, (3, 4))
        points = read_point_cloud(path)
        return project_lidar(points, motion, frame.intrinsics, frame.height, frame.width)
    return read_depth_png(path)
