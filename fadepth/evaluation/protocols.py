"""Protocols: which ground truth, which of its pixels, which scaling; read from YAML, not coded.

One file of `fadepth/protocols/` is one protocol, with the source of each line. A file of one's own
is named by its path.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from fadepth.config import Settings, Source, load_yaml
from fadepth.data import cityscapes, make3d
from fadepth.data.ddad import project_lidar, read_point_cloud
from fadepth.data.kitti import (
    CAMERAS,
    DepthValue,
    depth_png_path,
    read_depth_png,
    velodyne_depth,
    velodyne_path,
)
from fadepth.data.manifest import Frame
from fadepth.errors import FadepthError

Map = NDArray[np.float32]

FOLDER = Path(__file__).resolve().parent.parent / "protocols"

GroundTruth = Literal[
    "velodyne_forward_x",
    "velodyne_camera_z",
    "depth_png",
    "ddad_lidar",
    "ddad_lidar_nearest",
    "make3d_grid",
    "cityscapes_disparity",
]
Metric = Literal[
    "abs_rel", "sq_rel", "rmse", "rmse_log", "delta_1", "delta_2", "delta_3", "log10", "rmse_log10"
]


#: Which data sets have which ground truth.
_HOLDERS: dict[GroundTruth, set[Source]] = {
    "velodyne_forward_x": {"kitti"},
    "velodyne_camera_z": {"kitti"},
    "depth_png": {"kitti", "video", "synthetic"},
    "ddad_lidar": {"ddad"},
    "ddad_lidar_nearest": {"ddad"},
    "make3d_grid": {"make3d"},
    "cityscapes_disparity": {"cityscapes"},
}


class Box(Settings):
    """A part of an image: rows and columns from the first, up to and without the second."""

    unit: Literal["pixel", "fraction"] = Field(
        description="fraction: of height and width, truncated to whole pixels"
    )
    rows: tuple[float, float] | None = Field(None, description="null: all")
    columns: tuple[float, float] | None = Field(None, description="null: all")

    @model_validator(mode="after")
    def _not_empty(self) -> "Box":
        for part in (self.rows, self.columns):
            if part and not 0 <= part[0] < part[1]:
                raise ValueError("rows and columns must be [first, end] with 0 <= first < end")
            if part and self.unit == "fraction" and part[1] > 1:
                raise ValueError("rows and columns must lie within [0, 1] with unit: fraction")
        return self

    def slices(self, height: int, width: int) -> tuple[slice, slice]:
        """Rows and columns of an image of that size."""
        return self._slice(self.rows, height), self._slice(self.columns, width)

    def _slice(self, part: tuple[float, float] | None, size: int) -> slice:
        if part is None:
            return slice(0, size)
        factor = size if self.unit == "fraction" else 1
        return slice(int(part[0] * factor), min(size, int(part[1] * factor)))


class Resize(Settings):
    """How a prediction gets the size of the ground truth."""

    quantity: Literal["disparity", "depth"] = Field(
        description="what is resized; the other order gives other depths at edges"
    )
    mode: Literal["bilinear", "nearest"] = Field(description="which neighbours count")
    corners: Literal["half_pixel", "aligned"] = Field(
        "half_pixel",
        description="half_pixel: as cv2.resize; aligned: the outer pixels' centres stay in place",
    )


class Protocol(Settings):
    """How predicted depth is compared with ground truth."""

    name: str = Field(description="that of the file, NAME.yaml; need not be written")
    title: str = Field(description="what tables call it")
    data: tuple[Source, ...] = Field(description="data sets that have this ground truth")
    images: int | None = Field(None, description="images of the published list")
    ground_truth: GroundTruth = Field(
        description="velodyne_*: KITTI's scan, with which distance (`kitti.project_velodyne`); "
        "depth_png: uint16 / 256 m; ddad_*: DDAD's scan, which point counts "
        "(`ddad.project_lidar`); make3d_grid: `make3d.read_depth`; cityscapes_disparity: "
        "`cityscapes.read_depth`"
    )
    image_crop: Box | None = Field(None, description="part of the image that the network sees")
    ground_truth_crop: Box | None = Field(
        None, description="part of the ground truth that shows the same as image_crop"
    )
    crop: Box | None = Field(None, description="part of that in which pixels count")
    min_depth: float = Field(ge=0, description="ground truth counts above this, metres")
    max_depth: float | None = Field(description="... and below this, metres; null: no cap")
    clamp: tuple[float, float] = Field(
        description="range that predictions are forced into after scaling, metres"
    )
    scaling: Literal["median", "lower_median", "none"] | float = Field(
        description="median: each prediction is multiplied by median(gt) / median(prediction) over "
        "the pixels that count, as monocular training leaves scale open; lower_median: with the "
        "lower of the two middle values, as torch.median; a number: multiplied by it"
    )
    resize: Resize
    post_process: bool = Field(
        False, description="mean of the prediction and that of the mirrored image, mirrored back"
    )
    metrics: tuple[Metric, ...] = Field(min_length=1, description="what is computed, in order")
    sources: tuple[str, ...] = Field(description="public code or paper that states the lines")

    @model_validator(mode="after")
    def _makes_sense(self) -> "Protocol":
        if self.clamp[0] >= self.clamp[1]:
            raise ValueError("clamp must be [smaller, larger]")
        if self.max_depth is not None and self.min_depth >= self.max_depth:
            raise ValueError("min_depth must be below max_depth")
        if isinstance(self.scaling, float) and self.scaling <= 0:
            raise ValueError("scaling must be above 0")
        wrong = set(self.data) - _HOLDERS[self.ground_truth]
        if wrong:
            raise ValueError(f"data must not name {sorted(wrong)[0]} with this ground_truth")
        return self

    def ratio(self, truth: NDArray[np.floating], prediction: NDArray[np.floating]) -> float:
        """The factor for a prediction, from the pixels (N,) that count."""
        if isinstance(self.scaling, float):
            return self.scaling
        if self.scaling == "none":
            return 1.0
        median = np.median if self.scaling == "median" else _lower_median
        return float(median(truth) / median(prediction))


def _lower_median(values: NDArray[np.floating]) -> np.floating:
    middle = (len(values) - 1) // 2
    result: np.floating = np.partition(values, middle)[middle]
    return result


def find_protocol(name: str) -> Protocol:
    """Return the protocol of `fadepth/protocols/NAME.yaml`, or of a file if `name` ends so.

    Raises:
        FadepthError: there is none (the known names are listed), or the file is not in order.
    """
    return _read(Path(name) if name.endswith((".yaml", ".yml")) else FOLDER / f"{name}.yaml")


def deciding_content(protocol: Protocol) -> dict[str, Any]:
    """What a protocol says that decides numbers, without title and sources."""
    return protocol.model_dump(mode="json", exclude={"title", "sources"})


def protocol_names() -> list[str]:
    """The protocols that come with fadepth."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def _read(path: Path) -> Protocol:
    if path.parent == FOLDER and not path.is_file():
        raise FadepthError(
            f"unknown protocol '{path.stem}': expected one of {', '.join(protocol_names())}, or a "
            "file of your own, NAME.yaml"
        )
    content = load_yaml(path)
    if "scaling" in content and content["scaling"] is None:
        content["scaling"] = "none"
    try:
        return Protocol.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        expected = problem["msg"].removeprefix("Value error, ")
        raise FadepthError(f"protocol {path}, key '{key}': {expected}; mend the file") from None


