"""A figure of the ground truth on its images: do lidar points lie on what they have hit?

Drawn are the depth maps that predictions are compared with, pixel by pixel, over the image, and
parts of it enlarged, since a fault of calibration or time shows at the edges of poles and cars
alone. All is [derived].
"""

import itertools
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import PathCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from fadepth.data import synthetic
from fadepth.data.ddad import DdadFrame, DdadScene
from fadepth.data.kitti import (
    FrameId,
    depth_png_path,
    image_path,
    read_depth_png,
    read_image,
    velodyne_depth,
)
from fadepth.errors import FadepthError
from fadepth.files import atomic_path

DataSet = Literal["street", "kitti", "ddad"]
Depth = NDArray[np.float32]
Picture = NDArray[np.uint8]

WIDTH = 10.5  # inches
DPI = 160
COLOURS = "turbo_r"
#: Differences of two ground truths from this on share the strongest colour, metres.
DIFFERENCE = 0.6
#: Limits of the ranges in which two ground truths are compared, metres.
RANGES = (5, 10, 20, 40, 80)
OCCLUSION = (
    "The scanner stands elsewhere than the camera and sees past near things: at their edges, far "
    "points show through them."
)
SCENE_01 = (
    "In scene_01, CAMERA_06, points on the right car (B) lie some 40 pixels above it, while those "
    "on the left one (A) look right; why is not known. scene_02, read by the same code, fits."
)


class Box(NamedTuple):
    """A part of an image, pixels."""

    left: int
    top: int
    width: int
    height: int


@dataclass(frozen=True)
class LidarFrame:
    """One frame of the figure.

    Attributes:
        label: what the frame is.
        image: (H, W, 3).
        depth: (H, W) metres, 0 where there is no point.
        crops: two parts to enlarge.
    """

    label: str
    image: Picture
    depth: Depth
    crops: tuple[Box, Box]


@dataclass(frozen=True)
class Comparison:
    """One KITTI frame with three ground truths, (H, W) metres, 0 = none."""

    label: str
    image: Picture
    forward_x: Depth
    camera_z: Depth
    improved: Depth


class Shared(NamedTuple):
    """Pixels that two ground truths share, within a range of depth."""

    pixels: int
    difference: float  # median of raw - improved, metres
    relative: float  # median of |raw - improved| / improved


# Frames


KITTI_DAY = "2011_09_26"
#: Drive and frame, with parts where something near stands before something far.
KITTI_FRAMES = (
    ("0005", 88, (Box(865, 160, 210, 140), Box(230, 150, 210, 140))),
    ("0009", 16, (Box(880, 150, 210, 140), Box(0, 215, 210, 140))),
    ("0013", 10, (Box(770, 180, 210, 140), Box(180, 110, 210, 140))),
)
COMPARED = ("0001", 5)
DDAD_FRAMES = (
    ("scene_01", "CAMERA_01", (Box(1200, 560, 270, 180), Box(1500, 500, 270, 180))),
    ("scene_01", "CAMERA_06", (Box(420, 510, 270, 180), Box(1190, 480, 270, 180))),
    ("scene_02", "CAMERA_01", (Box(140, 520, 270, 180), Box(1510, 520, 270, 180))),
    ("scene_02", "CAMERA_05", (Box(850, 500, 270, 180), Box(1510, 500, 270, 180))),
    ("scene_02", "CAMERA_09", (Box(570, 590, 270, 180), Box(820, 570, 270, 180))),
)
STREET_FRAMES = (
    (4, 1, (Box(800, 170, 210, 140), Box(200, 140, 210, 140))),
    (6, 1, (Box(840, 150, 210, 140), Box(60, 150, 210, 140))),
)
STREET_SIZE = (375, 1242)


def kitti_id(drive: str, number: int) -> FrameId:
    """Frame of KITTI's first day, left camera."""
    return FrameId(f"{KITTI_DAY}/{KITTI_DAY}_drive_{drive}_sync", number, "l")


def kitti_picture(root: Path, frame: FrameId) -> Picture:
    """The frame's image (H, W, 3)."""
    path = image_path(root, frame)
    if path is None:
        raise FadepthError(
            f"{root} has no image of drive {frame.drive}, frame {frame.number}: set "
            "FADEPTH_TEST_DATA to the folder that holds kitti_mini"
        )
    return np.asarray(read_image(path))


