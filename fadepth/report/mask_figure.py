"""A figure of the masks: what each of them leaves out, on frames of one data set.

The paper's Figure 4 shows "The mask on KITTI and DDAD dataset" [paper]; which mask, no source says.
Here are all those of `fadepth.losses.masks`, side by side. Depth and motion come from a trained run
where one is named; otherwise from ground truth, which the figure's title tells.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
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
from fadepth.files import atomic_path
from fadepth.geometry import disparity_to_depth, inverse_warp
from fadepth.losses.cbw import compare, directed_pairs
from fadepth.losses.masks import automask, ego_vehicle
from fadepth.losses.photometric import Views, identity_error
from fadepth.training import load_depth_network, load_pose_network, source_poses

Matrix = NDArray[np.float64]
Mask = NDArray[np.bool_]
Picture = NDArray[np.floating]
Size = tuple[int, int]
DataSet = Literal["street", "kitti", "ddad"]

#: Photometric errors from this value on share the brightest colour.
ERROR_CEILING = 0.5
#: A pixel farther than this from every lidar point has no depth, as a share of the width.
REACH = 1 / 50
#: A step of the camera below this, metres, is none.
STANDING = 0.05
SIZES: dict[DataSet, Size] = {"street": (192, 624), "kitti": (192, 640), "ddad": (384, 608)}
LEFT_OUT, BRIGHT = np.array([0.90, 0.10, 0.35]), np.array([1.0, 0.65, 0.70])
#: Pixels from one bright stripe to the next; a quarter of it is bright.
STRIPES = 12
UNKNOWN = 0.55
ROWS = (
    "input",
    "source, warped",
    f"photometric error\n(0 to {ERROR_CEILING})",
    "out of view",
    "static\n(auto-mask)",
    "weight W\n(0 dark: occluded,\nmoving; 1 bright)",
    "ego vehicle",
)


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


# Drawing


def marked(image: Picture, left_out: Mask) -> Picture:
    """The image in grey, with what a mask leaves out in red and bright stripes, for grey prints."""
    grey = np.repeat(image.mean(-1, keepdims=True), 3, -1)
    red = 0.25 * grey + 0.75 * LEFT_OUT
    rows, columns = np.indices(left_out.shape)
    stripe: Mask = np.asarray((rows + columns) % STRIPES < STRIPES // 4)
    return np.where(left_out[..., None], np.where(stripe[..., None], BRIGHT, red), grey)


def coloured(values: Picture, known: Mask, colormap: str) -> Picture:
    """Values in [0, 1] in colours, grey where unknown."""
    colours = matplotlib.colormaps[colormap](np.clip(values, 0, 1))[..., :3]
    return np.where(known[..., None], colours, UNKNOWN)


@torch.inference_mode()
def pictures(frame: MaskFrame) -> list[tuple[Picture, str]]:
    """The frame's panels in the order of `ROWS`, (H, W, 3) in [0, 1], each with a remark."""
    views, known = frame.views, frame.known
    found = compare(directed_pairs(views), frame.depths, 0.85)
    warped, _ = inverse_warp(views.sources[0], frame.depths[:1], views.intrinsics, views.poses[0])
    moving = automask(found.error[:1], identity_error(views, 0.85))[0, 0].numpy()
    visible, weight, error = (
        values[0, 0].numpy() for values in (found.visible, found.weight, found.error)
    )
    image, synthesised = (x[0].permute(1, 2, 0).numpy() for x in (views.target, warped))
    seen = known & visible

    def share(left_out: Mask, of: Mask) -> str:
        return f"{left_out[of].mean():.0%}"

    # Where the camera stands, the right warp changes nothing: chance decides.
    ties = ", by chance: no motion" if views.poses[0][0, :3, 3].norm() < STANDING else ""
    ego = np.zeros_like(known) if isinstance(frame.ego, str) else frame.ego
    nowhere = "none found" if not ego.any() else share(ego, np.ones_like(known))
    return [
        (image, ""),
        (np.where(seen[..., None], synthesised, UNKNOWN), ""),
        (coloured(error / ERROR_CEILING, seen, "inferno"), f"mean {error[seen].mean():.2f}"),
        (greyed(marked(image, ~visible), known), share(~visible, known)),
        (greyed(marked(image, ~moving), known), share(~moving, known) + ties),
        (coloured(weight, seen, "viridis"), f"mean {weight[seen].mean():.2f}"),
        (marked(image, ego), frame.ego if isinstance(frame.ego, str) else nowhere),
    ]


def greyed(picture: Picture, known: Mask) -> Picture:
    """The picture, flat grey where depth is unknown."""
    return np.where(known[..., None], picture, UNKNOWN)


def draw_masks(name: DataSet, output: Path, data: Path, model: Path | None = None) -> None:
    """Write the figure (.png): one column for each frame, one row for each mask.

    Args:
        name: the data set.
        output: file to write.
        data: folder that holds `kitti_mini/` and `ddad_mini/`.
        model: a trained run's `model.pt`; None: ground truth.

    Raises:
        FadepthError: data or model are absent or damaged.
    """
    source = load_source(name, data, size_of_run(model) if model else SIZES[name])
    if model:
        source = predicted(source, model)
    columns = len(source.frames)
    height, width = source.frames[0].known.shape
    cell = 9.3 / columns
    inches = 10.5, 1.15 + len(ROWS) * (cell * height / width + 0.05)
    figure = Figure(figsize=inches, dpi=160)
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02))
    figure.suptitle(f"Masks: {source.title}\n{source.provenance}", fontsize=11)
    grid = figure.subplots(len(ROWS), columns, squeeze=False)
    for column, frame in enumerate(source.frames):
        for row, (picture, remark) in enumerate(pictures(frame)):
            draw_cell(grid[row, column], picture, remark)
        grid[0, column].set_title(frame.label, fontsize=10)
    for row, label in enumerate(ROWS):
        grid[row, 0].set_ylabel(label, fontsize=10, rotation=0, ha="right", va="center")
    figure.supxlabel(
        "Striped red: left out, with its share of the pixels with depth (ego vehicle: of all).",
        fontsize=10,
    )
    with atomic_path(output) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def draw_cell(axes: Axes, picture: Picture, remark: str) -> None:
    """One picture with a remark in its corner."""
    axes.imshow(picture.clip(0, 1), interpolation="bilinear")
    axes.set(xticks=[], yticks=[])
    if remark:
        box = {"facecolor": "black", "alpha": 0.65, "pad": 1.5, "linewidth": 0}
        axes.text(0.01, 0.03, remark, transform=axes.transAxes, fontsize=9, color="white", bbox=box)