# Pixels


def valid_pixels(ground_truth: NDArray[np.floating], protocol: Protocol) -> NDArray[np.bool_]:
    """Return the (h, w) mask of pixels that count."""
    if protocol.crop is None:
        return in_range(ground_truth, protocol)
    height, width = ground_truth.shape
    mask = np.zeros((height, width), dtype=bool)
    inside = protocol.crop.slices(height, width)
    mask[inside] = in_range(ground_truth[inside], protocol)
    return mask


def in_range(ground_truth: NDArray[np.floating], protocol: Protocol) -> NDArray[np.bool_]:
    """Return the (h, w) mask of depths within the protocol's range, whatever its crop."""
    ceiling = np.inf if protocol.max_depth is None else protocol.max_depth
    mask: NDArray[np.bool_] = (ground_truth > protocol.min_depth) & (ground_truth < ceiling)
    return mask


class TruePixels(NamedTuple):
    """Those pixels of a ground truth that count.

    Attributes:
        size: height and width of the whole map.
        places: (N,) row · width + column, ascending.
        depth: (N,) metres.
    """

    size: tuple[int, int]
    places: NDArray[np.intp]
    depth: NDArray[np.floating]


def true_pixels(ground_truth: NDArray[np.floating], protocol: Protocol) -> TruePixels:
    """Return the pixels of an (h, w) map that count: of a lidar's map, one in thirty."""
    height, width = ground_truth.shape
    places = np.flatnonzero(valid_pixels(ground_truth, protocol))
    return TruePixels((height, width), places, ground_truth.ravel()[places])


