"""Predictions that do not look at the image: what a network has to beat.

Each is one disparity map for all frames, fitted on the training frames' ground truth — supervision
that the self-supervised networks do not have — and evaluated like a network.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fadepth.data.manifest import FITTED_FRAMES, Frame, evenly_spread
from fadepth.errors import FadepthError
from fadepth.evaluation.protocols import (
    Protocol,
    find_protocol,
    ground_truth_file,
    in_range,
    load_ground_truth,
)

BaselineKind = Literal["constant", "row_median", "pixel_median"]

#: Fewer depths than this in a cell are too few for a median of its own [derived].
MIN_SAMPLES = 8


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline; calling it with a frame gives its disparity, as `evaluate` expects.

    Attributes:
        kind: which.
        disparity: (H, W) float64, 1 / metres (`constant`: 1).
        frames_used: training frames whose ground truth went into it.
        frames_available: training frames that have ground truth of the protocol's kind.
    """

    kind: BaselineKind
    disparity: NDArray[np.float64]
    frames_used: int
    frames_available: int

    def __call__(self, frame: Frame) -> NDArray[np.float64]:
        return self.disparity


def fit_baseline(
    kind: BaselineKind,
    frames: Sequence[Frame],
    root: Path,
    protocol: Protocol | str,
    height: int,
    width: int,
    *,
    max_frames: int = FITTED_FRAMES,
) -> Baseline:
    """Fit a baseline [derived].

    `constant` is the same depth everywhere. `row_median` is the median depth of each row over all
    frames; rows without data (sky, bonnet) take the nearest row's. `pixel_median` is the median of
    each pixel, or of its row where fewer than `MIN_SAMPLES` depths fall into the pixel. Depths
    count within the protocol's range; its crop is left out, as it only concerns evaluation.

    Args:
        kind: which baseline.
        frames: training frames; those without ground truth are passed over.
        root: folder that their paths start from.
        protocol: says which ground truth.
        height, width: size of the map.
        max_frames: at most so many frames are used, spread evenly, to bound memory.

    Raises:
        FadepthError: no frame has ground truth, or it holds no depth within the range.
    """
    if isinstance(protocol, str):
        protocol = find_protocol(protocol)
    known = [frame for frame in frames if ground_truth_file(frame, protocol) is not None]
    if kind == "constant":
        return Baseline(kind, np.ones((height, width)), 0, len(known))
    if kind not in ("row_median", "pixel_median"):
        raise FadepthError(
            f"unknown baseline '{kind}': expected constant, row_median or pixel_median"
        )
    if not known:
        raise FadepthError(
            f"none of {len(frames)} training frames has ground truth for protocol {protocol.name}: "
            f"baseline {kind} cannot be fitted, add ground truth or use baseline constant"
        )
    # Chosen from the list and not from what is there: a copy of the data that holds the ground
    # truth of these frames alone gives the same fit (`fadepth.data.convert`).
    chosen = evenly_spread(frames, max_frames)
    used = [frame for frame in chosen if ground_truth_file(frame, protocol) is not None]
    used = used or evenly_spread(known, max_frames)
    cells, depths = _pool(used, root, protocol, height, width)
    if not len(depths):
        raise FadepthError(
            f"the ground truth of {len(used)} training frames holds no depth in the range of "
            f"protocol {protocol.name}: check the files"
        )
    rows, _ = _medians(cells // width, depths, height)
    depth = np.repeat(_fill_rows(rows)[:, None], width, axis=1)
    if kind == "pixel_median":
        pixels, counts = _medians(cells, depths, height * width)
        enough = (counts >= MIN_SAMPLES).reshape(height, width)
        depth = np.where(enough, pixels.reshape(height, width), depth)
    return Baseline(kind, 1.0 / depth, len(used), len(known))


def _pool(
    frames: Sequence[Frame], root: Path, protocol: Protocol, height: int, width: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return all depths within range, and the cell (row · width + column) that each falls into."""
    cells, depths = [], []
    for frame in frames:
        gt = load_ground_truth(frame, root, protocol)
        row, column = np.nonzero(in_range(gt, protocol))
        # Pixel centres at native size, put into the cell of the small image that covers them.
        small_row = ((row + 0.5) * (height / gt.shape[0])).astype(np.int64)
        small_column = ((column + 0.5) * (width / gt.shape[1])).astype(np.int64)
        cells.append(small_row * width + small_column)
        depths.append(gt[row, column])
    return np.concatenate(cells), np.concatenate(depths)


def _medians(
    groups: NDArray[np.int64], values: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the median and the number of values > 0 of each of `count` groups; NaN where empty."""
    # Bits of positive floats sort as the floats do. One sort of integers, a group's number before
    # the bits of a value, takes a sixteenth of the time of `lexsort` by both.
    keys = np.sort(groups.astype(np.int64) << 32 | values.astype(np.float32).view(np.uint32))
    ordered = (keys & 0xFFFFFFFF).astype(np.uint32).view(np.float32).astype(np.float64)
    sizes = np.bincount(groups, minlength=count)
    starts = np.cumsum(sizes) - sizes
    filled = sizes > 0
    low, high = (starts + (sizes - 1) // 2)[filled], (starts + sizes // 2)[filled]
    medians = np.full(count, np.nan)
    medians[filled] = (ordered[low] + ordered[high]) / 2
    return medians, sizes


def _fill_rows(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Replace NaN by the value of the nearest row that has one; of two, the upper one."""
    known = np.flatnonzero(~np.isnan(rows))
    distance = np.abs(np.arange(len(rows))[:, None] - known[None])
    nearest: NDArray[np.float64] = rows[known[distance.argmin(1)]]
    return nearest