def kitti_frames(root: Path) -> list[LidarFrame]:
    """Frames of kitti_mini with the ground truth that Eigen numbers are computed with."""
    result = []
    for drive, number, crops in KITTI_FRAMES:
        frame = kitti_id(drive, number)
        image = kitti_picture(root, frame)
        result.append(
            LidarFrame(f"drive {drive}, frame {number}", image, velodyne_depth(root, frame), crops)
        )
    return result


def kitti_comparison(root: Path) -> Comparison:
    """The frame of kitti_mini that has its own scan and the improved ground truth."""
    frame = kitti_id(*COMPARED)
    return Comparison(
        f"drive {COMPARED[0]}, frame {COMPARED[1]}",
        kitti_picture(root, frame),
        velodyne_depth(root, frame),
        velodyne_depth(root, frame, depth="camera_z"),
        read_depth_png(depth_png_path(root, frame)),
    )


def ddad_frame(root: Path, scene: str, camera: str) -> DdadFrame:
    """The second sample of a scene of ddad_mini."""
    path = next(iter(sorted((root / scene).glob("scene_*.json"))), None)
    if path is None:
        raise FadepthError(
            f"{root / scene} has no scene file: set FADEPTH_TEST_DATA to the folder that holds "
            "ddad_mini"
        )
    return DdadScene(path).frames(camera)[1]


def ddad_frames(root: Path) -> list[LidarFrame]:
    """Both scenes of ddad_mini, some cameras."""
    result = []
    for scene, camera, crops in DDAD_FRAMES:
        frame = ddad_frame(root, scene, camera)
        image = np.asarray(read_image(frame.image))
        result.append(LidarFrame(f"{scene}, {camera}", image, frame.lidar_depth(), crops))
    return result


def street_frames() -> list[LidarFrame]:
    """Rendered frames with their true depth, at the pixels that a scanner would hit."""
    pattern = scanned(synthetic.intrinsics(*STREET_SIZE), STREET_SIZE)
    result = []
    for drive, number, crops in STREET_FRAMES:
        scene = synthetic.make_scene(0, drive, number + 1)
        image, depth, _ = synthetic.render_frame(scene, number, *STREET_SIZE)
        seen = np.where(pattern & (depth < 100), depth, 0).astype(np.float32)
        result.append(LidarFrame(f"street {drive}, frame {number}", image, seen, crops))
    return result


