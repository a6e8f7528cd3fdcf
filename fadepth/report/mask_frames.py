"""Frames to draw masks on: images, depth and motion of each data set, or as a run predicts them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from fadepth.data import synthetic
from fadepth.data.ddad import DdadFrame, DdadScene, T_target_to_source, read_point_cloud
from fadepth.data.kitti import (
    FrameId,
    calibration_values,
    image_path,
    read_camera,
    read_image,
    read_velodyne,
    read_velodyne_to_image,
    resize_image,
    scale_intrinsics,
    velodyne_path,
)
from fadepth.errors import FadepthError
from fadepth.geometry import disparity_to_depth
from fadepth.losses.masks import ego_vehicle
from fadepth.losses.photometric import Views
from fadepth.training import load_depth_network, load_pose_network, source_poses

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]
Size = tuple[int, int]  # (H, W)
DataSet = Literal["street", "kitti", "ddad"]

#: A pixel farther than this from every lidar point has no depth, as a share of the width.
REACH = 1 / 50
#: A step of the camera below this, metres, is none.
STANDING = 0.05


@dataclass(frozen=True)
class MaskFrame:
    """One column of the figure.

    Attributes:
        label: what the frame is.
        views: target and one source, B = 1.
        depths: (2, 1, H, W) of target and source, metres, positive everywhere.
        known: (H, W), where the target's depth is more than a guess.
        ego: (H, W) estimate, or a sentence why there is none.
    """

    label: str
    views: Views
    depths: Tensor
    known: Mask
    ego: Mask | str


@dataclass(frozen=True)
class Source:
    """Frames of one data set, and where their depth and motion are from."""

    title: str
    provenance: str
    frames: Sequence[MaskFrame]


def estimated_ego(images: Sequence[NDArray[np.uint8]]) -> Mask | str:
    """`ego_vehicle` of images (3, H, W); the reason where it cannot be told."""
    try:
        return ego_vehicle(np.stack(images).transpose(0, 2, 3, 1) / 255.0)
    except FadepthError:
        return f"cannot be told from {len(images)} frames"


def to_views(
    target: NDArray[np.uint8], source: NDArray[np.uint8], k: Matrix, motion: Matrix
) -> Views:
    """Views of two images (3, H, W)."""
    images = [torch.from_numpy(image)[None].float() / 255 for image in (target, source)]
    k_, motion_ = (torch.from_numpy(matrix)[None].float() for matrix in (k, motion))
    return Views(images[0], [images[1]], k_, [motion_])


# Lidar


def rasterise(points: Matrix, k: Matrix, size: Size) -> tuple[Matrix, Mask]:
    """Dense depth of a scan: the nearest point in every pixel, spread to pixels without one.

    Args:
        points: (N, 3) in the camera's frame, metres.
        k: (3, 3) intrinsics at `size`, integer pixel centres.
        size: (H, W).

    Returns:
        depth (H, W), that of the nearest pixel with a point; and where that is near enough.
    """
    height, width = size
    points = points[points[:, 2] > 0.5]
    u, v, _ = np.rint(k @ (points / points[:, 2:]).T).astype(int)
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    depth = np.full(size, np.inf)
    np.minimum.at(depth, (v[inside], u[inside]), points[inside, 2])
    distance, nearest = ndimage.distance_transform_edt(np.isinf(depth), return_indices=True)
    return depth[tuple(nearest)], np.asarray(distance <= REACH * width)


def moved(points: Matrix, motion: Matrix) -> Matrix:
    """Points (N, 3) in another frame."""
    return points @ motion[:3, :3].T + motion[:3, 3]


def stacked(*depths: Matrix) -> Tensor:
    """Depth maps (H, W) as (N, 1, H, W)."""
    return torch.from_numpy(np.stack(depths))[:, None].float()


# The three sources of frames


def street_frames(size: Size) -> Source:
    """Rendered frames with true depth and motion; 30 frames of five streets for the car."""
    scenes = {drive: synthetic.make_scene(0, drive, 34) for drive in (1, 2, 3, 4, 6)}
    ego = estimated_ego(
        [
            synthetic.render_frame(scene, number, 96, 312)[0].transpose(2, 0, 1)
            for scene in scenes.values()
            for number in range(0, 34, 6)
        ]
    )
    if not isinstance(ego, str):
        ego = ndimage.zoom(ego, np.divide(size, ego.shape), order=0)
    frames = []
    for drive, number in ((4, 1), (6, 1), (3, 12)):
        scene = scenes[drive]
        (target, depth, _), (source, behind, _) = (
            synthetic.render_frame(scene, n, *size) for n in (number, number + 1)
        )
        to_world = [np.vstack([scene.poses[n], [0, 0, 0, 1]]) for n in (number, number + 1)]
        motion = np.linalg.inv(to_world[1]) @ to_world[0]
        k = synthetic.intrinsics(*size)
        views = to_views(target.transpose(2, 0, 1), source.transpose(2, 0, 1), k, motion)
        depths = stacked(*(np.minimum(d, 100.0) for d in (depth, behind)))
        frames.append(
            MaskFrame(f"street {drive}, frame {number}", views, depths, depth <= 100, ego)
        )
    return Source(
        "Synthetic street, rendered",
        "depth and motion: ground truth. Grey: sky.",
        frames,
    )


def oxts_pose(path: Path, latitude: float) -> Matrix:
    """(4, 4) from the GPS/IMU's frame to the world, metres (KITTI devkit, convertOxtsToPose).

    Args:
        path: the frame's line of measurements.
        latitude: degrees, where the Mercator projection is true to scale.
    """
    try:
        lat, lon, altitude, roll, pitch, yaw = np.loadtxt(path)[:6]
    except (OSError, ValueError):
        raise FadepthError(f"{path} is absent or no line of GPS/IMU values: restore it") from None
    scale = 6378137 * np.cos(np.radians(latitude))
    pose = np.eye(4)
    pose[:3, 3] = (
        scale * np.radians(lon),
        scale * np.log(np.tan(np.radians(90 + lat) / 2)),
        altitude,
    )
    for angle, (i, j) in ((yaw, (0, 1)), (pitch, (2, 0)), (roll, (1, 2))):
        turn = np.eye(4)
        turn[i, i] = turn[j, j] = np.cos(angle)
        turn[j, i], turn[i, j] = np.sin(angle), -np.sin(angle)
        pose = pose @ turn
    return pose


def kitti_motion(root: Path, frame: FrameId, offset: int, camera_from_lidar: Matrix) -> Matrix:
    """(4, 4) from the frame's camera to that of `offset` frames later, by GPS and IMU."""
    path = root / frame.date / "calib_imu_to_velo.txt"
    lidar_from_imu = np.eye(4)
    lidar_from_imu[:3, :3] = calibration_values(path, "R", 9).reshape(3, 3)
    lidar_from_imu[:3, 3] = calibration_values(path, "T", 3)
    camera_from_imu = camera_from_lidar @ lidar_from_imu
    folder = root / frame.drive / "oxts" / "data"
    here, there = (folder / f"{frame.number + step:010d}.txt" for step in (0, offset))
    latitude = 49.0  # Karlsruhe; over a metre, a degree more or less changes nothing
    world = [oxts_pose(at, latitude) for at in (here, there)]
    imu = np.linalg.inv(world[1]) @ world[0]
    return np.asarray(camera_from_imu @ imu @ np.linalg.inv(camera_from_imu))


