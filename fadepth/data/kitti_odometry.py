"""KITTI odometry: sequences 00 to 10, their images and the true motion of the camera.

    poses/09.txt                        one line of 12 numbers per image
    sequences/09/image_2/000000.png     images of the left colour camera
    sequences/09/calib.txt              projection matrices P0 to P3

The layout is that of http://www.cvlibs.net/datasets/kitti/eval_odometry.php. The sequences were cut
from the raw drives (`SEQUENCES`), so who has KITTI raw needs only `poses/` in addition.

Poses are those of camera 0, the left grey one, while the images are of camera 2, which sits
P2[0, 3] / fx (about 6 cm) beside it. Published code compares the two as if they were one camera
(SfMLearner `kitti_eval/`, https://github.com/tinghuiz/SfMLearner; monodepth2 `evaluate_pose.py`,
https://github.com/nianticlabs/monodepth2), and so does fadepth: on a straight road the offset
changes nothing, in a turn by an angle a it moves the position by a times 6 cm.

Camera axes are x right, y down, z forward, in metres.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fadepth.data.kitti import (
    IMAGE_SUFFIXES,
    FrameId,
    Intrinsics,
    calibration_values,
    image_size,
    read_camera,
)
from fadepth.errors import FadepthError

Matrices = NDArray[np.float64]

#: How far the entries of R·Rᵀ may be from those of the identity [derived]: the published poses are
#: rounded to seven digits, which leaves less than 1e-6.
ROTATION_TOLERANCE = 1e-4

#: Equatorial radius in metres of the Mercator projection (raw devkit `matlab/latlonToMercator.m`).
EARTH_RADIUS = 6378137.0

#: Numbers in an OXTS packet (raw devkit `readme.txt`, `dataformat.txt`).
PACKET_LENGTH = 30

_RESTORE = "restore it from the archive"


class RawRange(NamedTuple):
    """The frames `first` to `last`, both included, of a raw drive such as `<date>_drive_0033`."""

    drive: str
    first: int
    last: int

    @property
    def folder(self) -> str:
        """The drive as split lists name it, `<date>/<date>_drive_0033_sync`."""
        return f"{self.drive[:10]}/{self.drive}_sync"


#: Sequence -> raw frames, as the odometry devkit's `readme.txt` states. The drive of 03 is not
#: among the published raw data.
SEQUENCES: Mapping[str, RawRange] = MappingProxyType(
    {
        "00": RawRange("2011_10_03_drive_0027", 0, 4540),
        "01": RawRange("2011_10_03_drive_0042", 0, 1100),
        "02": RawRange("2011_10_03_drive_0034", 0, 4660),
        "03": RawRange("2011_09_26_drive_0067", 0, 800),
        "04": RawRange("2011_09_30_drive_0016", 0, 270),
        "05": RawRange("2011_09_30_drive_0018", 0, 2760),
        "06": RawRange("2011_09_30_drive_0020", 0, 1100),
        "07": RawRange("2011_09_30_drive_0027", 0, 1100),
        "08": RawRange("2011_09_30_drive_0028", 1100, 5170),
        "09": RawRange("2011_09_30_drive_0033", 0, 1590),
        "10": RawRange("2011_09_30_drive_0034", 0, 1200),
    }
)
NOT_IN_RAW = "03"


@dataclass(frozen=True, eq=False)
class OdometrySequence:
    """One sequence with its ground truth.

    Attributes:
        name: two digits, such as `09`.
        images: N files of the left colour camera, in temporal order, 10 per second.
        intrinsics: (fx, fy, cx, cy) in pixels at native size, integer pixel centres.
        height, width: native size in pixels.
        poses: (N, 4, 4) T_world_camera of camera 0, see the module; world = first camera.
    """

    name: str
    images: tuple[Path, ...]
    intrinsics: Intrinsics
    height: int
    width: int
    poses: Matrices


def seen_in_training(sequence: str, train_drives: Iterable[str]) -> bool:
    """Tell whether training used frames of the drive that the sequence was cut from.

    The Eigen-Zhou list, with which depth is trained, holds the drives of 09 and of 10 (2,873 and
    2,009 of its 39,810 lines; also those of 01, 02, 06 and 08): odometry of such a run is measured
    on its training images and must be marked so. Papers that report 09 and 10 train on 00 to 08
    instead (monodepth2 `splits/odom/`).

    Args:
        sequence: two digits.
        train_drives: drives as in a split list, with or without date folder and `_sync`.

    Raises:
        FadepthError: there is no such sequence.
    """
    drive = _raw_range(sequence).drive
    return any(
        name.rstrip("/").rsplit("/", 1)[-1].removesuffix("_sync").removesuffix("_extract") == drive
        for name in train_drives
    )


# Sequences


def read_sequence(root: Path, name: str, raw_root: Path | None = None) -> OdometrySequence:
    """Read a sequence: poses from `root`, images from `sequences/` in it or from the raw drives.

    Args:
        root: folder that holds `poses/`, and `sequences/` unless the raw drives are read.
        name: two digits, 00 to 10.
        raw_root: folder that holds the recording days of KITTI raw, read where
            `root/sequences/<name>/image_2` does not exist; none: `root`.

    Raises:
        FadepthError: no such sequence; poses, images or calibration are absent or damaged; or the
            numbers of poses and images differ.
    """
    source = _raw_range(name)
    pose_file = root / "poses" / f"{name}.txt"
    folder = root / "sequences" / name
    if (folder / "image_2").is_dir():  # data_odometry_calib.zip alone makes `folder`
        images = _numbered_images(folder / "image_2", 6)
        numbers = range(max(images) + 1)
        intrinsics, size = _odometry_intrinsics(folder / "calib.txt"), None
    else:
        raw = root if raw_root is None else raw_root
        frame = FrameId(source.folder, source.first, "l")
        folder = raw / frame.drive
        if not folder.is_dir():
            raise _no_images(root / "sequences" / name / "image_2", folder, name)
        images = _numbered_images(folder / "image_02" / "data", 10)
        numbers = range(source.first, source.last + 1)
        camera = read_camera(raw, frame)
        intrinsics, size = camera.intrinsics, (camera.height, camera.width)
    missing = [number for number in numbers if number not in images]
    if missing:
        there = next(iter(images.values())).parent
        raise FadepthError(
            f"{there} lacks {len(missing)} of the {len(numbers)} images of sequence {name}, the "
            f"first is number {missing[0]}: unpack its archive again"
        )
    poses = read_poses(pose_file)
    if len(poses) != len(numbers):
        raise FadepthError(
            f"{pose_file} has {len(poses)} poses but {images[numbers[0]].parent} has "
            f"{len(numbers)} images of sequence {name}: restore whichever is cut short"
        )
    files = tuple(images[number] for number in numbers)
    height, width = size or image_size(files[0])
    for file in files:
        if (found := image_size(file)) != (height, width):
            said = "calib_cam_to_cam.txt of its day says" if size else f"{files[0].name} is"
            raise FadepthError(
                f"{file} is {found[1]} x {found[0]} pixels but {said} {width} x {height}: use the "
                "synced and rectified data at native size"
            )
    return OdometrySequence(name, files, intrinsics, height, width, poses)


def read_poses(path: Path) -> Matrices:
    """Read a KITTI pose file: (N, 4, 4) float64 T_world_camera, metres.

    A line holds the upper 3 x 4 part of one matrix, row by row; it takes points of that camera to
    the world, which is the first camera in KITTI's files (odometry devkit `readme.txt`).

    Raises:
        FadepthError: the file is absent or empty, or names the first line that has not 12 finite
            numbers or whose rotation is none.
    """
    lines = _read_lines(path, "pose file", "unpack data_odometry_poses.zip of KITTI there")
    while lines and not lines[-1].strip():
        lines.pop()
    if not lines:
        raise FadepthError(f"pose file {path} is empty: {_RESTORE}")
    rows = []
    for number, line in enumerate(lines, start=1):
        row = _numbers(line)
        if row is None or len(row) != 12 or not np.isfinite(row).all():
            wrong_word = next((word for word in line.split() if not _is_finite(word)), None)
            found = f"'{wrong_word[:20]}'" if wrong_word else f"{len(line.split())} numbers"
            raise FadepthError(
                f"{path}, line {number}: found {found}, expected the 12 finite numbers of a pose; "
                f"{_RESTORE}"
            )
        rows.append(row)
    poses = np.zeros((len(rows), 4, 4))
    poses[:, :3] = np.array(rows).reshape(-1, 3, 4)
    poses[:, 3, 3] = 1
    wrong = np.flatnonzero(~are_rotations(poses[:, :3, :3]))
    if len(wrong):
        raise FadepthError(
            f"{path}, line {wrong[0] + 1}: columns 1 to 3 of the pose are no rotation (orthonormal "
            f"to {ROTATION_TOLERANCE:g}, determinant 1); {_RESTORE}"
        )
    return poses


def are_rotations(matrices: Matrices) -> NDArray[np.bool_]:
    """For each of (N, 3, 3): orthonormal to `ROTATION_TOLERANCE` and no mirroring."""
    with np.errstate(over="ignore", invalid="ignore"):
        products = matrices @ matrices.transpose(0, 2, 1)
        orthonormal = (np.abs(products - np.eye(3)) < ROTATION_TOLERANCE).all((1, 2))
        # A determinant of huge entries may overflow; those rows are not orthonormal anyway.
        return np.asarray(orthonormal & (np.linalg.det(matrices) > 0))


def _raw_range(sequence: str) -> RawRange:
    try:
        return SEQUENCES[sequence]
    except KeyError:
        raise FadepthError(
            f"KITTI odometry has no ground truth for sequence '{sequence}': choose one of "
            f"{', '.join(SEQUENCES)}"
        ) from None


def _no_images(folder: Path, drive: Path, name: str) -> FadepthError:
    if name == NOT_IN_RAW:
        return FadepthError(
            f"{folder} does not exist, and the drive of sequence {name} is not among the KITTI raw "
            "data: unpack data_odometry_color.zip and data_odometry_calib.zip there"
        )
    return FadepthError(
        f"sequence {name} has neither {folder} nor {drive}: unpack that raw drive "
        f"({drive.name}.zip and {drive.parent.name}_calib.zip) or data_odometry_color.zip and "
        "data_odometry_calib.zip"
    )


def _numbered_images(folder: Path, digits: int) -> dict[int, Path]:
    """Number -> file, for names of that many digits; of a PNG and a JPEG the PNG."""
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise FadepthError(
            f"image folder {folder} cannot be read ({error.strerror}): unpack its archive again"
        ) from None
    images: dict[int, Path] = {}
    for suffix in reversed(IMAGE_SUFFIXES):
        for path in files:
            stem = path.stem
            if path.suffix == suffix and len(stem) == digits and stem.isascii() and stem.isdigit():
                images[int(stem)] = path
    if not images:
        raise FadepthError(
            f"image folder {folder} holds no image named by {digits} digits and "
            f"{' or '.join(IMAGE_SUFFIXES)}: unpack its archive again"
        )
    return images


def _odometry_intrinsics(path: Path) -> Intrinsics:
    """(fx, fy, cx, cy) of P2."""
    remedy = "unpack data_odometry_calib.zip of KITTI again"
    for line in _read_lines(path, "calibration file", remedy):
        key, _, rest = line.partition(":")
        if key.strip() != "P2":
            continue
        values = _numbers(rest)
        if values is None or len(values) != 12 or not np.isfinite(values).all():
            raise FadepthError(
                f"calibration file {path} does not give 12 numbers for 'P2': {remedy}"
            )
        return values[0], values[5], values[2], values[6]
    raise FadepthError(f"calibration file {path} has no key 'P2': {remedy}")


# OXTS


def read_oxts(folder: Path) -> Matrices:
    """Read a raw drive's OXTS packets (`<drive>/oxts/data`): (N, 4, 4) T_first_imu, metres.

    As the raw devkit does (`matlab/convertOxtsToPose.m`): x = s r π lon / 180 and
    y = s r ln tan(π (90 + lat) / 360) with s = cos of the first latitude, z = altitude, and
    R = Rz(yaw) Ry(pitch) Rx(roll); all of it relative to the first packet. The axes are x forward,
    y left, z up (devkit `dataformat.txt`; the comment in `convertOxtsToPose.m` that says right and
    down is about another frame).

    The position of each frame is its own GPS fix, so it may jump by its error (`pos_accuracy` in
    the packet, in metres) where the motion of the car does not.

    Raises:
        FadepthError: the folder is absent or empty, a packet is missing between the first and the
            last, or is damaged.
    """
    packets = _packets(folder)
    latitude, longitude, altitude = packets[:, 0], packets[:, 1], packets[:, 2]
    reach = EARTH_RADIUS * np.cos(np.radians(latitude[0]))
    poses = np.zeros((len(packets), 4, 4))
    poses[:, 0, 3] = reach * np.radians(longitude)
    poses[:, 1, 3] = reach * np.log(np.tan(np.radians(90 + latitude) / 2))
    poses[:, 2, 3] = altitude
    # Millions of metres from the map's origin a product would lose the last nanometres.
    poses[:, :3, 3] -= poses[0, :3, 3].copy()
    roll, pitch, yaw = packets[:, 3:6].T
    poses[:, :3, :3] = _turn(2, yaw) @ _turn(1, pitch) @ _turn(0, roll)
    poses[:, 3, 3] = 1
    return np.asarray(np.linalg.inv(poses[0]) @ poses)


def oxts_to_camera(poses: Matrices, calibration: Path) -> Matrices:
    """Poses of camera 0 from those of the IMU, in the convention of `read_poses`.

    Args:
        poses: (N, 4, 4) as from `read_oxts`.
        calibration: folder of the recording day, with `calib_imu_to_velo.txt`,
            `calib_velo_to_cam.txt` and `calib_cam_to_cam.txt`.

    Returns:
        (N, 4, 4) T_world_camera, metres; world = first camera, rectified by R_rect_00.

    Raises:
        FadepthError: a calibration file or key is absent or damaged.
    """
    rectify = np.eye(4)
    rectify[:3, :3] = calibration_values(
        calibration / "calib_cam_to_cam.txt", "R_rect_00", 9
    ).reshape(3, 3)
    imu_to_camera = (
        rectify
        @ _rigid(calibration / "calib_velo_to_cam.txt")
        @ _rigid(calibration / "calib_imu_to_velo.txt")
    )
    cameras = poses @ np.linalg.inv(imu_to_camera)
    return np.asarray(np.linalg.inv(cameras[0]) @ cameras)


def _packets(folder: Path) -> Matrices:
    """(N, 30) numbers of the packets in order."""
    try:
        names = sorted(path for path in folder.iterdir() if path.suffix == ".txt")
    except OSError as error:
        raise FadepthError(
            f"OXTS folder {folder} cannot be read ({error.strerror}): expected <drive>/oxts/data "
            "of a KITTI raw drive"
        ) from None
    numbered = {
        int(path.stem): path for path in names if path.stem.isascii() and path.stem.isdigit()
    }
    if not numbered:
        raise FadepthError(f"OXTS folder {folder} holds no packet: unpack the raw drive again")
    packets = []
    for number in range(min(numbered), max(numbered) + 1):
        if number not in numbered:
            raise FadepthError(
                f"OXTS folder {folder} has no packet {number:010d}.txt: unpack the raw drive "
                "again, since poses must be of consecutive frames"
            )
        path = numbered[number]
        values = _numbers(" ".join(_read_lines(path, "OXTS packet", _RESTORE)))
        if values is None or len(values) != PACKET_LENGTH or not np.isfinite(values).all():
            raise FadepthError(
                f"OXTS packet {path} does not hold {PACKET_LENGTH} finite numbers: {_RESTORE}"
            )
        packets.append(values)
    return np.array(packets)


def _turn(axis: int, angles: NDArray[np.float64]) -> Matrices:
    """(N, 3, 3) rotations about an axis by angles (N,) in radians."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    result = np.zeros((len(angles), 3, 3))
    result[:, axis, axis] = 1
    result[:, i, i] = result[:, j, j] = np.cos(angles)
    result[:, j, i] = np.sin(angles)
    result[:, i, j] = -result[:, j, i]
    return result


def _rigid(path: Path) -> Matrices:
    """(4, 4) from keys R and T of a calibration file."""
    result = np.eye(4)
    result[:3, :3] = calibration_values(path, "R", 9).reshape(3, 3)
    result[:3, 3] = calibration_values(path, "T", 3)
    return result


# Text


def _read_lines(path: Path, what: str, remedy: str) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        raise FadepthError(f"{what} {path} does not exist: {remedy}") from None
    except UnicodeDecodeError:
        raise FadepthError(f"{what} {path} is not a text file: {remedy}") from None
    except OSError as error:
        raise FadepthError(f"{what} {path} cannot be read ({error.strerror}): {remedy}") from None


def _numbers(text: str) -> list[float] | None:
    """The numbers of a line; None where a word is none."""
    try:
        return [float(word) for word in text.split()]
    except ValueError:
        return None


def _is_finite(word: str) -> bool:
    return bool(np.isfinite(_numbers(word) or [np.nan]).all())
