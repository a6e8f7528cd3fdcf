"""Files in the KITTI raw layout: split lists, calibration, images, lidar scans, depth maps.

The layout is that of http://www.cvlibs.net/datasets/kitti/raw_data.php; the synthetic street is
written in the same one. Frames are named as split lists name them: drive, number, side.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fadepth.errors import FadepthError

DepthValue = Literal["forward_x", "camera_z"]
Intrinsics = tuple[float, float, float, float]

#: Camera number of each side in a split list (the left and right colour camera).
CAMERAS = {"l": 2, "r": 3}
IMAGE_SUFFIXES = (".png", ".jpg")

#: What Pillow raises on damaged files, depending on the format and the place of the damage; the
#: last one where a damaged head claims an enormous size.
DAMAGED_IMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    Image.DecompressionBombError,
)


class FrameId(NamedTuple):
    """One line of a split list."""

    drive: str  # `2011_09_26/2011_09_26_drive_0005_sync`
    number: int
    side: str  # `l` or `r`

    @property
    def date(self) -> str:
        """Recording day, the folder of the calibration files."""
        return self.drive.split("/")[0]


def read_split(path: Path) -> list[FrameId]:
    """Read a split list, lines `<date>/<drive> <frame> l|r`; the frame may be zero-padded or not.

    Raises:
        FadepthError: the file is absent or empty, or names the file and number of a bad line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        raise FadepthError(
            f"split list {path} does not exist: restore it ('fadepth data fetch-splits' fetches "
            "the published ones) or name another; 'data.splits' must name the folder that holds "
            "train_files.txt, val_files.txt and test_files.txt"
        ) from None
    except UnicodeDecodeError:
        raise FadepthError(f"split list {path} is not a text file: restore it") from None
    except OSError as error:
        raise FadepthError(
            f"split list {path} cannot be read ({error.strerror}): restore it"
        ) from None
    frames = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        fields = line.split()
        if (
            len(fields) != 3
            or fields[0].strip("/").count("/") != 1
            or not (fields[1].isascii() and fields[1].isdigit())
            or fields[2] not in CAMERAS
        ):
            raise FadepthError(
                f"{path}, line {number}: found '{line.strip()[:80]}', expected "
                "'<date>/<drive> <frame number> l|r'; correct or remove the line"
            )
        frames.append(FrameId(fields[0].strip("/"), int(fields[1]), fields[2]))
    if not frames:
        raise FadepthError(f"split list {path} names no frame: restore it")
    return frames


def image_path(root: Path, frame: FrameId, offset: int = 0) -> Path | None:
    """Return the PNG or JPEG of the frame `offset` frames later in the drive, None if absent."""
    if frame.number + offset < 0:
        return None
    folder = root / frame.drive / f"image_0{CAMERAS[frame.side]}" / "data"
    for suffix in IMAGE_SUFFIXES:
        path = folder / f"{frame.number + offset:010d}{suffix}"
        if path.is_file():
            return path
    return None


def velodyne_path(root: Path, frame: FrameId) -> Path:
    """Return where the frame's lidar scan lies; most frames outside the raw data have none."""
    return root / frame.drive / "velodyne_points" / "data" / f"{frame.number:010d}.bin"


def depth_png_path(root: Path, frame: FrameId) -> Path:
    """Return where the frame's depth PNG lies (KITTI depth's improved ground truth)."""
    folder = root / frame.drive / "proj_depth" / "groundtruth" / f"image_0{CAMERAS[frame.side]}"
    return folder / f"{frame.number:010d}.png"


# Calibration


@dataclass(frozen=True)
class Camera:
    """One rectified camera: size in pixels and native intrinsics (fx, fy, cx, cy) in pixels."""

    height: int
    width: int
    intrinsics: Intrinsics


def calibration_values(path: Path, key: str, count: int) -> NDArray[np.float64]:
    """Return the `count` numbers that follow `key:` in a KITTI calibration file.

    Raises:
        FadepthError: the file or key is absent, or the values are not `count` numbers.
    """
    remedy = "unpack that day's calibration archive (<date>_calib.zip) of the KITTI raw data again"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        raise FadepthError(f"calibration file {path} does not exist: {remedy}") from None
    except UnicodeDecodeError:
        raise FadepthError(f"calibration file {path} is not a text file: {remedy}") from None
    except OSError as error:
        raise FadepthError(
            f"calibration file {path} cannot be read ({error.strerror}): {remedy}"
        ) from None
    for line in lines:
        name, _, rest = line.partition(":")
        if name.strip() != key:
            continue
        try:
            values = np.array([float(word) for word in rest.split()])
        except ValueError:
            values = np.array([])
        if len(values) != count or not np.isfinite(values).all():
            raise FadepthError(
                f"calibration file {path} does not give {count} numbers for '{key}': {remedy}"
            )
        return values
    raise FadepthError(f"calibration file {path} has no key '{key}': {remedy}")


