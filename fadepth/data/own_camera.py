"""The camera of own videos: its file, and what a crop and a resize make of it and of depth."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from fadepth.config import Settings, load_yaml
from fadepth.data.kitti import Intrinsics, scale_intrinsics
from fadepth.errors import FadepthError
from fadepth.files import json_object


class CameraFile(Settings):
    """A pinhole camera in a YAML or JSON file; pixel centres are integers, as OpenCV has them."""

    fx: float = Field(gt=0, allow_inf_nan=False, description="focal length, pixels")
    fy: float = Field(gt=0, allow_inf_nan=False)
    cx: float = Field(
        allow_inf_nan=False,
        description="principal point, pixels; the top left pixel's centre is (0, 0)",
    )
    cy: float = Field(allow_inf_nan=False)
    width: int | None = Field(None, ge=1, description="size that the camera was calibrated at")
    height: int | None = Field(None, ge=1)
    distortion: tuple[float, ...] = Field((), description="must be all 0: undistort first")

    @property
    def intrinsics(self) -> Intrinsics:
        """(fx, fy, cx, cy), pixels."""
        return self.fx, self.fy, self.cx, self.cy


def read_camera_file(path: Path) -> CameraFile:
    """Read a camera.

    Raises:
        FadepthError: absent, not YAML or JSON, a key is missing, unknown or no number, or the
            lens is said to be distorted.
    """
    try:
        # YAML does not allow the tabs that JSON may have.
        content = json_object(path) if path.suffix == ".json" else {}
        content = content or load_yaml(path)
        camera = CameraFile.model_validate(content)
    except ValidationError as error:
        problem = error.errors()[0]
        keys = ", ".join(
            str(p["loc"][0]) for p in error.errors() if p["type"] == problem["type"] and p["loc"]
        )
        said = {"missing": f"lacks {keys}", "extra_forbidden": f"has the unknown key {keys}"}
        raise FadepthError(
            f"camera file {path} {said.get(problem['type'], f'has a wrong value for {keys}')}: "
            "expected numbers for fx, fy, cx and cy in pixels, and, if you like, width and height "
            "in pixels"
        ) from None
    if any(camera.distortion):
        raise FadepthError(
            f"camera file {path} has a distortion, but a pinhole camera is expected: undistort the "
            "images first (OpenCV's cv2.undistort), give the new intrinsics, and take 'distortion' "
            "out"
        )
    return camera


def check_camera(camera: CameraFile, path: Path, size: tuple[int, int], source: Path) -> None:
    """Whether a camera can be that of images of `size` (h, w).

    Raises:
        FadepthError: it was calibrated at another size, is not in pixels, or its principal point
            lies outside of the image.
    """
    height, width = size
    said = camera.height or height, camera.width or width
    if said != size:
        raise FadepthError(
            f"camera file {path} is for images of {said[1]} x {said[0]} pixels but those of "
            f"{source} have {width} x {height}: give the intrinsics at that size"
        )
    if camera.fx < width / 10 or camera.fy < height / 10:
        raise FadepthError(
            f"camera file {path} has fx {camera.fx:g} and fy {camera.fy:g} for images of "
            f"{width} x {height} pixels: expected pixels, so multiply normalised values by width "
            "and height"
        )
    if not (0 <= camera.cx <= width - 1 and 0 <= camera.cy <= height - 1):
        raise FadepthError(
            f"camera file {path} has its principal point at ({camera.cx:g}, {camera.cy:g}), which "
            f"lies outside of the images of {source} ({width} x {height} pixels): give the "
            "intrinsics at that size"
        )


def frame_intrinsics(
    intrinsics: Intrinsics, native: tuple[int, int], crop: tuple[int, int], size: tuple[int, int]
) -> Intrinsics:
    """(fx, fy, cx, cy) after rows are cut off and the rest is resized.

    Rows cut off at the top move the principal point up by as many pixels; the resize is that of
    `kitti.scale_intrinsics`, with integer pixel centres.

    Args:
        intrinsics: pixels of the video.
        native: (h, w) of the video.
        crop: rows cut off at the top and at the bottom.
        size: (H, W) of the frames.
    """
    fx, fy, cx, cy = intrinsics
    left = native[0] - sum(crop), native[1]
    matrix = scale_intrinsics((fx, fy, cx, cy - crop[0]), left, size)
    return (float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 2]), float(matrix[1, 2]))


def resample_depth(
    depth: NDArray[np.integer], crop: tuple[int, int], size: tuple[int, int]
) -> NDArray[np.uint16]:
    """Sparse depth (h, w), 0 = none, as (H, W) of the frames: each value moves to its new pixel.

    Nothing is interpolated, which would invent depth between points; of several values in a pixel
    the nearest counts.
    """
    kept = depth[crop[0] : depth.shape[0] - crop[1]]
    row, column = np.nonzero(kept)
    # The pixel whose area holds the old one's centre.
    row_new = ((row + 0.5) * (size[0] / kept.shape[0])).astype(np.intp)
    column_new = ((column + 0.5) * (size[1] / kept.shape[1])).astype(np.intp)
    result = np.full(size, np.iinfo(np.uint16).max, dtype=np.uint16)
    np.minimum.at(result, (row_new, column_new), kept[row, column].astype(np.uint16))
    taken = np.zeros(size, dtype=bool)
    taken[row_new, column_new] = True
    return np.where(taken, result, 0).astype(np.uint16)