def kitti_frame(root: Path, frame: FrameId, size: Size, ego: Mask | str) -> MaskFrame:
    """One frame with its lidar scan, and the next frame, whose depth is the same scan, moved."""
    camera = read_camera(root, frame)
    fx, fy, cx, cy = camera.intrinsics
    native = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
    to_camera = np.eye(4)
    to_camera[:3] = np.linalg.inv(native) @ read_velodyne_to_image(root, frame)
    motion = kitti_motion(root, frame, 1, to_camera)
    scan = read_velodyne(velodyne_path(root, frame))[:, :3].astype(float)
    k = scale_intrinsics(camera.intrinsics, (camera.height, camera.width), size)
    points = moved(scan, to_camera)
    depth, known = rasterise(points, k, size)
    behind, _ = rasterise(moved(points, motion), k, size)
    images = [kitti_image(root, frame, offset, size) for offset in (0, 1)]
    label = f"{frame.drive.split('/')[1][:21]}, frame {frame.number}"
    views = to_views(images[0], images[1], k, motion)
    return MaskFrame(label, views, stacked(depth, behind), known, ego)


def kitti_image(root: Path, frame: FrameId, offset: int, size: Size) -> NDArray[np.uint8]:
    """The image (3, H, W) of `offset` frames later."""
    path = image_path(root, frame, offset)
    if path is None:
        raise FadepthError(
            f"{root} has no image of drive {frame.drive}, frame {frame.number + offset}: set "
            "FADEPTH_TEST_DATA to the folder that holds kitti_mini"
        )
    return resize_image(read_image(path), *size)


