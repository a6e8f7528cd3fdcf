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
    """True and predicted positions in the plane x (right), z (ahead), metres.

    The prediction twice: aligned with rotation and scale, which hides a wrong heading, and with
    scale alone.

    Args:
        path: the .png file.
        sequence: holds the true poses.
        poses: predicted T_world_camera (N, 4, 4), up to scale.
        label: name of the run.
    """
    true, turned = aligned_positions(sequence.poses, poses, "sim3")
    _, scaled = aligned_positions(sequence.poses, poses, "scale")
    figure = Figure(figsize=(5, 5), layout="constrained")
    axes = figure.subplots()
    axes.plot(true[:, 0], true[:, 2], color="0.35", linewidth=1.5, label="ground truth")
    for positions, style, how in ((turned, "-", "rotation and scale"), (scaled, ":", "scale")):
        x, z = positions[:, 0], positions[:, 2]
        axes.plot(x, z, style, color="tab:red", linewidth=1.5, label=f"{label}, aligned by {how}")
    axes.plot(*true[0, [0, 2]], marker="o", color="0.35", linestyle="none", label="start")
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel("x, metres")
    axes.set_ylabel("z, metres")
    axes.set_title(f"KITTI odometry {sequence.name}, {len(true)} frames")
    for text in axes.legend(frameon=False).get_texts():
        text.set_parse_math(False)  # a label with a dollar is no formula
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=130)
