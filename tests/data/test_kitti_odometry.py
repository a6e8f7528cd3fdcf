"""KITTI odometry: both layouts in small, damage to them, and the real motion of drive 0005."""

import os
import re
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from fadepth.data.kitti import (
    FrameId,
    image_path,
    read_camera,
    read_split,
    velodyne_depth,
    velodyne_path,
)
from fadepth.data.kitti_odometry import (
    SEQUENCES,
    oxts_to_camera,
    read_oxts,
    read_poses,
    read_sequence,
    seen_in_training,
)
from fadepth.errors import FadepthError

# As in the published files: seven digits, exponents.
P2 = "7.070912e+02 0 6.018873e+02 4.688783e+01 0 7.070912e+02 1.831104e+02 1.178601e-01 0 0 1 6e-03"
COUNT = 12


def some_poses(count: int = COUNT) -> np.ndarray:
    """(count, 4, 4): the first is the identity, then a drive ahead in a slight turn."""
    poses = np.tile(np.eye(4), (count, 1, 1))
    steps = np.arange(count)
    poses[:, :3, :3] = Rotation.from_rotvec(np.outer(steps, (0.002, 0.03, -0.001))).as_matrix()
    poses[:, :3, 3] = np.outer(steps, (0.05, -0.01, 0.9))
    return poses


def write_poses(path: Path, poses: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savetxt(path, poses[:, :3].reshape(-1, 12), fmt="%.6e")


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 8)).save(path)


@pytest.fixture
def odometry(tmp_path: Path) -> Path:
    """Sequence 09 in the odometry layout, with 12 images."""
    folder = tmp_path / "sequences/09"
    for number in range(COUNT):
        write_image(folder / f"image_2/{number:06d}.png")
    (folder / "calib.txt").write_text(f"P0: {' '.join(['1'] * 12)}\nP2: {P2}\nTr: 1 2 3\n")
    write_poses(tmp_path / "poses/09.txt", some_poses())
    return tmp_path


def write_raw(root: Path, name: str) -> Path:
    """The frames of a sequence in the raw layout, all links to one picture."""
    drive, first, last = SEQUENCES[name]
    day = root / drive[:10]
    folder = day / f"{drive}_sync/image_02/data"
    write_image(folder / f"{first:010d}.jpg")
    for number in range(first + 1, last + 3):  # the drive goes on after the sequence
        os.link(folder / f"{first:010d}.jpg", folder / f"{number:010d}.jpg")
    (day / "calib_cam_to_cam.txt").write_text(
        f"S_rect_02: 2.400000e+01 8.000000e+00\nP_rect_02: {P2}\n"
    )
    write_poses(root / f"poses/{name}.txt", some_poses(last - first + 1))
    return folder


# Facts


def test_ranges_have_as_many_frames_as_the_published_pose_files() -> None:
    lengths = {name: last - first + 1 for name, (_, first, last) in SEQUENCES.items()}
    # Number of lines of poses/NN.txt in data_odometry_poses.zip.
    assert lengths == {
        "00": 4541, "01": 1101, "02": 4661, "03": 801, "04": 271, "05": 2761,
        "06": 1101, "07": 1101, "08": 4071, "09": 1591, "10": 1201,
    }  # fmt: skip
    assert sum(lengths.values()) == 23201


def test_eigen_zhou_training_has_seen_09_and_10(test_data: Path) -> None:
    splits = test_data / "splits"
    if not splits.is_dir():
        pytest.skip(f"no splits in {test_data}")
    train = [frame.drive for frame in read_split(splits / "eigen_zhou/train_files.txt")]
    assert [name for name in SEQUENCES if seen_in_training(name, train)] == [
        "01", "02", "06", "08", "09", "10",
    ]  # fmt: skip
    assert sum(seen_in_training("09", [drive]) for drive in train) == 2873
    assert sum(seen_in_training("10", [drive]) for drive in train) == 2009
    test = {frame.drive for frame in read_split(splits / "eigen/test_files.txt")}
    assert [name for name in SEQUENCES if seen_in_training(name, test)] == ["00", "04", "05", "07"]


