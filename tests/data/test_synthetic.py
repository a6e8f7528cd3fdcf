import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fadepth.data import synthetic
from fadepth.data.synthetic import render_street
from fadepth.data.synthetic.solids import BOX, ELLIPSOID, POST, WHEEL, intersect
from fadepth.data.synthetic.street import Curve
from fadepth.errors import FadepthError

H, W = 48, 156
SCENES = {"train": 4, "val": 1, "test": 1}
FRAMES = {"train": 4, "val": 3, "test": 3}
SEED = 1


def render(root: Path, **changes: Any) -> Path:
    request: dict[str, Any] = {
        "seed": SEED, "scenes": SCENES, "frames": FRAMES, "height": H, "width": W,
    }  # fmt: skip
    render_street(root, **(request | changes))
    return root


@pytest.fixture(scope="module")
def street(tmp_path_factory):
    return render(tmp_path_factory.mktemp("street"))


def drives(root: Path) -> list[Path]:
    return sorted(root.glob("2000_01_01/*_sync"))


def image(drive: Path, frame: int) -> np.ndarray:
    loaded = Image.open(drive / f"image_02/data/{frame:010d}.png")
    assert loaded.mode == "RGB"
    return np.asarray(loaded).astype(float) / 255


def depth(drive: Path, frame: int) -> np.ndarray:
    path = drive / f"proj_depth/groundtruth/image_02/{frame:010d}.png"
    return np.asarray(Image.open(path)).astype(float) / 256


def poses(drive: Path) -> np.ndarray:
    rows = np.loadtxt(drive / "poses.txt").reshape(-1, 3, 4)
    return np.concatenate([rows, np.tile([0, 0, 0, 1.0], (len(rows), 1, 1))], 1)


