"""A figure of the masks: what each of them leaves out, on frames of one data set.

The paper's Figure 4 shows "The mask on KITTI and DDAD dataset" [paper]; which mask, no source says.
Here are all those of `fadepth.losses.masks`, side by side. Depth and motion come from a trained run
where one is named; otherwise from ground truth, which the figure's title tells.
"""

from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from fadepth.files import atomic_path
from fadepth.geometry import inverse_warp
from fadepth.losses.cbw import compare, directed_pairs
from fadepth.losses.masks import automask
from fadepth.losses.photometric import identity_error
from fadepth.report.mask_frames import (
    STANDING,
    DataSet,
    Mask,
    MaskFrame,
    Size,
    load_source,
    predicted,
    size_of_run,
)

Picture = NDArray[np.floating]

#: Photometric errors from this value on share the brightest colour.
ERROR_CEILING = 0.5
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