@pytest.mark.parametrize(
    ("drive", "seen"),
    [
        ("2011_09_30/2011_09_30_drive_0033_sync", True),
        ("2011_09_30_drive_0033", True),
        ("2011_09_30_drive_0033_extract", True),
        ("2011_09_30/2011_09_30_drive_0034_sync", False),
        ("2011_10_03/2011_10_03_drive_0033_sync", False),
    ],
)
def test_drive_is_told_however_it_is_written(drive: str, seen: bool) -> None:
    assert seen_in_training("09", ["2011_09_26/2011_09_26_drive_0001_sync", drive]) is seen


# Reading


def test_poses_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "09.txt"
    path.write_text(
        "1.000000e+00 0 0 0.000000e+00 0 1 0 0 0 0 1 0\n"
        # A quarter turn to the right: ahead (z) is then the world's x.
        "0 0 1 1.5 0 1 0 -2.500000e-01 -1 0 0 3.25e+01\n\n"
    )
    poses = read_poses(path)
    assert poses.shape == (2, 4, 4)
    assert poses.dtype == np.float64
    assert np.array_equal(poses[0], np.eye(4))
    second = np.array([[0, 0, 1, 1.5], [0, 1, 0, -0.25], [-1, 0, 0, 32.5], [0, 0, 0, 1]])
    assert np.array_equal(poses[1], second)
    assert np.array_equal(poses[1] @ (0, 0, 2, 1), (3.5, -0.25, 32.5, 1))


def test_odometry_layout(odometry: Path) -> None:
    sequence = read_sequence(odometry, "09")
    assert sequence.name == "09"
    assert [path.name for path in sequence.images] == [f"{n:06d}.png" for n in range(COUNT)]
    assert sequence.intrinsics == (707.0912, 707.0912, 601.8873, 183.1104)
    assert (sequence.height, sequence.width) == (8, 24)
    assert np.allclose(sequence.poses, some_poses(), rtol=0, atol=1e-6)


def test_jpeg_is_read_where_there_is_no_png(odometry: Path) -> None:
    folder = odometry / "sequences/09/image_2"
    write_image(folder / "000003.jpg")
    (folder / "000005.png").unlink()
    write_image(folder / "000005.jpg")
    (folder / "notes.txt").touch()
    names = [path.name for path in read_sequence(odometry, "09").images]
    assert names[3] == "000003.png"
    assert names[5] == "000005.jpg"
    assert len(names) == COUNT


@pytest.mark.parametrize("name", ["04", "08"])
def test_raw_layout_gives_the_frames_of_the_table(tmp_path: Path, name: str) -> None:
    folder = write_raw(tmp_path, name)
    sequence = read_sequence(tmp_path, name)
    first, last = {"04": (0, 270), "08": (1100, 5170)}[name]
    assert sequence.images[0] == folder / f"{first:010d}.jpg"
    assert sequence.images[-1] == folder / f"{last:010d}.jpg"
    assert len(sequence.images) == len(sequence.poses) == last - first + 1
    assert sequence.intrinsics == (707.0912, 707.0912, 601.8873, 183.1104)
    assert (sequence.height, sequence.width) == (8, 24)


def test_raw_drives_may_lie_elsewhere(tmp_path: Path) -> None:
    write_raw(tmp_path / "raw", "04")
    shutil.move(tmp_path / "raw/poses", tmp_path / "here/poses")
    sequence = read_sequence(tmp_path / "here", "04", tmp_path / "raw")
    assert len(sequence.images) == 271
    with pytest.raises(FadepthError, match=r"04 has neither .*sequences/04/image_2 nor .*16"):
        read_sequence(tmp_path / "here", "04")


def replace_line(path: Path, number: int, change: Callable[[str], str]) -> None:
    lines = path.read_text().splitlines()
    lines[number - 1] = change(lines[number - 1])
    path.write_text("\n".join(lines) + "\n")


