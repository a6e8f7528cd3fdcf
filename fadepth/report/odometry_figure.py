"""A figure of a trajectory: predicted against true, seen from above."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from fadepth.data.kitti_odometry import OdometrySequence
from fadepth.evaluation.odometry import aligned_positions
from fadepth.files import atomic_path


def draw_trajectory(
    path: Path, sequence: OdometrySequence, poses: NDArray[np.float64], label: str
) -> None:
    """Both trajectories in the plane x (right), z (ahead), metres, after a similarity alignment.

    Args:
        path: the .png file.
        sequence: holds the true poses.
        poses: predicted T_world_camera (N, 4, 4), up to scale.
        label: name of the run.
    """
    true, predicted = aligned_positions(sequence.poses, poses, "sim3")
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(true[:, 0], true[:, 2], color="0.35", linewidth=1.5, label="ground truth")
    axes.plot(predicted[:, 0], predicted[:, 2], color="tab:red", linewidth=1.5, label=label)
    axes.plot(*true[0, [0, 2]], marker="o", color="0.35", linestyle="none", label="start")
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("x, metres")
    axes.set_ylabel("z, metres")
    axes.set_title(f"KITTI odometry {sequence.name}, {len(true)} frames, aligned with scale")
    axes.legend(frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)