def read_camera(root: Path, frame: FrameId) -> Camera:
    """Read size and intrinsics of the frame's camera from `calib_cam_to_cam.txt` of its day.

    The intrinsics are those of `P_rect` and are taken as belonging to integer pixel centres
    (the centre of the top left pixel is (0, 0)) [derived]: KITTI does not say which it means.
    """
    path = root / frame.date / "calib_cam_to_cam.txt"
    camera = CAMERAS[frame.side]
    width, height = calibration_values(path, f"S_rect_0{camera}", 2)
    p = calibration_values(path, f"P_rect_0{camera}", 12).reshape(3, 4)
    intrinsics = (float(p[0, 0]), float(p[1, 1]), float(p[0, 2]), float(p[1, 2]))
    return Camera(int(height), int(width), intrinsics)


def read_velodyne_to_image(root: Path, frame: FrameId) -> NDArray[np.float64]:
    """Return the (3, 4) matrix from homogeneous lidar coordinates (metres) to the image (pixels).

    P_rect · R_rect_00 · [R|T], multiplied in this order (Geiger et al., IJRR 2013, eq. 8).
    """
    folder = root / frame.date
    cameras = folder / "calib_cam_to_cam.txt"
    lidar = folder / "calib_velo_to_cam.txt"
    projection = calibration_values(cameras, f"P_rect_0{CAMERAS[frame.side]}", 12).reshape(3, 4)
    rectify = np.eye(4)
    rectify[:3, :3] = calibration_values(cameras, "R_rect_00", 9).reshape(3, 3)
    to_camera = np.eye(4)
    to_camera[:3, :3] = calibration_values(lidar, "R", 9).reshape(3, 3)
    to_camera[:3, 3] = calibration_values(lidar, "T", 3)
    # The order of the products is kept: another one changes the last bits and with them, now and
    # then, the pixel that a point is rounded to.
    return (projection @ rectify) @ to_camera


def scale_intrinsics(
    intrinsics: Intrinsics, native: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.float64]:
    """Return the (3, 3) intrinsics in pixels after a resize from `native` to `size` (both h, w).

    With integer pixel centres, pixel x covers [x - 0.5, x + 0.5], so the image spans
    [-0.5, W - 0.5]. A resize stretches that span: x + 0.5 grows by s = size / native, hence
    fx' = s fx and cx' = s (cx + 0.5) - 0.5 [derived]. The plain cx' = s cx of most code would
    shift the picture against its camera by (1 - s) / 2 pixels. Pillow's resize and `interpolate`
    with `align_corners=False` follow the same rule.
    """
    fx, fy, cx, cy = intrinsics
    sy, sx = size[0] / native[0], size[1] / native[1]
    return np.array(
        [
            [fx * sx, 0.0, (cx + 0.5) * sx - 0.5],
            [0.0, fy * sy, (cy + 0.5) * sy - 0.5],
            [0.0, 0.0, 1.0],
        ]
    )


# Images


def read_image(path: Path) -> Image.Image:
    """Decode an image fully, as RGB.

    Raises:
        FadepthError: the file is absent or damaged.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except FileNotFoundError:
        raise FadepthError(f"image {path} does not exist: restore it") from None
    except DAMAGED_IMAGE:
        raise FadepthError(f"image {path} is damaged: restore it from the archive") from None


def image_size(path: Path) -> tuple[int, int]:
    """Height and width from an image's head, pixels.

    Raises:
        FadepthError: the file is absent or damaged.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except DAMAGED_IMAGE:
        raise FadepthError(f"image {path} is damaged: restore it from the archive") from None


def resize_image(image: Image.Image, height: int, width: int) -> NDArray[np.uint8]:
    """Resize with the Lanczos filter (monodepth2 `datasets/mono_dataset.py`): (3, H, W) uint8."""
    resized = image.resize((width, height), Image.Resampling.LANCZOS)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


# Lidar and depth maps