def cut_off(path: Path) -> None:
    path.write_text(path.read_text()[:-70])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, r"pose file .*poses/09\.txt does not exist: unpack data_odometry_poses\.zip"),
        (lambda p: p.write_text("\n\n"), r"pose file .*09\.txt is empty"),
        (lambda p: p.write_bytes(b"\xff\xfe\x00"), r"pose file .*09\.txt is not a text file"),
        (cut_off, r"09\.txt, line 12: found (\d numbers|'.*'), expected the 12 finite numbers"),
        (lambda p: replace_line(p, 4, lambda s: s + " 7"), r"line 4: found 13 numbers"),
        (lambda p: replace_line(p, 4, lambda s: ""), r"line 4: found 0 numbers"),
        (
            lambda p: replace_line(p, 5, lambda s: "nan" + s[12:]),
            r"line 5: found '(nan|1e999)', expected",
        ),
        (
            lambda p: replace_line(p, 5, lambda s: "1e999" + s[12:]),
            r"line 5: found '(nan|1e999)', expected",
        ),
        (lambda p: replace_line(p, 6, lambda s: "one" + s[12:]), r"line 6: found 'one', expected"),
        (lambda p: replace_line(p, 7, lambda s: "1.1" + s[12:]), r"line 7: .* are no rotation"),
        (lambda p: replace_line(p, 1, lambda s: "-1" + s[12:]), r"line 1: .* are no rotation"),
        (lambda p: replace_line(p, 2, lambda s: "1e200 " * 12), r"line 2: .* are no rotation"),
        (
            lambda p: write_poses(p, some_poses(11)),
            r"09\.txt has 11 poses but .*image_2 has 12 images of sequence 09",
        ),
    ],
)
def test_damaged_poses_are_named(
    odometry: Path, damage: Callable[[Path], object], message: str
) -> None:
    damage(odometry / "poses/09.txt")
    with pytest.raises(FadepthError, match=message):
        read_sequence(odometry, "09")


@pytest.mark.parametrize(
    ("path", "damage", "message"),
    [
        (
            "image_2/000004.png",
            Path.unlink,
            r"image_2 lacks 1 of the 12 images .* first is numb.* 4",
        ),
        ("image_2/000011.png", Path.unlink, r"has 12 poses but .*image_2 has 11 images"),
        (
            "image_2/000000.png",
            lambda p: p.write_bytes(b"no image"),
            r"image .*000000\.png is damaged",
        ),
        ("image_2", shutil.rmtree, r"sequence 09 has neither .*image_2 nor"),
        (
            "calib.txt",
            Path.unlink,
            r"calibration file .*calib\.txt does not exist: unpack data_odo",
        ),
        (
            "calib.txt",
            lambda p: p.write_text("P0: 1\n"),
            r"calib\.txt has no key 'P2': unpack data_odometry_calib\.zip",
        ),
        (
            "calib.txt",
            lambda p: p.write_text("P2: 1 2 3\n"),
            r"calib\.txt does not give 12 numbers for 'P2'",
        ),
    ],
)
def test_damaged_sequences_are_named(
    odometry: Path, path: str, damage: Callable[[Path], object], message: str
) -> None:
    damage(odometry / "sequences/09" / path)
    with pytest.raises(FadepthError, match=message):
        read_sequence(odometry, "09")


def test_folder_without_images_is_told(odometry: Path) -> None:
    folder = odometry / "sequences/09/image_2"
    shutil.rmtree(folder)
    folder.mkdir()
    write_image(folder / "0000000000.png")  # a name of the raw data
    with pytest.raises(FadepthError, match=r"image_2 holds no image named by 6 digits"):
        read_sequence(odometry, "09")


def test_a_later_image_of_another_size_is_named(odometry: Path) -> None:
    path = sorted((odometry / "sequences/09/image_2").iterdir())[-1]
    with Image.open(path) as image:
        size = image.width, image.height
    Image.new("RGB", (size[0] + 2, size[1])).save(path)
    with pytest.raises(FadepthError, match=rf"{path.name} is {size[0] + 2} x {size[1]} pixels but"):
        read_sequence(odometry, "09")


