"""DDAD in its own DGP layout: scene list, calibration, poses, images, lidar scans.

    ddad.json                             scenes of each split, as files below the root
    000000/scene_<hash>.json              samples in temporal order, and the data of each sample
    000000/calibration/<hash>.json        intrinsics of every sensor
    000000/rgb/CAMERA_01/<time>.png       images
    000000/point_cloud/LIDAR/<time>.npz   scans

The layout is that of https://github.com/TRI-ML/dgp (`dgp/proto/`), the data set is
https://github.com/TRI-ML/DDAD. Images are rectified. Camera axes are x right, y down, z forward in
metres; DGP counts pixels as we do, with integer centres (its `scale_intrinsics`).
"""

import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fadepth.data.kitti import Intrinsics
from fadepth.errors import FadepthError

Matrix = NDArray[np.float64]

#: Keys of the splits in `scene_splits` (DGP `dataset.proto`, `DatasetSplit`).
TRAINING, VALIDATION = "0", "1"

#: What numpy raises on damaged scans, depending on the place of the damage.
DAMAGED_SCAN = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error)

_REMEDY = "restore it from the archive"


def read_scene_list(path: Path) -> dict[str, list[str]]:
    """Read the scene list (`ddad.json`): scene files of the training and validation split.

    Returns:
        `TRAINING` and `VALIDATION` -> scene files in the list's order, relative to the root.

    Raises:
        FadepthError: the file is absent or damaged, a split is empty, or a scene is in both.
    """
    content = _read_json(path, "scene list")
    try:
        splits = {
            split: [str(name) for name in content["scene_splits"][split]["filenames"]]
            for split in (TRAINING, VALIDATION)
        }
    except (KeyError, TypeError):
        splits = {}
    if not splits or not all(splits.values()):
        raise FadepthError(
            f"scene list {path} names no scenes in 'scene_splits' {TRAINING} (training) and "
            f"{VALIDATION} (validation): {_REMEDY}"
        )
    if both := sorted(set(splits[TRAINING]) & set(splits[VALIDATION])):
        raise FadepthError(
            f"scene list {path} has {both[0]} for training and for validation: take it off one "
            "of them, since validation scenes are what is evaluated"
        )
    return splits


