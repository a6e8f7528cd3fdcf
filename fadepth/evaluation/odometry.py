"""Camera motion compared with ground truth: snippets, whole trajectories, KITTI's own measures.

A trajectory is (N, 4, 4), T_world_camera of consecutive frames in metres: column 4 is where the
camera is. The scale of monocular training is unknown, so every measure first fits one: per snippet
in `snippet_ate`, one for the whole path in the others. They differ, and a number without the name
of its measure means nothing: the snippets' forgives drift of scale and all drift beyond half a
second, and is not a root mean square.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fadepth.data.kitti_odometry import OdometrySequence, are_rotations
from fadepth.errors import FadepthError

Array = NDArray[np.float64]
Align = Literal["sim3", "se3", "scale"]
Variant = Literal["monodepth2", "sfmlearner"]

#: Metres of the paths, and frames between their starts (odometry devkit `evaluate_odometry.cpp`).
SEGMENT_LENGTHS = (100, 200, 300, 400, 500, 600, 700, 800)
SEGMENT_STEP = 10


# From motions to trajectories


def chain(motions: Array) -> Array:
    """T_world_camera (N, 4, 4) from the motions between consecutive frames (N - 1, 4, 4).

    `motions[t]` maps points of camera t + 1 into the frame of camera t. With frame t + 1 as the
    target and t as the source that is T_target_to_source, what `fadepth.training.source_poses`
    gives for the offset -1. The pose network's own output for the pair (t, t + 1) is the inverse.
    The world is the first camera: pose 0 = I, pose t + 1 = pose t · motions[t].
    """
    poses = np.empty((len(motions) + 1, 4, 4))
    poses[0] = np.eye(4)
    for t, motion in enumerate(motions):
        poses[t + 1] = poses[t] @ motion
    return poses


def predict_trajectory(
    sequence: OdometrySequence,
    pose_between: Callable[[Path, Path], NDArray[np.floating]],
    progress: Callable[[int, int], None] | None = None,
) -> Array:
    """Chain predicted motions over a sequence: T_world_camera (N, 4, 4), up to scale.

    Only the motions are kept. Every image is asked for twice in a row, as the second and then as
    the first of a pair, so `pose_between` saves half of the decoding if it keeps the last one.

    Args:
        sequence: its `images` are read by `pose_between`.
        pose_between: (image t, image t + 1) -> (4, 4) from camera t + 1 to camera t, see `chain`.
        progress: called with (pairs done, pairs in all) at the start and after each pair.

    Raises:
        FadepthError: there are fewer than two images, or a predicted motion is not a finite rigid
            one.
    """
    images = sequence.images
    if len(images) < 2:
        raise FadepthError(
            f"sequence {sequence.name} has {len(images)} images: motion needs at least two"
        )
    motions = np.empty((len(images) - 1, 4, 4))
    if progress:
        progress(0, len(motions))
    for t, (first, second) in enumerate(pairwise(images)):
        motion = np.asarray(pose_between(first, second), dtype=np.float64)
        if not _is_rigid(motion):
            raise FadepthError(
                f"the motion predicted between {first} and {second} is not a finite rigid 4 x 4 "
                "matrix: train the pose network again if it has diverged, and run it in float32"
            )
        # Rotations in float32 are off by 1e-7, which thousands of products would multiply.
        u, _, vt = np.linalg.svd(motion[:3, :3])
        motions[t] = motion
        motions[t, :3, :3] = u @ vt
        if progress:
            progress(t + 1, len(motions))
    return chain(motions)


# Snippets


@dataclass(frozen=True, eq=False)
class SnippetAte:
    """Absolute trajectory error of overlapping snippets.

    Attributes:
        table: one row per snippet: `start` (frame), `ate` (metres), `scale` (factor that was
            applied to the prediction; 0 where it does not move at all).
        mean, std: over the snippets, in metres; std with divisor n, as published.
    """

    table: pd.DataFrame
    mean: float
    std: float


def snippet_ate(
    true: Array, predicted: Array, length: int = 5, variant: Variant = "monodepth2"
) -> SnippetAte:
    """Absolute trajectory error over snippets of `length` frames, one starting at every frame.

    With g_k and p_k the positions within the snippet, the first at the origin:

        s = Σ g_k·p_k / Σ p_k·p_k,    ate = sqrt(Σ |s p_k - g_k|²) / n

    where n is the number of positions. Dividing by n outside the root makes it no RMSE: it is
    1/sqrt(n) of one. Turning the prediction is not allowed, only scaling. Both are kept, since
    all published numbers are computed so.

    `variant` says which code is followed, to the last snippet:

    - `monodepth2` (https://github.com/nianticlabs/monodepth2 `evaluate_pose.py`): N - 1 snippets,
      of which the last `length` - 2 are shorter, down to two positions; and positions come from
      chaining the motions camera t -> t + 1 in the order that belongs to their inverses, in
      prediction and truth alike. Driving straight, that is the path mirrored; in turns it is
      another path, of the same length.
    - `sfmlearner` (https://github.com/tinghuiz/SfMLearner `kitti_eval/`): N - `length` + 1 whole
      snippets, and positions of the cameras as seen from the first one.

    Args:
        true, predicted: (N, 4, 4) T_world_camera; each may have its own world.
        length: frames of a snippet, at least 2.
        variant: see above.

    Raises:
        FadepthError: the shapes differ, values are not finite, or N is smaller than `length`.
    """
    true, predicted = _pair(true, predicted)
    if not 2 <= length <= len(true):
        raise FadepthError(
            f"a trajectory of {len(true)} poses has no snippets of {length} frames: choose 2 to "
            f"{len(true)}"
        )
    last = len(true) - 1 if variant == "monodepth2" else len(true) - length + 1
    rows = []
    for start in range(last):
        g = _snippet_positions(true[start : start + length], variant)
        p = _snippet_positions(predicted[start : start + length], variant)
        scale = _fit_scale(g, p)
        rows.append((start, float(np.sqrt(((scale * p - g) ** 2).sum())) / len(g), scale))
    table = pd.DataFrame(rows, columns=["start", "ate", "scale"])
    return SnippetAte(table, float(table["ate"].mean()), float(table["ate"].std(ddof=0)))


def _snippet_positions(poses: Array, variant: Variant) -> Array:
    """(n, 3), the first at the origin."""
    if variant == "sfmlearner":
        return _positions(_from_first(poses))
    return _positions(chain(np.linalg.inv(poses[1:]) @ poses[:-1]))


# Whole trajectories


@dataclass(frozen=True, eq=False)
class Alignment:
    """x -> scale · rotation @ x + translation, with (3, 3) and (3,)."""

    rotation: Array
    translation: Array
    scale: float

    def apply(self, positions: Array) -> Array:
        """(N, 3) -> (N, 3)."""
        return self.scale * positions @ self.rotation.T + self.translation


def align_umeyama(true: Array, predicted: Array, with_scale: bool = True) -> Alignment:
    """Alignment that brings predicted positions closest to the true ones, least squares.

    Closed form of Umeyama (IEEE PAMI 13(4), 1991, eq. 40 to 43). Points on a line leave the
    rotation about it open; any is then as good. Predicted points that all coincide get scale 0.

    Args:
        true, predicted: (N, 3) positions in metres.
        with_scale: False keeps scale 1.

    Raises:
        FadepthError: the shapes differ or values are not finite.
    """
    true, predicted = np.asarray(true, np.float64), np.asarray(predicted, np.float64)
    if true.shape != predicted.shape or true.ndim != 2 or true.shape[1] != 3 or not len(true):
        raise FadepthError(
            f"true positions are {true.shape} but predicted ones {predicted.shape}: both must be "
            "(N, 3), for the same frames"
        )
    if not (np.isfinite(true).all() and np.isfinite(predicted).all()):
        raise FadepthError("positions to align are not all finite: check the poses they are from")
    true_mean, mean = true.mean(0), predicted.mean(0)
    g, p = true - true_mean, predicted - mean
    u, singular, vt = np.linalg.svd(g.T @ p / len(p))
    # The nearest orthogonal matrix may mirror; the least costly direction is then turned back.
    signs = np.array([1.0, 1.0, 1.0 if np.linalg.det(u) * np.linalg.det(vt) > 0 else -1.0])
    rotation = (u * signs) @ vt
    scale = 1.0
    if with_scale:
        variance = float((p**2).sum()) / len(p)
        scale = float((singular * signs).sum()) / variance if variance > 0 else 0.0
    return Alignment(rotation, true_mean - scale * rotation @ mean, scale)


def aligned_positions(true: Array, predicted: Array, align: Align = "sim3") -> tuple[Array, Array]:
    """Positions (N, 3) of the truth and of the aligned prediction, in the first true camera's axes.

    Args:
        true, predicted: (N, 4, 4) T_world_camera.
        align: `sim3`, rotation, translation and scale by `align_umeyama` ("7dof" elsewhere);
            `se3`, without the scale ("6dof"); `scale`, only the scale that is closest in least
            squares, after both first cameras were laid on each other.

    Raises:
        FadepthError: the shapes differ or values are not finite.
    """
    true, predicted = _pair(true, predicted)
    g, p = _positions(_from_first(true)), _positions(_from_first(predicted))
    if align == "scale":
        return g, _fit_scale(g, p) * p
    return g, align_umeyama(g, p, with_scale=align == "sim3").apply(p)


def trajectory_ate(true: Array, predicted: Array, align: Align = "sim3") -> float:
    """Absolute trajectory error in metres: RMSE of the positions after `aligned_positions`.

    sqrt(mean over frames of |g - p|²), as the TUM benchmark defined it (Sturm et al., IROS 2012)
    and https://github.com/Huangying-Zhan/kitti-odom-eval computes it for KITTI.

    Raises:
        FadepthError: the shapes differ or values are not finite.
    """
    g, p = aligned_positions(true, predicted, align)
    return float(np.sqrt(((g - p) ** 2).sum(1).mean()))


@dataclass(frozen=True, eq=False)
class SegmentErrors:
    """KITTI's relative errors.

    Attributes:
        t_rel: mean translation error in percent of the path; NaN without a segment.
        r_rel: mean rotation error in degrees per 100 m; NaN without a segment.
        scale: what the prediction was multiplied by.
        table: one row per segment: `start` and `end` (frames), `length` (m), `t_rel`, `r_rel`.
    """

    t_rel: float
    r_rel: float
    scale: float
    table: pd.DataFrame


def segment_errors(true: Array, predicted: Array, with_scale: bool = True) -> SegmentErrors:
    """Relative errors over all paths of 100, 200, ..., 800 m, one from every tenth frame.

    As KITTI's odometry devkit (`evaluate_odometry.cpp`): a segment ends at the first frame that is
    more than its length along the true path; with d the motion from its first to its last pose,
    the error is d_predicted⁻¹ d_true, its translation and angle are divided by the nominal length,
    and the mean goes over the segments of all lengths alike. The devkit sums in single precision.

    The prediction is scaled once, by the factor of `align_umeyama`; the rest of that alignment
    would cancel out of relative motions (the "7dof" of
    https://github.com/Huangying-Zhan/kitti-odom-eval).

    Args:
        true, predicted: (N, 4, 4) T_world_camera.
        with_scale: False leaves the prediction as it is, for metric ones.

    Raises:
        FadepthError: the shapes differ or values are not finite.
    """
    true, predicted = _pair(true, predicted)
    scale = align_umeyama(_positions(true), _positions(predicted)).scale if with_scale else 1.0
    predicted = predicted.copy()
    predicted[:, :3, 3] *= scale
    steps = np.linalg.norm(np.diff(_positions(true), axis=0), axis=1)
    path = np.concatenate([[0.0], np.cumsum(steps)])
    rows = []
    for start in range(0, len(true), SEGMENT_STEP):
        for length in SEGMENT_LENGTHS:
            end = int(np.searchsorted(path, path[start] + length, side="right"))
            if end == len(path):
                break
            motion, guess = (np.linalg.inv(t[start]) @ t[end] for t in (true, predicted))
            error = np.linalg.inv(guess) @ motion
            angle = np.arccos(np.clip((np.trace(error[:3, :3]) - 1) / 2, -1, 1))
            distance = np.linalg.norm(error[:3, 3])
            per_length = (100 * distance / length, 100 * np.degrees(angle) / length)
            rows.append((start, end, length, *map(float, per_length)))
    table = pd.DataFrame(rows, columns=["start", "end", "length", "t_rel", "r_rel"])
    if not rows:
        return SegmentErrors(float("nan"), float("nan"), scale, table)
    return SegmentErrors(float(table["t_rel"].mean()), float(table["r_rel"].mean()), scale, table)


# Poses


def _positions(poses: Array) -> Array:
    return poses[:, :3, 3]


def _from_first(poses: Array) -> Array:
    """The same trajectory with the first camera as the world."""
    return np.asarray(np.linalg.inv(poses[0]) @ poses)


def _fit_scale(true: Array, predicted: Array) -> float:
    """Factor of `predicted` (N, 3) that is closest to `true`; 0 where all of it is zero."""
    squares = float((predicted**2).sum())
    return float((true * predicted).sum()) / squares if squares > 0 else 0.0


def _is_rigid(motion: Array) -> bool:
    return (
        motion.shape == (4, 4)
        and bool(np.isfinite(motion).all())
        and bool((motion[3] == (0, 0, 0, 1)).all())
        and bool(are_rotations(motion[None, :3, :3])[0])
    )


def _pair(true: Array, predicted: Array) -> tuple[Array, Array]:
    """Both as float64, checked to be trajectories of the same frames."""
    true, predicted = np.asarray(true, np.float64), np.asarray(predicted, np.float64)
    for name, poses in (("true", true), ("predicted", predicted)):
        if poses.ndim != 3 or poses.shape[1:] != (4, 4) or len(poses) < 2:
            raise FadepthError(
                f"the {name} trajectory is {poses.shape}, expected (N, 4, 4) with two or more poses"
            )
        if not np.isfinite(poses).all():
            frame = int(np.flatnonzero(~np.isfinite(poses).all((1, 2)))[0])
            raise FadepthError(f"the {name} trajectory is not finite at frame {frame}: restore it")
        if not (rigid := are_rotations(poses[:, :3, :3])).all():
            frame = int(np.flatnonzero(~rigid)[0])
            raise FadepthError(
                f"the {name} trajectory has no rotation at frame {frame}: restore it"
            )
    if len(true) != len(predicted):
        raise FadepthError(
            f"there are {len(true)} true poses but {len(predicted)} predicted ones: compare the "
            "same frames of the sequence"
        )
    return true, predicted