def scanned(k: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels (H, W) hit by a scanner at the camera's place, with KITTI's 64 beams.

    64 beams over 26.8 degrees (http://www.cvlibs.net/datasets/kitti/setup.php), from 2 degrees
    above the horizon downwards, a shot every 0.17 degrees [derived].

    Args:
        k: (3, 3) intrinsics at `size`, integer pixel centres.
        size: (H, W).
    """
    height, width = size
    azimuth, elevation = np.radians(
        np.meshgrid(np.arange(-45, 45, 0.17), np.linspace(2, -24.8, 64))
    )
    u = np.rint(k[0, 0] * np.tan(azimuth) + k[0, 2]).astype(int)
    v = np.rint(-k[1, 1] * np.tan(elevation) / np.cos(azimuth) + k[1, 2]).astype(int)
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    hit = np.zeros(size, dtype=bool)
    hit[v[inside], u[inside]] = True
    return hit


# Two ground truths of one frame


def shared_pixels(raw: Depth, improved: Depth, low: float = 0, high: float = np.inf) -> Shared:
    """Compare two ground truths (H, W) where both have a value, the improved one in [low, high)."""
    both = (raw > 0) & (improved > 0) & (improved >= low) & (improved < high)
    if not both.any():
        return Shared(0, np.nan, np.nan)
    difference = raw[both].astype(float) - improved[both]
    relative = np.abs(difference) / improved[both]
    return Shared(int(both.sum()), float(np.median(difference)), float(np.median(relative)))


# Drawing


def draw_lidar(name: DataSet, output: Path, data: Path) -> None:
    """Write the figure (.png): frames with points, and parts of them enlarged.

    Args:
        name: the data set.
        output: file to write.
        data: folder that holds `kitti_mini/` and `ddad_mini/`.

    Raises:
        FadepthError: data are absent or damaged.
    """
    if name == "kitti":
        root = data / "kitti_mini" / "kitti"
        figure = figure_of(
            "KITTI raw (kitti_mini): each frame's own scan, forward x",
            f"The pixels that predictions are compared with. {OCCLUSION}",
            kitti_frames(root),
            LogNorm(4, 80),
            kitti_comparison(root),
        )
    elif name == "ddad":
        figure = figure_of(
            "DDAD (ddad_mini, samples of TRI's dgp): the sample's scan, brought to the camera's\n"
            "moment through the poses of the data set",
            f"The pixels that predictions are compared with, camera z. {OCCLUSION} {SCENE_01}",
            ddad_frames(data / "ddad_mini"),
            LogNorm(4, 100),
        )
    else:
        figure = figure_of(
            "Synthetic street: true depth, at the pixels of a scanner with 64 beams",
            "Scanner and camera are at one place here: no point shows through.",
            street_frames(),
            LogNorm(4, 80),
        )
    with atomic_path(output) as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})


def figure_of(
    title: str,
    caption: str,
    frames: Sequence[LidarFrame],
    norm: LogNorm,
    comparison: Comparison | None = None,
) -> Figure:
    """Frames below each other, colours of depth by `norm`, at the end the comparison."""
    heights = [0.55, *(frame_height(frame) for frame in frames)]
    if comparison:
        height, width = comparison.camera_z.shape
        heights.append(3 * WIDTH / 2 * height / width + 1.1)
    figure = Figure(figsize=(WIDTH, sum(heights) + 1.1), dpi=DPI)
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03))
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(textwrap.fill(caption, 130), fontsize=9)
    scale, *parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    draw_scale(scale, norm)
    for part, frame in zip(parts, frames, strict=False):
        draw_frame(part, frame, norm)
    if comparison:
        draw_comparison(parts[-1], comparison, norm)
    return figure


def is_wide(frame: LidarFrame) -> bool:
    """Whether the enlarged parts go below the frame, not beside it."""
    height, width = frame.depth.shape
    return width > 2 * height


def frame_height(frame: LidarFrame) -> float:
    """Of the frame in the figure, inches."""
    height, width = frame.depth.shape
    crop = WIDTH / 4 * frame.crops[0].height / frame.crops[0].width
    if not is_wide(frame):
        return max(WIDTH / 2 * height / width, 2 * crop) + 0.55
    return WIDTH * height / width + crop + 0.5


def draw_scale(figure: SubFigure, norm: LogNorm) -> None:
    """The colours of depth, for all frames."""
    colours = ScalarMappable(norm, COLOURS)
    bar = figure.colorbar(
        colours, cax=figure.subplots(), orientation="horizontal", extend="both",
    )  # fmt: skip
    ticks = [metres for metres in (5, 10, 20, 40, 80) if metres <= (norm.vmax or 0)]
    bar.set_ticks(ticks, labels=[f"{metres} m" for metres in ticks])
    bar.minorticks_off()
    bar.ax.tick_params(labelsize=8)


def draw_frame(figure: SubFigure, frame: LidarFrame, norm: LogNorm) -> None:
    """The frame with its points, and its two parts as they are and with points."""
    wide = is_wide(frame)
    if wide:
        height, width = frame.depth.shape
        crop = frame.crops[0]
        ratios = [height / width, crop.height / crop.width / 4]
        grid = figure.add_gridspec(2, 4, height_ratios=ratios)
        whole = figure.add_subplot(grid[0, :])
        places = [grid[1, column] for column in range(4)]
    else:
        grid = figure.add_gridspec(2, 4)
        whole = figure.add_subplot(grid[:, :2])
        places = [grid[row, column] for row in (0, 1) for column in (2, 3)]
    draw_points(whole, frame.image, frame.depth, norm, 1.6)
    whole.set_title(f"{frame.label}: {count(frame.depth)}", fontsize=9)
    for number, (name, crop) in enumerate(zip("AB", frame.crops, strict=True)):
        plain, marked = (figure.add_subplot(place) for place in places[2 * number :][:2])
        image, depth = cut(frame.image, crop), cut(frame.depth, crop)
        plain.imshow(image, interpolation="bilinear")
        bare(plain)
        draw_points(marked, image, depth, norm, 4)
        plain.set_title(name, fontsize=9)
        marked.set_title(f"{name}: {count(depth)}", fontsize=9)
        outline = Rectangle((crop.left, crop.top), crop.width, crop.height, fill=False, color="w")
        whole.add_patch(outline)
        whole.text(crop.left + 4, crop.top + 4, name, color="w", va="top", weight="bold")


def count(depth: Depth) -> str:
    """How many pixels have depth, in words."""
    return f"{np.count_nonzero(depth):,} points"


def cut(values: NDArray[Any], box: Box) -> NDArray[Any]:
    """The part of an image or map."""
    return values[box.top : box.top + box.height, box.left : box.left + box.width]


def draw_points(
    axes: Axes, image: Picture, values: Depth, norm: Normalize, size: float, colours: str = COLOURS
) -> PathCollection:
    """A grey image with a dot on every pixel whose value is not 0, small values on top."""
    axes.imshow(image.mean(2), cmap="gray", vmin=0, vmax=255, interpolation="bilinear")
    bare(axes)
    rows, columns = np.nonzero(values)
    shown = values[rows, columns]
    order = np.argsort(-np.abs(shown))
    return axes.scatter(
        columns[order], rows[order], c=shown[order], s=size, cmap=colours, norm=norm, linewidths=0
    )


def bare(axes: Axes) -> None:
    """No ticks, and the limits of the image, whatever is drawn on it."""
    axes.set(xticks=[], yticks=[])
    axes.autoscale(enable=False)


# The comparison


def draw_comparison(figure: SubFigure, found: Comparison, norm: LogNorm) -> None:
    """Three ground truths of a frame, left; how the first two differ from the third, right."""
    grid = figure.subplots(3, 2)
    raw = (("forward x", found.forward_x), ("camera z", found.camera_z))
    for row, (name, depth) in enumerate(raw):
        draw_points(grid[row, 0], found.image, depth, norm, 0.6)
        grid[row, 0].set_title(f"own scan, {name}: {count(depth)}", fontsize=9)
        both = (depth > 0) & (found.improved > 0)
        difference = np.where(both, depth - found.improved, 0)
        signed = Normalize(-DIFFERENCE, DIFFERENCE)
        points = draw_points(grid[row, 1], found.image, difference, signed, 1.5, "coolwarm")
        shared = shared_pixels(depth, found.improved)
        grid[row, 1].set_title(
            f"{name} - improved at {shared.pixels:,} shared pixels: median "
            f"{shared.difference:+.2f} m, {shared.relative:.1%}",
            fontsize=9,
        )
    draw_points(grid[2, 0], found.image, found.improved, norm, 0.6)
    grid[2, 0].set_title(f"improved: {count(found.improved)}", fontsize=9)
    draw_ranges(grid[2, 1], raw, found.improved)
    figure.suptitle(f"Three ground truths of {found.label}", fontsize=10)
    bar = figure.colorbar(points, ax=list(grid[:2, 1]), pad=0.01, aspect=25, extend="both")
    bar.set_label("difference, metres", fontsize=8)
    bar.ax.tick_params(labelsize=8)


def draw_ranges(axes: Axes, raw: Sequence[tuple[str, Depth]], improved: Depth) -> None:
    """Median relative difference in each range of depth."""
    ranges = list(itertools.pairwise(RANGES))
    for shift, (name, depth) in zip((-0.2, 0.2), raw, strict=True):
        shares = [shared_pixels(depth, improved, *limits).relative for limits in ranges]
        axes.bar(np.arange(len(ranges)) + shift, np.multiply(shares, 100), 0.4, label=name)
    axes.set_xticks(range(len(ranges)), [f"{low} to {high} m" for low, high in ranges], fontsize=8)
    axes.set_ylabel("|raw - improved|\n/ improved,\nmedian, %", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8)