# Ground truth


def ground_truth_file(frame: Frame, protocol: Protocol) -> str | None:
    """Return the file that holds the frame's ground truth, relative to the root; None if absent."""
    of_ddad = frame.lidar_to_camera is not None
    if protocol.ground_truth.startswith("ddad"):
        return frame.velodyne if of_ddad else None
    if protocol.ground_truth.startswith("velodyne"):
        return None if of_ddad else frame.velodyne
    if protocol.ground_truth == "depth_png":
        return frame.depth_png
    suffix = {"make3d_grid": ".mat", "cityscapes_disparity": ".png"}[protocol.ground_truth]
    return frame.depth_file if frame.depth_file and frame.depth_file.endswith(suffix) else None


def require_ground_truth(frame: Frame, root: Path, protocol: Protocol) -> Path:
    """Return the path of the frame's ground truth.

    Raises:
        FadepthError: the manifest has none of the protocol's kind.
    """
    path = ground_truth_file(frame, protocol)
    if path is not None:
        return root / path
    raise FadepthError(
        f"frame {frame} has no ground truth {_expected(frame, root, protocol)} for protocol "
        f"{protocol.name}: add the file and prepare the data again, or take the frame off the list"
    )


def _expected(frame: Frame, root: Path, protocol: Protocol) -> str:
    if protocol.ground_truth.startswith("ddad"):
        return "(a lidar scan of DDAD)"
    if protocol.ground_truth in ("make3d_grid", "cityscapes_disparity"):
        return f"(a file of {protocol.data[0]})"
    if frame.side not in CAMERAS:
        return "(a file of the KITTI raw layout)"
    lidar = protocol.ground_truth.startswith("velodyne")
    return str(velodyne_path(root, frame.id) if lidar else depth_png_path(root, frame.id))


def load_ground_truth(frame: Frame, root: Path, protocol: Protocol) -> Map:
    """Return (h, w) depth in metres at the ground truth's own size, cropped; 0 = none.

    Raises:
        FadepthError: the frame has no ground truth of the protocol's kind, or it is damaged.
    """
    path = require_ground_truth(frame, root, protocol)
    depth = _READERS[protocol.ground_truth](frame, root, path)
    if protocol.ground_truth_crop:
        depth = depth[protocol.ground_truth_crop.slices(*depth.shape)]
    return depth


def _velodyne(depth: DepthValue) -> Callable[[Frame, Path, Path], Map]:
    return lambda frame, root, path: velodyne_depth(root, frame.id, depth=depth)


def _ddad(collision: Literal["last", "nearest"]) -> Callable[[Frame, Path, Path], Map]:
    def read(frame: Frame, root: Path, path: Path) -> Map:
        assert frame.lidar_to_camera is not None, "ground_truth_file has looked"
        assert frame.intrinsics is not None, "DDAD's frames are calibrated"
        motion = np.reshape(frame.lidar_to_camera, (3, 4))
        size = frame.height, frame.width
        points = read_point_cloud(path)
        return project_lidar(points, motion, frame.intrinsics, *size, collision=collision)

    return read


def _cityscapes(frame: Frame, root: Path, path: Path) -> Map:
    assert frame.camera_file is not None, "Cityscapes' frames come with their camera"
    return cityscapes.read_depth(path, root / frame.camera_file)


_READERS: dict[GroundTruth, Callable[[Frame, Path, Path], Map]] = {
    "velodyne_forward_x": _velodyne("forward_x"),
    "velodyne_camera_z": _velodyne("camera_z"),
    "depth_png": lambda frame, root, path: read_depth_png(path),
    "ddad_lidar": _ddad("last"),
    "ddad_lidar_nearest": _ddad("nearest"),
    "make3d_grid": lambda frame, root, path: make3d.read_depth(path),
    "cityscapes_disparity": _cityscapes,
}
