"""Measures of motion against closed forms, plain second implementations and a real drive."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from fadepth.config import PoseSettings
from fadepth.data.kitti_odometry import OdometrySequence, oxts_to_camera, read_oxts
from fadepth.errors import FadepthError
from fadepth.evaluation.odometry import (
    Align,
    Variant,
    align_umeyama,
    aligned_positions,
    chain,
    predict_trajectory,
    segment_errors,
    snippet_ate,
    trajectory_ate,
)
from fadepth.training import source_poses

Array = np.ndarray
ALIGNS: tuple[Align, ...] = ("sim3", "se3", "scale")
VARIANTS: tuple[Variant, ...] = ("monodepth2", "sfmlearner")


def pose(rotation_vector: Any = (0, 0, 0), translation: Any = (0, 0, 0)) -> Array:
    result = np.eye(4)
    result[:3, :3] = Rotation.from_rotvec(rotation_vector).as_matrix()
    result[:3, 3] = translation
    return result


def circle(radius: float, count: int, whole: int | None = None) -> Array:
    """(count, 4, 4): driving to the right on level ground, `whole` frames for the full circle."""
    angles = 2 * np.pi * np.arange(count) / (whole or count)
    return np.array(
        [pose((0, a, 0), (radius * (1 - np.cos(a)), 0, radius * np.sin(a))) for a in angles]
    )


def straight(count: int, step: float = 1.0) -> Array:
    return np.array([pose(translation=(0, 0, step * k)) for k in range(count)])


def wander(seed: int, count: int, turn: float = 0.05, step: float = 0.8) -> Array:
    """A random drive."""
    rng = np.random.default_rng(seed)
    poses = [np.eye(4)]
    for _ in range(count - 1):
        ahead = rng.normal((0, 0, step), (0.05, 0.02, 0.2))
        poses.append(poses[-1] @ pose(rng.normal(0, turn, 3), ahead))
    return np.array(poses)


def disturbed(true: Array, seed: int, turn: float = 0.01, shift: float = 0.02) -> Array:
    """The same drive with an error in each motion and another scale."""
    rng = np.random.default_rng(seed)
    poses = [np.eye(4)]
    for a, b in pairwise(true):
        motion = np.linalg.inv(a) @ b @ pose(rng.normal(0, turn, 3), rng.normal(0, shift, 3))
        motion[:3, 3] *= 0.04
        poses.append(poses[-1] @ motion)
    return np.array(poses)


@pytest.fixture(scope="module")
def drive(test_data: Path) -> Array:
    """Camera poses of drive 0005: 104 frames, 51 m, a right turn of 53 degrees."""
    day = test_data / "kitti_mini/kitti/2011_09_26"
    return oxts_to_camera(read_oxts(day / "2011_09_26_drive_0005_sync/oxts/data"), day)


# Chaining


def test_chain_undoes_taking_motions_apart(drive: Array) -> None:
    motions = np.linalg.inv(drive[:-1]) @ drive[1:]
    assert np.abs(chain(motions) - drive).max() < 1e-10
    assert np.array_equal(chain(np.empty((0, 4, 4))), np.eye(4)[None])


def test_chain_of_one_motion_goes_round() -> None:
    """60 times 6 degrees to the right, each after 1 m ahead as seen from the frame before."""
    motion = pose((0, np.radians(6), 0), (0, 0, 1))
    poses = chain(np.tile(motion, (60, 1, 1)))
    assert np.abs(poses[60] - np.eye(4)).max() < 1e-12
    # The polygon's circumscribed circle has radius 1 / (2 sin 3°); it is entered to the right.
    opposite = poses[30, :3, 3]
    assert np.linalg.norm(opposite) == pytest.approx(1 / math.sin(np.radians(3)), rel=1e-12)
    assert opposite[0] > 19


class KnownMotion(nn.Module):
    """A pose network that knows the drive: frame numbers are written in the images."""

    def __init__(self, poses: Array) -> None:
        super().__init__()
        self.poses = poses

    def forward(self, pairs: Tensor) -> tuple[Tensor, Tensor]:
        earlier, later = int(pairs[0, 0, 0, 0]), int(pairs[0, 3, 0, 0])
        assert later == earlier + 1
        # Points of the earlier camera in the frame of the later one.
        motion = np.linalg.inv(self.poses[later]) @ self.poses[earlier]
        axis_angle = Rotation.from_matrix(motion[:3, :3]).as_rotvec()
        return torch.tensor(axis_angle)[None], torch.tensor(motion[:3, 3])[None]


def test_direction_is_that_of_the_pose_network_in_training() -> None:
    true = wander(1, 20)
    network = KnownMotion(true)

    def image(number: int) -> Tensor:
        return torch.full((1, 3, 2, 2), float(number), dtype=torch.float64)

    motions = []
    for t in range(len(true) - 1):
        batch = {"target_input": image(t + 1), "source_inputs": image(t)[:, None]}
        (motion,) = source_poses(network, batch, (-1,), PoseSettings())
        motions.append(motion[0].numpy())
    assert np.abs(chain(np.array(motions)) - true).max() < 1e-9


# Prediction


def sequence(count: int) -> OdometrySequence:
    images = tuple(Path(f"{number:06d}.png") for number in range(count))
    return OdometrySequence("09", images, (1, 1, 0, 0), 2, 2, np.tile(np.eye(4), (count, 1, 1)))


def test_prediction_asks_for_each_pair_once_in_order() -> None:
    true, asked, reports = wander(2, 9), [], []

    def pose_between(first: Path, second: Path) -> Array:
        asked.append((first.name, second.name))
        motion = np.linalg.inv(true[int(first.stem)]) @ true[int(second.stem)]
        return motion.astype(np.float32)

    predicted = predict_trajectory(
        sequence(9), pose_between, lambda *counts: reports.append(counts)
    )
    assert asked == [(f"{k:06d}.png", f"{k + 1:06d}.png") for k in range(8)]
    assert reports == [(k, 8) for k in range(9)]
    assert predicted.dtype == np.float64
    assert np.abs(predicted - true).max() < 1e-5


def test_single_precision_does_not_wear_rotations_out() -> None:
    """A rotation that is too large by 5e-5 would grow to a factor of 1.2 over 4,000 frames."""
    motion = pose((0.01, 0.02, -0.005), (0, 0, 1))
    motion[:3, :3] *= 1 + 4e-5
    predicted = predict_trajectory(sequence(4000), lambda first, second: motion)
    assert np.linalg.det(predicted[-1, :3, :3]) == pytest.approx(1, abs=1e-9)


NO_MOTION = np.eye(4)


@pytest.mark.parametrize(
    "motion",
    [
        np.full((4, 4), np.nan),
        np.diag([1.0, 1.0, 1.01, 1.0]),
        np.diag([1.0, 1.0, -1.0, 1.0]),
        np.eye(4) + 0.1 * np.eye(4)[3][:, None] * np.eye(4)[0],
        np.eye(3),
        np.zeros((4, 4)),
    ],
)
def test_prediction_that_is_no_motion_is_named(motion: Array) -> None:
    def pose_between(first: Path, second: Path) -> Array:
        return motion if first.name == "000003.png" else NO_MOTION

    with pytest.raises(FadepthError, match=r"between 000003\.png and 000004\.png is not a finite"):
        predict_trajectory(sequence(6), pose_between)


def test_one_image_has_no_motion() -> None:
    with pytest.raises(FadepthError, match=r"sequence 09 has 1 images: motion needs at least two"):
        predict_trajectory(sequence(1), lambda first, second: NO_MOTION)


# Snippets


def product(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
    return [[sum(a[i][k] * b[k][j] for k in range(4)) for j in range(4)] for i in range(4)]


def inverse(a: list[list[float]]) -> list[list[float]]:
    turned = [[a[j][i] for j in range(3)] for i in range(3)]
    moved = [-sum(turned[i][k] * a[k][3] for k in range(3)) for i in range(3)]
    return [[*turned[i], moved[i]] for i in range(3)] + [[0, 0, 0, 1]]


def plain_ates(true: Array, predicted: Array, variant: Variant, length: int = 5) -> list[float]:
    """From the measure's description, number by number."""
    count, ates = len(true), []
    starts = range(count - 1) if variant == "monodepth2" else range(count - length + 1)
    for start in starts:
        places: list[list[list[float]]] = []
        for poses in (true.tolist(), predicted.tolist()):
            track = [[0.0, 0.0, 0.0]]
            so_far = np.eye(4).tolist()
            for k in range(start + 1, min(start + length, count)):
                if variant == "monodepth2":  # motions to the next camera, one after the other
                    so_far = product(so_far, product(inverse(poses[k]), poses[k - 1]))
                else:  # camera k seen from the first of the snippet
                    so_far = product(inverse(poses[start]), poses[k])
                track.append([so_far[i][3] for i in range(3)])
            places.append(track)
        g, p = places
        pairs = [(x, y) for a, b in zip(g, p, strict=True) for x, y in zip(a, b, strict=True)]
        scale = sum(x * y for x, y in pairs) / sum(y * y for _, y in pairs)
        ates.append(math.sqrt(sum((scale * y - x) ** 2 for x, y in pairs)) / len(g))
    return ates


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("length", [2, 3, 5, 8])
def test_snippets_agree_with_a_plain_implementation(variant: Variant, length: int) -> None:
    true = wander(3, 40)
    predicted = disturbed(true, 4)
    result = snippet_ate(true, predicted, length, variant)
    expected = plain_ates(true, predicted, variant, length)
    assert list(result.table.columns) == ["start", "ate", "scale"]
    assert list(result.table["start"]) == list(range(len(expected)))
    assert np.abs(result.table["ate"] - expected).max() < 1e-12
    mean = sum(expected) / len(expected)
    assert result.mean == pytest.approx(mean, rel=1e-12)
    spread = math.sqrt(sum((x - mean) ** 2 for x in expected) / len(expected))
    assert result.std == pytest.approx(spread, rel=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
def test_snippets_of_the_real_drive(drive: Array, variant: Variant) -> None:
    predicted = disturbed(drive, 5, turn=0.002, shift=0.01)
    result = snippet_ate(drive, predicted, variant=variant)
    assert len(result.table) == {"monodepth2": 103, "sfmlearner": 100}[variant]
    expected = plain_ates(drive, predicted, variant)
    # The calibration's rotations are rounded: inverting them in two ways differs by 1e-7.
    assert np.abs(result.table["ate"] - expected).max() < 1e-8
    assert result.table["scale"].median() == pytest.approx(1 / 0.04, rel=0.05)


def test_one_snippet_by_hand() -> None:
    """True positions 0, 1, 2, 3, 4 m ahead; predicted 0, 1, 2, 3 and then 3 again."""
    true, predicted = straight(5), straight(5)
    predicted[4] = predicted[3]
    (row,) = snippet_ate(true, predicted, variant="sfmlearner").table.to_dict("records")
    scale = (1 + 4 + 9 + 12) / (1 + 4 + 9 + 9)
    error = sum((scale * p - g) ** 2 for g, p in zip((1, 2, 3, 4), (1, 2, 3, 3), strict=True))
    assert row["scale"] == pytest.approx(26 / 23)
    # Divided by 5 outside the root: not a root mean square.
    assert row["ate"] == pytest.approx(math.sqrt(error) / 5)


def test_variants_differ_only_in_turns_and_at_the_end() -> None:
    true = straight(30)
    rng = np.random.default_rng(6)
    predicted = true.copy()
    predicted[:, :3, 3] = np.cumsum(rng.normal((0, 0, 1), 0.1, (30, 3)), 0)
    ours, theirs = (snippet_ate(true, predicted, variant=v).table for v in VARIANTS)
    assert (len(ours), len(theirs)) == (29, 26)
    assert np.abs(ours["ate"][:26] - theirs["ate"]).max() < 1e-12
    true = circle(10, 30)
    predicted = disturbed(true, 6)
    ours, theirs = (snippet_ate(true, predicted, variant=v).table for v in VARIANTS)
    assert np.abs(ours["ate"][:26] - theirs["ate"]).max() > 1e-4


@pytest.mark.parametrize("variant", VARIANTS)
def test_world_and_scale_do_not_matter_to_snippets(variant: Variant) -> None:
    true = wander(7, 25)
    predicted = disturbed(true, 8)
    moved = pose((0.4, -1.2, 2.0), (10, -3, 7)) @ predicted
    moved[:, :3, 3] *= 5
    a, b = (snippet_ate(true, p, variant=variant).table for p in (predicted, moved))
    assert np.abs(a["ate"] - b["ate"]).max() < 1e-10
    assert np.abs(a["scale"] / b["scale"] - 5).max() < 1e-9
    assert snippet_ate(true, true, variant=variant).mean < 1e-12


@pytest.mark.parametrize("variant", VARIANTS)
def test_prediction_that_stands_still_misses_the_whole_way(variant: Variant) -> None:
    result = snippet_ate(straight(6, 2.0), straight(6, 0.0), variant=variant)
    assert (result.table["scale"] == 0).all()
    assert result.table["ate"][0] == pytest.approx(2 * math.sqrt(1 + 4 + 9 + 16) / 5)


# Alignment and whole trajectories


def moved_by(poses: Array, scale: float, world: Array) -> Array:
    """The same drive in another world and at another scale."""
    result = poses.copy()
    result[:, :3, 3] *= scale
    return np.asarray(world @ result)


WORLD = pose((0.5, -2.0, 0.7), (30, -4, 11))


@pytest.mark.parametrize("true", [circle(20, 60), wander(9, 80), straight(40)])
def test_similar_trajectories_have_no_error(true: Array) -> None:
    same = moved_by(true, 0.03, WORLD)
    assert trajectory_ate(true, same, "sim3") < 1e-9
    assert trajectory_ate(true, same, "scale") < 1e-9
    rigid = moved_by(true, 1.0, WORLD)
    assert trajectory_ate(true, rigid, "se3") < 1e-9
    assert trajectory_ate(true, same, "se3") > 1


def test_circles_of_two_sizes() -> None:
    """Concentric after alignment: every point is off by the difference of the radii."""
    assert trajectory_ate(circle(20, 90), moved_by(circle(17, 90), 1, WORLD), "se3") == (
        pytest.approx(3, rel=1e-9)
    )


def test_scale_from_the_first_camera_only() -> None:
    """Of a right angle predicted straight, the least-squares factor is known."""
    true = straight(3, 1.0)
    true[2] = pose(translation=(1, 0, 1))
    # g = (0,0), (0,1), (1,1); p = (0,0), (0,1), (0,2) in x, z: s = (1 + 2) / (1 + 4).
    g, p = aligned_positions(true, straight(3), "scale")
    assert np.allclose(g, true[:, :3, 3])
    assert np.allclose(p, np.outer([0, 0.6, 1.2], [0, 0, 1]))
    error = math.sqrt((0.4**2 + 1 + 0.2**2) / 3)
    assert trajectory_ate(true, straight(3), "scale") == pytest.approx(error)


@pytest.mark.parametrize("seed", range(5))
def test_alignment_is_that_of_scipy(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = rng.normal(0, 10, (50, 3))
    known = Rotation.random(random_state=seed)
    predicted = known.inv().apply(true - (1, 2, 3)) / 2.5 + rng.normal(0, 0.1, (50, 3))
    g, p = true - true.mean(0), predicted - predicted.mean(0)
    expected, _ = Rotation.align_vectors(g, p)
    for with_scale in (True, False):
        found = align_umeyama(true, predicted, with_scale)
        assert np.abs(found.rotation - expected.as_matrix()).max() < 1e-9
    found = align_umeyama(true, predicted)
    # Given the rotation, the scale is a regression through the origin.
    turned = expected.apply(p)
    assert found.scale == pytest.approx((g * turned).sum() / (turned**2).sum(), rel=1e-12)
    assert np.abs(found.apply(predicted).mean(0) - true.mean(0)).max() < 1e-9
    assert found.scale == pytest.approx(2.5, rel=0.05)


@pytest.mark.parametrize("with_scale", [True, False])
def test_no_other_alignment_is_closer(with_scale: bool) -> None:
    true = wander(10, 60)[:, :3, 3]
    predicted = disturbed(wander(10, 60), 11)[:, :3, 3] * (1 if with_scale else 25)
    found = align_umeyama(true, predicted, with_scale)
    best = ((found.apply(predicted) - true) ** 2).sum()
    rng = np.random.default_rng(12)
    for _ in range(200):
        turn = Rotation.from_rotvec(rng.normal(0, 0.01, 3)).as_matrix()
        scale = found.scale * (1 + rng.normal(0, 0.01) * with_scale)
        other = scale * predicted @ (turn @ found.rotation).T
        other += found.translation + rng.normal(0, 0.05, 3)
        assert ((other - true) ** 2).sum() > best


def test_a_mirrored_trajectory_is_turned_not_mirrored() -> None:
    true = np.random.default_rng(13).normal(0, (9, 5, 1), (40, 3))
    found = align_umeyama(true, true * (1, 1, -1))
    assert np.linalg.det(found.rotation) == pytest.approx(1)
    # Best is to leave it as it is: the mirrored axis is the one with the least extent.
    assert np.abs(found.rotation - np.eye(3)).max() < 0.2
    assert found.scale < 1


@pytest.mark.parametrize("align", ALIGNS)
def test_standing_still_leaves_the_spread_of_the_truth(align: Align) -> None:
    positions = straight(5)[:, :3, 3]
    about = positions.mean(0) if align != "scale" else positions[0]
    spread = math.sqrt(((positions - about) ** 2).sum() / 5)
    assert trajectory_ate(straight(5), straight(5, 0), align) == pytest.approx(spread)


def test_known_noise_gives_its_size() -> None:
    """Of 3 n noisy coordinates, alignment explains as many as it has freedoms, 7 or 6."""
    rng = np.random.default_rng(14)
    true = wander(15, 3000)
    predicted = true.copy()
    predicted[:, :3, 3] += rng.normal(0, 0.3, (3000, 3))
    assert trajectory_ate(true, predicted, "sim3") == pytest.approx(0.3 * math.sqrt(3), rel=0.02)
    few = []
    for start in range(0, 3000, 6):
        part = slice(start, start + 6)
        few.append(trajectory_ate(true[part], predicted[part], "se3") ** 2)
    assert np.mean(few) == pytest.approx(0.3**2 * (3 * 6 - 6) / 6, rel=0.08)


@pytest.mark.parametrize(
    "measure",
    [
        *(lambda a, b, align=align: trajectory_ate(a, b, align) for align in ALIGNS),
        *(lambda a, b, v=variant: snippet_ate(a, b, variant=v).mean for variant in VARIANTS),
    ],
)
def test_more_noise_is_more_error(drive: Array, measure: Callable[[Array, Array], float]) -> None:
    noise = np.random.default_rng(16).normal(0, 1, (len(drive), 3))
    errors = []
    for size in (0, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16):
        predicted = drive.copy()
        predicted[:, :3, 3] += size * noise
        errors.append(measure(drive, predicted))
    assert errors[0] < 1e-6
    assert (np.diff(errors) > 0).all()


# KITTI's relative errors


def plain_segments(true: Array, predicted: Array) -> list[tuple[int, int, int, float, float]]:
    """From the devkit's description: scan for the end, compare the two motions."""
    path = [0.0]
    for a, b in pairwise(true):
        path.append(path[-1] + math.dist(a[:3, 3], b[:3, 3]))
    found = []
    for start in range(0, len(true), 10):
        for length in range(100, 900, 100):
            for end in range(start, len(true)):
                if path[end] > path[start] + length:
                    a = np.linalg.solve(true[start], true[end])
                    b = np.linalg.solve(predicted[start], predicted[end])
                    error = np.linalg.solve(b, a)
                    angle = Rotation.from_matrix(error[:3, :3]).magnitude()
                    percent = float(np.linalg.norm(error[:3, 3])) / length * 100
                    turned = math.degrees(float(angle)) / length * 100
                    found.append((start, end, length, percent, turned))
                    break
    return found


def test_relative_errors_agree_with_a_plain_implementation() -> None:
    true = wander(17, 400, turn=0.02)
    predicted = disturbed(true, 18, turn=0.003)
    result = segment_errors(true, moved_by(predicted, 2, WORLD))
    scaled = moved_by(predicted, 2 * result.scale, np.eye(4))
    expected = plain_segments(true, scaled)
    assert len({length for _, _, length, _, _ in expected}) >= 3
    assert list(result.table.columns) == ["start", "end", "length", "t_rel", "r_rel"]
    assert np.abs(result.table.to_numpy() - np.array(expected)).max() < 1e-6
    assert result.t_rel == pytest.approx(np.mean([row[3] for row in expected]), rel=1e-9)
    assert result.r_rel == pytest.approx(np.mean([row[4] for row in expected]), rel=1e-6)
    positions = true[:, :3, 3], predicted[:, :3, 3]
    assert 2 * result.scale == pytest.approx(align_umeyama(*positions).scale, rel=1e-9)


def test_wrong_scale_is_an_error_of_translation_alone() -> None:
    """A segment of 100 m at 1 m a frame ends at 101 m; 2 % of that are missed."""
    true, predicted = straight(1000), straight(1000, 1.02)
    result = segment_errors(true, predicted, with_scale=False)
    ends = (result.table["end"] - result.table["start"]).to_numpy()
    lengths = result.table["length"].to_numpy()
    assert np.array_equal(ends, lengths + 1)
    assert np.allclose(result.table["t_rel"], 2 * (lengths + 1) / lengths)
    assert result.r_rel == 0
    # Starts 0, 10, ...: of those, a segment of 800 m fits from 0 to 190 (999 is the last frame).
    assert (lengths == 800).sum() == 20
    assert (lengths == 100).sum() == 90
    free = segment_errors(true, predicted)
    assert free.t_rel < 1e-9
    assert free.scale == pytest.approx(1 / 1.02)


def test_steady_turn_is_an_error_of_rotation() -> None:
    """0.01 degrees a frame too much to the right, in 1 m."""
    turn = np.tile(pose((0, np.radians(0.01), 0), (0, 0, 1)), (300, 1, 1))
    result = segment_errors(straight(301), chain(turn), with_scale=False)
    lengths = result.table["length"].to_numpy()
    assert np.allclose(result.table["r_rel"], 0.01 * (lengths + 1) / lengths * 100)
    assert set(lengths) == {100, 200}


def test_short_path_has_no_relative_error(drive: Array) -> None:
    result = segment_errors(drive, disturbed(drive, 19))
    assert math.isnan(result.t_rel)
    assert math.isnan(result.r_rel)
    assert len(result.table) == 0
    assert result.scale == pytest.approx(25, rel=0.1)
    exactly = segment_errors(straight(101), straight(101))
    assert len(exactly.table) == 0  # the end must lie beyond 100 m, not at it
    assert len(segment_errors(straight(102), straight(102)).table) == 1


# Bad input


def with_value(value: float) -> Array:
    poses = straight(8)
    poses[3, 0, 3] = value
    return poses


@pytest.mark.parametrize(
    "measure",
    [snippet_ate, trajectory_ate, segment_errors],
)
@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        (straight(7), r"there are 8 true poses but 7 predicted ones"),
        (with_value(np.nan), r"the predicted trajectory is not finite at frame 3"),
        (with_value(np.inf), r"the predicted trajectory is not finite at frame 3"),
        (straight(8) * 2, r"the predicted trajectory has no rotation at frame 0"),
        (straight(8)[:, :3], r"the predicted trajectory is \(8, 3, 4\), expected \(N, 4, 4\)"),
        (straight(1), r"the predicted trajectory is \(1, 4, 4\), expected \(N, 4, 4\) with two"),
    ],
)
def test_bad_trajectories_are_told(
    measure: Callable[[Array, Array], object], predicted: Array, message: str
) -> None:
    with pytest.raises(FadepthError, match=message):
        measure(straight(8), predicted)


def test_bad_snippets_and_positions_are_told() -> None:
    for length in (1, 9):
        with pytest.raises(FadepthError, match=rf"8 poses has no snippets of {length} frames"):
            snippet_ate(straight(8), straight(8), length)
    with pytest.raises(FadepthError, match=r"true positions are \(8, 3\) but predicted ones \(7,"):
        align_umeyama(np.zeros((8, 3)), np.zeros((7, 3)))
    with pytest.raises(FadepthError, match=r"positions to align are not all finite"):
        align_umeyama(np.zeros((8, 3)), np.full((8, 3), np.nan))