def test_damaged_raw_drives_are_named(tmp_path: Path) -> None:
    folder = write_raw(tmp_path, "04")
    calibration = tmp_path / "2011_09_30/calib_cam_to_cam.txt"
    text = calibration.read_text()
    calibration.write_text(text.replace("2.400000e+01", "2.500000e+01"))
    with pytest.raises(FadepthError, match=r"0000000000\.jpg is 24 x 8 pixels but .* says 25 x 8"):
        read_sequence(tmp_path, "04")
    calibration.write_text(text.replace("P_rect_02", "P_rect_03"))
    with pytest.raises(FadepthError, match=r"calib_cam_to_cam\.txt has no key 'P_rect_02'"):
        read_sequence(tmp_path, "04")
    calibration.write_text(text)
    (folder / "0000000270.jpg").unlink()  # the last frame
    with pytest.raises(FadepthError, match=r"lacks 1 of the 271 images .* first is number 270"):
        read_sequence(tmp_path, "04")


def test_sequences_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(FadepthError, match=r"no ground truth for sequence '11': choose one of 00,"):
        read_sequence(tmp_path, "11")
    with pytest.raises(FadepthError, match=r"no ground truth for sequence '9'"):
        seen_in_training("9", [])
    with pytest.raises(FadepthError, match=r"drive of sequence 03 is not among the KITTI raw data"):
        read_sequence(tmp_path, "03")
    with pytest.raises(FadepthError, match=r"sequence 09 has neither .*_drive_0033_sync\.zip and"):
        read_sequence(tmp_path, "09")


# OXTS


@pytest.fixture(scope="module")
def day(test_data: Path) -> Path:
    return test_data / "kitti_mini/kitti/2011_09_26"


@pytest.fixture(scope="module")
def packets_of_0005(day: Path) -> np.ndarray:
    """(104, 30), read without our reader."""
    files = sorted((day / "2011_09_26_drive_0005_sync/oxts/data").glob("*.txt"))
    return np.array([np.loadtxt(path) for path in files])


@pytest.fixture(scope="module")
def imu(day: Path) -> np.ndarray:
    return read_oxts(day / "2011_09_26_drive_0005_sync/oxts/data")


@pytest.fixture(scope="module")
def camera(day: Path, imu: np.ndarray) -> np.ndarray:
    return oxts_to_camera(imu, day)


def test_oxts_rotation_is_that_of_scipy(imu: np.ndarray, packets_of_0005: np.ndarray) -> None:
    roll, pitch, yaw = packets_of_0005[:, 3:6].T
    turned = Rotation.from_euler("ZYX", np.stack([yaw, pitch, roll], 1))
    expected = (turned[0].inv() * turned).as_matrix()
    assert imu.shape == (104, 4, 4)
    assert np.abs(imu[:, :3, :3] - expected).max() < 1e-12
    assert np.abs(imu[0] - np.eye(4)).max() < 1e-12


def test_oxts_position_is_metres_on_the_ellipsoid(
    imu: np.ndarray, packets_of_0005: np.ndarray
) -> None:
    """Against WGS84's radii of curvature, from which Mercator's sphere is off by up to 0.3 %."""
    latitude, longitude = np.radians(packets_of_0005[:, :2]).T
    major, squared = 6378137.0, 6.69437999014e-3
    root = np.sqrt(1 - squared * np.sin(latitude[0]) ** 2)
    east = (longitude - longitude[0]) * major / root * np.cos(latitude[0])
    north = (latitude - latitude[0]) * major * (1 - squared) / root**3
    up = packets_of_0005[:, 2] - packets_of_0005[0, 2]
    away = np.linalg.norm(np.stack([east, north, up]), axis=0)
    assert away[-1] > 40
    assert np.abs(np.linalg.norm(imu[:, :3, 3], axis=1) - away).max() < 0.003 * away[-1]