def read_velodyne(path: Path) -> NDArray[np.float32]:
    """Read a lidar scan: (N, 4) float32, x forward, y left, z up in metres, reflectance.

    Raises:
        FadepthError: the file is absent, empty, ends inside a point or has values that are not
            finite.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise FadepthError(f"lidar scan {path} does not exist: restore it") from None
    except OSError as error:
        raise FadepthError(
            f"lidar scan {path} cannot be read ({error.strerror}): restore it"
        ) from None
    if not content or len(content) % 16:
        raise FadepthError(
            f"lidar scan {path} has {len(content)} bytes, expected a positive multiple of 16 "
            "(four float32 per point): it is truncated, restore it from the archive"
        )
    points = np.frombuffer(content, dtype="<f4").reshape(-1, 4)
    if not np.isfinite(points).all():
        broken = int((~np.isfinite(points).all(axis=1)).sum())
        raise FadepthError(
            f"lidar scan {path} has values that are not finite in {broken} of {len(points)} points:"
            " restore it from the archive"
        )
    return points


def project_velodyne(
    points: NDArray[np.float32],
    velodyne_to_image: NDArray[np.float64],
    height: int,
    width: int,
    *,
    depth: DepthValue = "forward_x",
) -> NDArray[np.float32]:
    """Project a scan into an image: (height, width) float32 depth in metres, 0 = none.

    Bit-equal to the ground truth with which KITTI Eigen numbers are computed (monodepth2
    `export_gt_depth.py`, https://github.com/nianticlabs/monodepth2), which means keeping its
    oddities:

    - the value is the scan's forward x, not the camera's z (`depth="camera_z"` gives z);
    - positions are rounded and lowered by 1, an index convention of Matlab;
    - of several points in a pixel the nearest counts, but pixels are told apart by the key
      row·(width - 1) + column - 1, under which the last pixel of a row and the first of the next
      are the same; then only the pixel of the scan's first such point gets the nearest value, and
      the other one keeps the last point written to it.

    Args:
        points: (N, 4) as from `read_velodyne`.
        velodyne_to_image: (3, 4) as from `read_velodyne_to_image`.
        height, width: native size of the image.
        depth: which distance to store.
    """
    points = points.take(np.flatnonzero(points[:, 0] >= 0), axis=0)
    points[:, 3] = 1.0
    u, v, z = np.dot(velodyne_to_image, points.T)
    with np.errstate(divide="ignore", invalid="ignore"):
        column = np.round(u / z) - 1
        row = np.round(v / z) - 1
    value = points[:, 0].astype(np.float64) if depth == "forward_x" else z
    inside = np.flatnonzero((column >= 0) & (row >= 0) & (column < width) & (row < height))
    columns, rows = column[inside].astype(int), row[inside].astype(int)
    values = np.maximum(value[inside], 0)

    result = np.zeros((height, width), dtype=np.float32)
    result[rows, columns] = values
    if not len(values):
        return result
    # By key, and by the place in the scan among equal ones: one sort of integers, which is faster
    # than a stable one.
    keys = rows * (width - 1) + columns - 1
    keys, order = np.divmod(np.sort(keys * len(keys) + np.arange(len(keys))), len(keys))
    starts = np.flatnonzero(np.diff(keys, prepend=keys[0] - 1))
    first = order[starts]
    result[rows[first], columns[first]] = np.minimum.reduceat(values[order], starts)
    return result


def velodyne_depth(
    root: Path, frame: FrameId, *, depth: DepthValue = "forward_x"
) -> NDArray[np.float32]:
    """Return the frame's lidar depth map at native size; see `project_velodyne`.

    Raises:
        FadepthError: scan or calibration is absent or damaged.
    """
    camera = read_camera(root, frame)
    points = read_velodyne(velodyne_path(root, frame))
    matrix = read_velodyne_to_image(root, frame)
    return project_velodyne(points, matrix, camera.height, camera.width, depth=depth)


def read_depth_png(path: Path) -> NDArray[np.float32]:
    """Read a depth PNG: (h, w) float32 metres, 0 = none; uint16 / 256 (KITTI depth devkit).

    Raises:
        FadepthError: the file is absent, damaged or not a 16-bit grey PNG.
    """
    return (read_png16(path, "depth map", "restore it") / 256.0).astype(np.float32)


def read_png16(path: Path, what: str, remedy: str) -> NDArray[np.integer]:
    """Read a 16-bit grey PNG, (h, w); errors speak of `what`, and tell the `remedy`.

    Raises:
        FadepthError: the file is absent, damaged or not a 16-bit grey PNG.
    """
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except (FileNotFoundError, NotADirectoryError):
        raise FadepthError(f"{what} {path} does not exist: {remedy}") from None
    except DAMAGED_IMAGE:
        raise FadepthError(f"{what} {path} is damaged: {remedy}") from None
    if values.ndim != 2 or not np.issubdtype(values.dtype, np.integer) or values.dtype.itemsize < 2:
        raise FadepthError(f"{what} {path} is not a 16-bit grey PNG: {remedy}")
    return values