def hold_out(scenes: Sequence[str], count: int) -> tuple[list[str], list[str]]:
    """Split scenes into those to train with and `count` held out, spread evenly [derived].

    Raises:
        FadepthError: nothing would be left to train with.
    """
    if count >= len(scenes):
        raise FadepthError(
            f"'data.ddad.held_out_scenes' is {count} but there are only {len(scenes)} training "
            "scenes: lower it"
        )
    held = {(2 * k + 1) * len(scenes) // (2 * count) for k in range(count)}
    return (
        [scene for number, scene in enumerate(scenes) if number not in held],
        [scene for number, scene in enumerate(scenes) if number in held],
    )


@dataclass(frozen=True, eq=False)
class DdadFrame:
    """One image of one camera, with the lidar scan of the same sample.

    Attributes:
        scene: name of the scene's folder.
        number: position of the sample within the scene, from 0.
        camera: as the scene names it, such as `CAMERA_01`.
        image: the image file.
        height, width: native size in pixels.
        intrinsics: (fx, fy, cx, cy) in pixels at native size, integer pixel centres.
        T_world_camera: (4, 4), maps camera coordinates to the world's, metres, at the exposure.
        lidar: the scan's file, None where the sample has none.
        T_world_lidar: (4, 4), maps the scan's coordinates to the world's; None without a scan.
    """

    scene: str
    number: int
    camera: str
    image: Path
    height: int
    width: int
    intrinsics: Intrinsics
    T_world_camera: Matrix
    lidar: Path | None
    T_world_lidar: Matrix | None

    @property
    def T_lidar_to_camera(self) -> Matrix | None:  # noqa: N802 - the field's name for a motion
        """(4, 4) from the scan to the camera; None without a scan.

        It leads through the world, as in DGP: camera and lidar fire at different moments, and the
        car moves in between (a few centimetres in a city, which the fixed extrinsics would miss).
        """
        if self.T_world_lidar is None:
            return None
        return invert(self.T_world_camera) @ self.T_world_lidar

    def lidar_depth(self) -> NDArray[np.float32]:
        """(height, width) depth in metres along the camera's z, 0 = none; see `project_lidar`.

        Raises:
            FadepthError: the sample has no scan, or its file is absent or damaged.
        """
        motion = self.T_lidar_to_camera
        if self.lidar is None or motion is None:
            raise FadepthError(f"sample {self.number} of DDAD scene {self.scene} has no lidar scan")
        points = read_point_cloud(self.lidar)
        return project_lidar(points, motion, self.intrinsics, self.height, self.width)


def T_target_to_source(target: DdadFrame, source: DdadFrame) -> Matrix:  # noqa: N802
    """(4, 4) from the target camera's frame into the source camera's, metres, by their poses."""
    return invert(source.T_world_camera) @ target.T_world_camera


class DdadScene:
    """One scene: its samples in temporal order.

    Neighbours in time are neighbours in the list of samples. `prev_key` and `next_key` are not
    used: in DGP's own example they lead to other sensors or nowhere.

    Args:
        path: the scene's file, `<root>/<scene>/scene_<hash>.json`.

    Raises:
        FadepthError: here or on access, a file is absent or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.parent
        self._content = _read_json(path, "scene file")

    @cached_property
    def samples(self) -> list[dict[str, dict[str, Any]]]:
        """For each sample: sensor name -> the datum as in the file."""
        try:
            data = {datum["key"]: datum for datum in self._content["data"]}
            samples = [
                {data[key]["id"]["name"]: data[key]["datum"] for key in sample["datum_keys"]}
                for sample in self._content["samples"]
            ]
        except (KeyError, TypeError) as error:
            raise self._broken(error) from None
        if not samples:
            raise FadepthError(f"scene file {self.path} lists no samples: {_REMEDY}")
        return samples

    @property
    def cameras(self) -> list[str]:
        """Names of the cameras of the first sample."""
        return [name for name, datum in self.samples[0].items() if "image" in datum]

    @property
    def description(self) -> list[Path]:
        """The files that describe the scene: its own and its calibrations, sorted."""
        return sorted([self.path, *map(self._calibration_path, self._calibration_keys)])

    def frames(self, camera: str = "CAMERA_01") -> list[DdadFrame]:
        """All frames of a camera, in temporal order; case does not matter in its name.

        Raises:
            FadepthError: a sample has no such camera, or the scene's files are damaged.
        """
        try:
            return list(self._frames(camera))
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
            raise self._broken(error) from None

    def _frames(self, camera: str) -> Iterator[DdadFrame]:
        calibrations = {key: self._intrinsics(key) for key in set(self._calibration_keys)}
        for number, (sample, key) in enumerate(
            zip(self.samples, self._calibration_keys, strict=True)
        ):
            name = next((n for n in sample if n.lower() == camera.lower()), None)
            if name is None or "image" not in sample[name]:
                raise FadepthError(
                    f"sample {number} of {self.path} has no camera {camera}: "
                    f"'data.ddad.cameras' may name {', '.join(self.cameras)}"
                )
            image = sample[name]["image"]
            scan = next((d["point_cloud"] for d in sample.values() if "point_cloud" in d), None)
            yield DdadFrame(
                scene=self.folder.name,
                number=number,
                camera=name,
                image=self.folder / image["filename"],
                height=int(image["height"]),
                width=int(image["width"]),
                intrinsics=self._of_camera(calibrations[key], key, name),
                T_world_camera=pose_matrix(image["pose"]),
                lidar=self.folder / scan["filename"] if scan else None,
                T_world_lidar=pose_matrix(scan["pose"]) if scan else None,
            )

    @cached_property
    def _calibration_keys(self) -> list[str]:
        """One per sample; mostly the same for a whole scene."""
        try:
            return [sample["calibration_key"] for sample in self._content["samples"]]
        except (KeyError, TypeError) as error:
            raise self._broken(error) from None

    def _calibration_path(self, key: str) -> Path:
        return self.folder / "calibration" / f"{key}.json"

    def _intrinsics(self, key: str) -> dict[str, Intrinsics]:
        """Intrinsics of every sensor of a calibration; a lidar's are zeros."""
        path = self._calibration_path(key)
        content = _read_json(path, "calibration file")
        try:
            sensors = dict(zip(content["names"], content["intrinsics"], strict=True))
            result = {
                name: (float(k["fx"]), float(k["fy"]), float(k["cx"]), float(k["cy"]))
                for name, k in sensors.items()
            }
        except (KeyError, TypeError, ValueError):
            raise FadepthError(
                f"calibration file {path} does not give fx, fy, cx and cy of every sensor: "
                f"{_REMEDY}"
            ) from None
        for name, k in sensors.items():
            if any(value for term, value in k.items() if term not in ("fx", "fy", "cx", "cy")):
                raise FadepthError(
                    f"calibration file {path} gives skew or distortion for {name}: expected a "
                    "rectified pinhole camera, rectify its images first"
                )
        return result

    def _of_camera(self, sensors: dict[str, Intrinsics], key: str, name: str) -> Intrinsics:
        """Intrinsics of one camera, which must be usable: a lidar's zeros are not."""
        path = self._calibration_path(key)
        if name not in sensors:
            raise FadepthError(f"calibration file {path} has no sensor '{name}': {_REMEDY}")
        fx, fy, cx, cy = k = sensors[name]
        if not (np.isfinite(k).all() and fx > 0 and fy > 0):
            raise FadepthError(
                f"calibration file {path} gives fx {fx:g}, fy {fy:g}, cx {cx:g} and cy {cy:g} for "
                f"{name}, expected finite numbers and a positive focal length: {_REMEDY}"
            )
        return k

    def _broken(self, error: Exception) -> FadepthError:
        return FadepthError(
            f"scene file {self.path} is not as DGP writes it ({type(error).__name__}: {error}): "
            f"{_REMEDY}"
        )


def pose_matrix(pose: dict[str, Any]) -> Matrix:
    """(4, 4) of a DGP pose: unit quaternion qw, qx, qy, qz and translation x, y, z in metres.

    Raises:
        KeyError: a part is absent.
        ValueError: the quaternion is not of length 1, or the translation not finite.
    """
    w, x, y, z = q = np.array([float(pose["rotation"][f"q{axis}"]) for axis in "wxyz"])
    length = float(np.linalg.norm(q))
    if not abs(length - 1) < 1e-3:
        raise ValueError(f"a rotation's quaternion has length {length:.4f}, not 1")
    w, x, y, z = q / length
    result = np.eye(4)
    result[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    result[:3, 3] = [float(pose["translation"][axis]) for axis in "xyz"]
    if not np.isfinite(result[:3, 3]).all():
        raise ValueError("a translation is not finite")
    return result


def invert(motion: Matrix) -> Matrix:
    """Inverse of a rigid motion (4, 4): R^T and -R^T t."""
    result = np.eye(4)
    result[:3, :3] = motion[:3, :3].T
    result[:3, 3] = -motion[:3, :3].T @ motion[:3, 3]
    return result


def read_point_cloud(path: Path) -> NDArray[np.float64]:
    """Read a scan: (N, 3) x, y, z in metres, in the scan's own frame.

    Raises:
        FadepthError: the file is absent, damaged or holds something else.
    """
    try:
        with np.load(path, allow_pickle=False) as content:
            points = content["data"]
    except FileNotFoundError:
        raise FadepthError(f"lidar scan {path} does not exist: {_REMEDY}") from None
    except DAMAGED_SCAN:
        raise FadepthError(f"lidar scan {path} is damaged: {_REMEDY}") from None
    numeric = np.issubdtype(points.dtype, np.number)
    if not numeric or points.ndim != 2 or points.shape[1] < 3 or not len(points):
        raise FadepthError(
            f"lidar scan {path} holds an array of shape {points.shape}, expected (points, 4): "
            f"{_REMEDY}"
        )
    points = points[:, :3].astype(np.float64)
    if bad := int((~np.isfinite(points)).any(1).sum()):
        raise FadepthError(
            f"lidar scan {path}: {bad} of {len(points)} points are not finite: {_REMEDY}"
        )
    return points


def project_lidar(
    points: NDArray[np.float64],
    T_lidar_to_camera: Matrix,
    intrinsics: Intrinsics,
    height: int,
    width: int,
    *,
    collision: Literal["last", "nearest"] = "nearest",
) -> NDArray[np.float32]:
    """Project a scan into an image: (height, width) float32 depth in metres, 0 = none.

    The value is the camera's z. Positions are cut to whole pixels towards zero, which gives the
    same pixels as DGP's `generate_depth_map` (https://github.com/TRI-ML/dgp `dgp/utils/camera.py`),
    from which published numbers are computed. Less than 1 % of the pixels have several points.

    Args:
        points: (N, 3) in metres as from `read_point_cloud`.
        T_lidar_to_camera: (4, 4) or (3, 4).
        intrinsics: (fx, fy, cx, cy) in pixels at height x width.
        height, width: size of the image.
        collision: of several points in a pixel, which one counts: `last`, the last of the scan, as
            in DGP; `nearest`, since it hides the others [derived].
    """
    fx, fy, cx, cy = intrinsics
    x, y, z = T_lidar_to_camera[:3, :3] @ points.T + T_lidar_to_camera[:3, 3:]
    front = z > 0
    x, y, z = x[front], y[front], z[front]
    with np.errstate(over="ignore"):
        column = np.trunc(fx * x / z + cx)
        row = np.trunc(fy * y / z + cy)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    pixels = row[inside].astype(np.int64) * width + column[inside].astype(np.int64)
    depth = np.zeros(height * width)
    if collision == "last":
        depth[pixels] = z[inside]
    else:
        depth[pixels] = np.inf
        np.minimum.at(depth, pixels, z[inside])
    return depth.reshape(height, width).astype(np.float32)


def _read_json(path: Path, what: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise FadepthError(f"{what} {path} does not exist: {_REMEDY}") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise FadepthError(f"{what} {path} is not readable JSON: {_REMEDY}") from None
    except OSError as error:
        raise FadepthError(f"{what} {path} cannot be read ({error.strerror}): {_REMEDY}") from None
    if not isinstance(content, dict):
        raise FadepthError(f"{what} {path} holds no JSON object: {_REMEDY}")
    return content