def test_oxts_motion_is_that_of_the_speedometer(
    imu: np.ndarray, packets_of_0005: np.ndarray
) -> None:
    """Position and velocity are two measurements; packets come every 0.10 or 0.11 s."""
    motions = np.linalg.inv(imu[:-1]) @ imu[1:]
    forward, left, up = motions[:, :3, 3].T
    speed = (packets_of_0005[1:, 8] + packets_of_0005[:-1, 8]) / 2
    assert 3.8 < speed.min() < speed.max() < 6.5  # m/s
    # Recorded while GPS was settling (0.45 m accuracy at the start), the position creeps at first.
    assert np.linalg.norm(motions[:, :3, 3], axis=1).sum() == pytest.approx(
        0.1035 * speed.sum(), rel=0.04
    )
    seconds = forward[50:] / speed[50:]
    assert 0.95 * 0.10 < seconds.min() < 0.10 < 0.11 < seconds.max() < 1.02 * 0.11
    assert seconds.mean() == pytest.approx(0.1035, rel=0.03)
    nearest = np.where(seconds < 0.105, 0.10, 0.11)
    assert np.median(np.abs(seconds / nearest - 1)) < 0.025
    assert np.abs(left[50:]).max() < 0.05 * forward.max()
    assert np.abs(up).max() < 0.05 * forward.max()
    # Turning rate about the upward axis, rad/s; yaw grows to the left.
    rate = (packets_of_0005[1:, 22] + packets_of_0005[:-1, 22]) / 2
    turns = Rotation.from_matrix(motions[:, :3, :3]).as_rotvec()[:, 2]
    assert turns.sum() == pytest.approx(0.1035 * rate.sum(), rel=0.02)


def test_camera_looks_where_the_car_goes(
    camera: np.ndarray, imu: np.ndarray, packets_of_0005: np.ndarray
) -> None:
    assert np.abs(camera[0] - np.eye(4)).max() < 1e-12
    assert np.abs(camera[:, :3, :3] @ camera[:, :3, :3].transpose(0, 2, 1) - np.eye(3)).max() < 1e-6
    motions = np.linalg.inv(camera[:-1]) @ camera[1:]
    x, y, z = motions[:, :3, 3].T
    assert z.min() > 0.3
    assert np.abs(y).max() < 0.05
    # The IMU is at the rear axle; the camera, in front of it, swings outwards in a turn.
    assert np.abs(x).max() < 0.25
    length = np.linalg.norm(motions[:, :3, 3], axis=1).sum()
    assert length == pytest.approx(
        np.linalg.norm(np.diff(imu[:, :3, 3], axis=0), axis=1).sum(), 0.01
    )
    # A right turn of 53 degrees is positive about the camera's y, which points down.
    turned = Rotation.from_matrix(camera[-1, :3, :3]).as_rotvec(degrees=True)
    yaw = np.degrees(packets_of_0005[-1, 5] - packets_of_0005[0, 5])
    assert turned[1] == pytest.approx(-yaw, abs=1)
    assert np.abs(turned[[0, 2]]).max() < 2


def test_each_calibration_has_its_place(tmp_path: Path) -> None:
    """Large known turns: a point fixed in the world must stay where it is, seen by any frame."""
    turns = {
        "imu": Rotation.from_rotvec((0.3, -0.5, 1.1)),
        "velo": Rotation.from_rotvec((-1.2, 0.4, 0.2)),
        "rect": Rotation.from_rotvec((0.1, 0.8, -0.6)),
    }

    def entry(key: str, values: np.ndarray) -> str:
        return f"{key}: {' '.join(f'{value:.12e}' for value in values.ravel())}\n"

    shifts = {"imu": np.array([-0.8, 0.3, -0.8]), "velo": np.array([0.1, -0.2, 0.5])}
    for name, file in (("imu", "calib_imu_to_velo.txt"), ("velo", "calib_velo_to_cam.txt")):
        text = entry("R", turns[name].as_matrix()) + entry("T", shifts[name])
        (tmp_path / file).write_text(text)
    (tmp_path / "calib_cam_to_cam.txt").write_text(entry("R_rect_00", turns["rect"].as_matrix()))

    def in_camera(point: np.ndarray) -> np.ndarray:
        lidar = turns["imu"].apply(point) + shifts["imu"]
        return turns["rect"].apply(turns["velo"].apply(lidar) + shifts["velo"])

    imu = some_poses(4)
    camera = oxts_to_camera(imu, tmp_path)
    point = np.array([7.0, -2.0, 3.0])  # in the first IMU's frame
    for known, found in zip(imu, camera, strict=True):
        from_imu = known[:3, :3].T @ (point - known[:3, 3])
        there = found[:3, :3] @ in_camera(from_imu) + found[:3, 3]
        assert np.abs(there - in_camera(point)).max() < 1e-9