def contents(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


FX, FY, CX, CY = 0.58 * W, 1.92 * H, 0.5 * W, 0.5 * H


def warp(z: np.ndarray, motion: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where the pixels of depth `z` are seen after `motion` (4x4): columns, rows, new depths."""
    v, u = np.mgrid[0:H, 0:W].astype(float)
    points = np.stack([(u - CX) / FX * z, (v - CY) / FY * z, z, np.ones_like(z)])
    x, y, after, _ = np.einsum("ij,jhw->ihw", motion, points)
    with np.errstate(divide="ignore", invalid="ignore"):
        return FX * x / after + CX, FY * y / after + CY, after


def inside(u: np.ndarray, v: np.ndarray, z: np.ndarray, margin: int = 1) -> np.ndarray:
    return (z > 0) & (u >= margin) & (u < W - 1 - margin) & (v >= margin) & (v < H - 1 - margin)


def bilinear(array: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    left, top = np.floor(u).astype(int), np.floor(v).astype(int)
    a, b = u - left, v - top
    if array.ndim == 3:
        a, b = a[:, None], b[:, None]
    return (1 - b) * ((1 - a) * array[top, left] + a * array[top, left + 1]) + b * (
        (1 - a) * array[top + 1, left] + a * array[top + 1, left + 1]
    )


def neighbours(root: Path) -> list[tuple[Path, int, np.ndarray]]:
    """All pairs (drive, t, T from t to t + 1)."""
    found = []
    for drive in drives(root):
        world = poses(drive)
        for t in range(len(world) - 1):
            found.append((drive, t, np.linalg.inv(world[t + 1]) @ world[t]))
    return found


def residuals(drive: Path, t: int, motion: np.ndarray) -> tuple[float, float, float]:
    """Photometric L1 of the true warp and of none, where seen twice; median depth error."""
    z, target, source = depth(drive, t), image(drive, t), image(drive, t + 1)
    u, v, after = warp(z, motion)
    valid = (z > 0) & (z < 80) & inside(u, v, after)
    at = bilinear(depth(drive, t + 1), u[valid], v[valid])
    error = np.abs(at - after[valid]) / after[valid]
    twice = error < 0.03
    assert twice.mean() > 0.6
    warped = np.abs(bilinear(source, u[valid], v[valid]) - target[valid])[twice].mean()
    still = np.abs(source - target)[valid][twice].mean()
    return float(warped), float(still), float(np.median(error))


def test_true_depth_and_pose_explain_the_next_frame(street):
    found = np.array([residuals(*pair) for pair in neighbours(street)])
    warped, still, _ = found.T
    assert np.all(warped < 0.65 * still)
    assert warped.mean() < 0.45 * still.mean()
    assert warped.mean() < 0.025


def test_every_surface_has_texture_that_moves(street):
    # The road is where photometric matching fails first: its error must fall with the right pose.
    for drive, t, motion in neighbours(street):
        z = depth(drive, t)
        u, v, after = warp(z, motion)
        road = (z > 0) & (z < 15) & inside(u, v, after)
        road[: int(0.7 * H)] = False
        warped = bilinear(image(drive, t + 1), u[road], v[road])
        target, still = image(drive, t)[road], image(drive, t + 1)[road]
        assert np.abs(warped - target).mean() < 0.75 * np.abs(still - target).mean()


def test_warped_depth_is_the_neighbours_depth(street):
    for pair in neighbours(street):
        # The median needs no mask: occluded and moving pixels are few.
        assert residuals(*pair)[2] < 0.003


def test_a_wrong_pose_is_noticed(street):
    drive, t, motion = neighbours(street)[0]
    right = residuals(drive, t, motion)[2]
    wrong = motion.copy()
    wrong[2, 3] *= -1
    z = depth(drive, t)
    u, v, after = warp(z, wrong)
    valid = (z > 0) & (z < 80) & inside(u, v, after)
    error = np.abs(bilinear(depth(drive, t + 1), u[valid], v[valid]) - after[valid]) / after[valid]
    assert np.median(error) > 10 * right


def test_flat_road_in_closed_form(street):
    rows = np.arange(H - 4, H)
    checked, pitches = 0, []
    for drive in drives(street):
        for t, pose in enumerate(poses(drive)):
            # R = R_yaw R_pitch without roll: the pitch is in the second row.
            assert pose[1, 0] == pytest.approx(0, abs=1e-8)
            pitch = np.arctan2(-pose[1, 2], pose[1, 1])
            pitches.append(pitch)
            slope = (rows - CY) / FY * np.cos(pitch) - np.sin(pitch)
            expected = (1.65 - pose[1, 3]) / slope
            measured = depth(drive, t)[rows, W // 2]
            np.testing.assert_allclose(measured, expected, atol=1 / 256)
            checked += 1
    assert checked == 4 * 4 + 3 + 3
    assert np.std(pitches) > 1e-3  # or the correction for pitch was not tested


def test_motion_is_that_of_a_car_at_ten_hertz(street):
    for _, _, motion in neighbours(street):
        assert 0.55 < np.linalg.norm(motion[:3, 3]) < 1.4
        assert motion[2, 3] < 0  # what lies ahead comes nearer
        assert np.degrees(np.arccos(np.clip((np.trace(motion[:3, :3]) - 1) / 2, -1, 1))) < 2


def test_depths_span_a_street_and_sky_has_none(street):
    everything = np.stack([depth(d, 1) for d in drives(street)])
    seen = everything[everything > 0]
    assert 1.5 < seen.min() < 7
    assert np.percentile(seen, 97) > 50
    assert 0.01 < (everything == 0).mean() < 0.4
    assert not (everything[:, -5:] == 0).any()


def gone(z: np.ndarray, later: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Pixels of depth `z` whose place is empty in the other frame, in areas 3 pixels wide.

    A static point may be hidden there by something nearer; that all around it is farther than the
    point itself can only be if the thing has moved. (Posts thinner than a pixel are left out: they
    may fall between the pixel centres of one frame.)
    """
    u, v, after = warp(z, motion)
    valid = (z > 0) & (z < 60) & inside(u, v, after, margin=2)
    rows, columns = (np.where(valid, np.round(a), 5).astype(int) for a in (v, u))
    far = np.where(later > 0, later, np.inf)
    around = [far[rows + i, columns + j] for i in (-1, 0, 1) for j in (-1, 0, 1)]
    flags = np.pad(valid & (np.min(around, 0) > 1.05 * after), 1)
    return np.all([flags[i : i + H, j : j + W] for i in range(3) for j in range(3)], 0)


def test_some_cars_move(street):
    moving = 0
    for drive, t, motion in neighbours(street):
        now, later = depth(drive, t), depth(drive, t + 1)
        moving += int(gone(now, later, motion).sum())
        moving += int(gone(later, now, np.linalg.inv(motion)).sum())
    assert moving > 300


def test_nothing_but_the_moving_cars_leaves_its_place():
    found = 0
    for drive in (1, 2, 3, 4001, 6001):
        scene = synthetic.make_scene(SEED, drive, 4)
        frames = [synthetic.render_frame(scene, t, H, W) for t in (0, 1)]
        world = [np.vstack([scene.poses[t], [0, 0, 0, 1]]) for t in (0, 1)]
        for t, other in ((0, 1), (1, 0)):
            z, later = (np.where(np.isinf(frames[k][1]), 0, frames[k][1]) for k in (t, other))
            part = frames[t][2]
            moving = np.where(part >= 0, scene.parts.speed[part], 0) != 0
            empty = gone(z, later, np.linalg.inv(world[other]) @ world[t])
            found += int((empty & moving).sum())
            assert not (empty & ~moving).any()
    assert found > 50


def test_same_seed_same_bytes_whatever_the_workers(street, tmp_path):
    few = {"train": 2, "val": 0, "test": 0}
    alone = contents(street)
    pooled = contents(render(tmp_path, scenes=few, workers=2))
    images = [name for name in pooled if name.endswith(("png", "poses.txt"))]
    assert len(images) == 2 * (2 * FRAMES["train"] + 1)
    assert all(pooled[name] == alone[name] for name in images)


def test_another_seed_gives_other_streets(street, tmp_path):
    few = {"train": 1, "val": 0, "test": 0}
    other = drives(render(tmp_path, seed=SEED + 1, scenes=few))[0]
    assert np.abs(image(other, 1) - image(drives(street)[0], 1)).mean() > 0.03


def test_scenes_differ(street):
    found = [depth(d, 1) for d in drives(street)]
    for i, a in enumerate(found):
        for b in found[:i]:
            both = (a > 0) & (b > 0)
            assert np.mean(np.abs(a - b)[both] / b[both]) > 0.05


def test_splits_are_disjoint_and_targets_have_neighbours(street):
    seen: dict[str, set[str]] = {}
    for split, frames in FRAMES.items():
        lines = (street / "splits" / f"{split}_files.txt").read_text().splitlines()
        assert len(lines) == SCENES[split] * (frames - 2)
        seen[split] = {line.split()[0] for line in lines}
        for line in lines:
            drive, frame, side = line.split()
            assert side == "l"
            for t in (-1, 0, 1):
                image(street / drive, int(frame) + t)
                depth(street / drive, int(frame) + t)
    assert not (
        seen["train"] & seen["val"] | seen["train"] & seen["test"] | seen["val"] & seen["test"]
    )


def test_calibration_has_kittis_keys_and_notation(street):
    text = (street / "2000_01_01/calib_cam_to_cam.txt").read_text()
    entries = dict(line.split(": ", 1) for line in text.splitlines())
    np.testing.assert_allclose(
        np.array(entries["P_rect_02"].split(), float).reshape(3, 4),
        [[FX, 0, CX, 0], [0, FY, CY, 0], [0, 0, 1, 0]],
    )
    assert entries["S_rect_02"] == "1.560000e+02 4.800000e+01"
    assert np.array(entries["R_rect_00"].split(), float).tolist() == np.eye(3).ravel().tolist()
    baseline = -float(entries["P_rect_03"].split()[3]) / FX
    assert baseline == pytest.approx(0.54, abs=1e-5)
    laser = dict(
        line.split(": ", 1)
        for line in (street / "2000_01_01/calib_velo_to_cam.txt").read_text().splitlines()
    )
    rotation = np.array(laser["R"].split(), float).reshape(3, 3)
    np.testing.assert_array_equal(rotation @ [1, 0, 0], [0, 0, 1])  # forward is forward
    np.testing.assert_array_equal(rotation @ [0, 0, 1], [0, -1, 0])  # up is -y


def test_curve_goes_there_and_back():
    s, d = np.meshgrid(np.linspace(-10, 150, 60), np.linspace(-30, 30, 31))
    for curvature in (0.0, 1 / 90, -1 / 75, 1 / 350):
        curve = Curve(20.0, curvature)
        x, z, _ = curve.to_world(s, d)
        back = curve.from_world(x, z)
        np.testing.assert_allclose(back[0], s, atol=1e-6)
        np.testing.assert_allclose(back[1], d, atol=1e-6)
        # d is a distance: the nearest point of the finely sampled centre line is |d| away.
        line_x, line_z, _ = curve.to_world(np.linspace(-60, 200, 26001), np.zeros(26001))
        for i, j in ((3, 20), (25, 50), (30, 59)):
            nearest = np.hypot(line_x - x[i, j], line_z - z[i, j]).min()
            assert nearest == pytest.approx(abs(d[i, j]), abs=1e-4)


@pytest.mark.parametrize(
    ("shape", "inside_of"),
    [
        (BOX, lambda p, h: np.all(np.abs(p) <= h, -1)),
        (ELLIPSOID, lambda p, h: ((p / h) ** 2).sum(-1) <= 1),
        (
            POST,
            lambda p, h: (np.abs(p[..., 1]) <= h[1]) & ((p / h)[..., ::2] ** 2).sum(-1).__le__(1),
        ),
        (
            WHEEL,
            lambda p, h: (np.abs(p[..., 0]) <= h[0]) & ((p / h)[..., 1:] ** 2).sum(-1).__le__(1),
        ),
    ],
)
def test_intersections_agree_with_marching(shape, inside_of):
    rng = np.random.default_rng(5)
    half = np.array([0.8, 0.5, 1.3])
    origin = np.array([0.4, -0.6, -5.0])
    rays = np.concatenate([rng.uniform(-0.3, 0.3, (300, 2)), np.ones((300, 1))], 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        enter, leave = intersect(shape, half, list(origin), list(rays.T))
    steps = np.arange(0, 9, 0.002)
    hit = inside_of(origin + steps[None, :, None] * rays[:, None], half)
    first = np.where(hit.any(1), steps[hit.argmax(1)], np.inf)
    clear = np.abs(leave - enter) > 0.02  # rays that graze an edge fall between the steps
    np.testing.assert_allclose(
        np.where(enter < leave, enter, np.inf)[clear], first[clear], atol=0.003
    )
    assert np.isfinite(first).sum() > 30


def test_a_finished_scene_is_kept_and_a_broken_one_completed(street, tmp_path):
    few = {"train": 2, "val": 0, "test": 1}
    render(tmp_path, scenes=few)
    before = contents(tmp_path)
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.png")}
    kept, broken, partial = drives(tmp_path)
    # One scene was cut off before its marker, another lost a file afterwards.
    (broken / "complete.json").unlink()
    (broken / "image_02/data/0000000002.png").unlink()
    (broken / "image_02/data/0000000001.png").write_bytes(b"half")
    (partial / "poses.txt").unlink()
    calls: list[tuple[int, int]] = []
    render(tmp_path, scenes=few, progress=lambda done, total: calls.append((done, total)))
    assert contents(tmp_path) == before
    assert calls == [(1, 3), (2, 3), (3, 3)]
    for path, stamp in stamps.items():
        assert (path.stat().st_mtime_ns == stamp) == (kept in path.parents)
    # The scenes do not depend on how many others there are.
    for name, data in contents(street).items():
        assert before.get(name, data) == data or name.startswith("splits")


def test_other_parameters_render_anew(tmp_path):
    few = {"train": 1, "val": 0, "test": 0}
    drive = drives(render(tmp_path, scenes=few, frames=FRAMES | {"train": 5}))[0]
    render(tmp_path, scenes=few, frames=FRAMES | {"train": 3}, height=32, width=104)
    assert len(list(drive.glob("image_02/data/*.png"))) == 3
    assert len(list(drive.glob("proj_depth/groundtruth/image_02/*.png"))) == 3
    assert image(drive, 0).shape == (32, 104, 3)
    marker = json.loads((drive / "complete.json").read_text())
    assert (marker["frames"], marker["height"], marker["width"]) == (3, 32, 104)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scenes": {"train": 1}}, "scenes"),
        ({"frames": FRAMES | {"val": 2}}, "at least 3"),
        ({"scenes": SCENES | {"test": -1}}, "test"),
        ({"seed": -1}, "seed"),
        ({"height": 8}, "too small"),
    ],
)
def test_bad_requests_are_told_in_one_sentence(tmp_path, change, message):
    with pytest.raises(FadepthError, match=message) as told:
        render(tmp_path, **change)
    assert "\n" not in str(told.value)
    assert not list(tmp_path.iterdir())