def kitti_frames(root: Path, size: Size) -> Source:
    """Frames of kitti_mini; the ego vehicle from all its images of one day and camera."""
    day = "2011_09_26"
    paths = sorted((root / day).glob("*_sync/image_02/data/*"))[::3]
    if not paths:
        raise FadepthError(
            f"{root / day} holds no images: set FADEPTH_TEST_DATA to the folder that holds "
            "kitti_mini"
        )
    ego = estimated_ego([resize_image(read_image(path), *size) for path in paths])
    drives = (("0005", 88), ("0009", 16), ("0009", 32))
    names = [FrameId(f"{day}/{day}_drive_{drive}_sync", number, "l") for drive, number in drives]
    return Source(
        "KITTI raw (kitti_mini)",
        "depth: one lidar scan, nearest point; motion: GPS/IMU; the next frame's depth: the same "
        f"scan, moved.\nGrey: no lidar point near. Ego vehicle from {len(paths)} frames.",
        [kitti_frame(root, name, size, ego) for name in names],
    )


def ddad_points(frame: DdadFrame) -> Matrix:
    """The sample's scan (N, 3) in the camera's frame."""
    motion = frame.T_lidar_to_camera
    if frame.lidar is None or motion is None:
        raise FadepthError(f"sample {frame.number} of DDAD scene {frame.scene} has no lidar scan")
    return moved(read_point_cloud(frame.lidar), motion)


def ddad_frame(scene: DdadScene, camera: str, size: Size) -> MaskFrame:
    """The middle of three frames, with the next one; each has its own scan."""
    frames = scene.frames(camera)
    target, source = frames[1], frames[2]
    k = scale_intrinsics(target.intrinsics, (target.height, target.width), size)
    (depth, known), (behind, _) = (rasterise(ddad_points(f), k, size) for f in (target, source))
    images = [resize_image(read_image(frame.image), *size) for frame in frames]
    views = to_views(images[1], images[2], k, T_target_to_source(target, source))
    step = float(views.poses[0][0, :3, 3].norm())
    label = f"{scene.folder.name}, {target.camera},\n" + (
        f"{step:.1f} m per frame" if step > STANDING else "car standing"
    )
    return MaskFrame(label, views, stacked(depth, behind), known, estimated_ego(images))


def ddad_frames(root: Path, size: Size) -> Source:
    """Frames of ddad_mini: ahead, aside and behind while driving; ahead while standing."""
    cameras = (
        ("scene_02", "CAMERA_01"),
        ("scene_02", "CAMERA_05"),
        ("scene_02", "CAMERA_09"),
        ("scene_01", "CAMERA_01"),
    )
    frames = []
    for name, camera in cameras:
        path = next(iter(sorted((root / name).glob("scene_*.json"))), None)
        if path is None:
            raise FadepthError(
                f"{root / name} has no scene file: set FADEPTH_TEST_DATA to the folder that holds "
                "ddad_mini"
            )
        frames.append(ddad_frame(DdadScene(path), camera, size))
    return Source(
        "DDAD (ddad_mini, samples of TRI's dgp)",
        "depth: the lidar scan of either frame, nearest point; motion: the data set's poses.\n"
        "Grey: no lidar point near.",
        frames,
    )


def load_source(name: DataSet, data: Path, size: Size) -> Source:
    """Frames of a data set with their ground truth.

    Args:
        name: which.
        data: folder that holds `kitti_mini/` and `ddad_mini/`.
        size: (H, W) of the images.
    """
    if name == "street":
        return street_frames(size)
    if name == "kitti":
        return kitti_frames(data / "kitti_mini" / "kitti", size)
    return ddad_frames(data / "ddad_mini", size)


# A trained run in place of the ground truth


def size_of_run(model: Path) -> Size:
    """(H, W) of the images that a run was trained with."""
    _, config = load_depth_network(model)
    return config.data.height, config.data.width


@torch.inference_mode()
def predicted(source: Source, model: Path) -> Source:
    """The same frames with depth and motion of a trained run's `model.pt`."""
    depth, config = load_depth_network(model)
    pose, _ = load_pose_network(model)

    def of_run(frame: MaskFrame) -> MaskFrame:
        views = frame.views
        images = torch.cat([views.target, *views.sources])
        batch = {"target_input": views.target, "source_inputs": views.sources[0][:, None]}
        motion = source_poses(pose, batch, (1,), config.pose)
        return replace(
            frame,
            views=replace(views, poses=motion, cache={}),
            depths=disparity_to_depth(depth(images)),
            known=np.ones_like(frame.known),
        )

    told = f"depth and motion: run {model.parent.name} (scale {config.scale}, {config.data.name})."
    return replace(source, provenance=told, frames=[of_run(frame) for frame in source.frames])