def grey(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"), dtype=np.float64)


def test_poses_and_lidar_explain_the_next_picture(day: Path, camera: np.ndarray) -> None:
    """Moved by depth and pose, pixels look as in the frame after; unmoved or moved back, not."""
    root, drive = day.parent, "2011_09_26/2011_09_26_drive_0005_sync"
    frames = [FrameId(drive, number, "l") for number in range(50, 154)]
    fx, fy, cx, cy = read_camera(root, frames[0]).intrinsics
    tried = 0
    for t, (target, source) in enumerate(pairwise(frames)):
        images = image_path(root, target), image_path(root, source)
        if not velodyne_path(root, target).is_file() or None in images:
            continue
        depth = velodyne_depth(root, target, depth="camera_z")
        v, u = np.nonzero((depth > 0) & (depth < 30))
        z = depth[v, u]
        points = np.stack([(u - cx) / fx * z, (v - cy) / fy * z, z])
        here, there = (grey(path) for path in images if path)
        motion = np.linalg.inv(camera[t + 1]) @ camera[t]
        errors = []
        for guess in (motion, np.eye(4), np.linalg.inv(motion)):
            x, y, w = guess[:3, :3] @ points + guess[:3, 3:]
            p, q = np.round(fx * x / w + cx), np.round(fy * y / w + cy)
            inside = (p >= 0) & (p < depth.shape[1]) & (q >= 0) & (q < depth.shape[0]) & (w > 1)
            seen = there[q[inside].astype(int), p[inside].astype(int)]
            errors.append(np.abs(here[v, u][inside] - seen).mean())
        assert errors[0] < 0.85 * min(errors[1:]), (target.number, errors)
        tried += 1
    assert tried >= 3


@pytest.fixture
def oxts(day: Path, tmp_path: Path) -> Path:
    """Five packets of drive 0005."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(50, 55):
        path = day / f"2011_09_26_drive_0005_sync/oxts/data/{number:010d}.txt"
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: p.unlink(), r"has no packet 0000000052\.txt"),
        (lambda p: p.write_text(""), r"packet .*0000000052\.txt does not hold 30 finite numbers"),
        (lambda p: p.write_text(p.read_text()[:200]), r"0000000052\.txt does not hold 30 finite"),
        (lambda p: p.write_text("nan" + p.read_text()[15:]), r"52\.txt does not hold 30 finite"),
        (lambda p: p.write_bytes(b"\xff\xfe"), r"OXTS packet .*52\.txt is not a text file"),
        (lambda p: shutil.rmtree(p.parent), r"OXTS folder .*data cannot be read .No such file"),
        (lambda p: [q.unlink() for q in p.parent.iterdir()], r"OXTS folder .* holds no packet"),
    ],
)
def test_damaged_packets_are_named(
    oxts: Path, damage: Callable[[Path], object], message: str
) -> None:
    assert len(read_oxts(oxts)) == 5
    damage(oxts / "0000000052.txt")
    with pytest.raises(FadepthError, match=message):
        read_oxts(oxts)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("calib_imu_to_velo.txt", "T"),
        ("calib_velo_to_cam.txt", "R"),
        ("calib_cam_to_cam.txt", "R_rect_00"),
    ],
)
def test_missing_calibration_is_named(day: Path, tmp_path: Path, name: str, key: str) -> None:
    for path in day.glob("calib_*.txt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    poses = np.eye(4)[None]
    assert np.abs(oxts_to_camera(poses, tmp_path) - np.eye(4)).max() < 1e-12
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text(re.sub(rf"^{key}:", "X:", text, flags=re.MULTILINE))
    with pytest.raises(FadepthError, match=rf"{name} has no key '{key}'"):
        oxts_to_camera(poses, tmp_path)
