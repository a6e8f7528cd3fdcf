"""Evaluation over a list of frames: metrics per image, then their mean."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fadepth.data.kitti import read_image, resize_image
from fadepth.data.manifest import Frame
from fadepth.errors import FadepthError
from fadepth.evaluation.metrics import METRICS, scaled_metrics
from fadepth.evaluation.protocols import (
    Protocol,
    find_protocol,
    load_ground_truth,
    require_ground_truth,
)

#: Maps a frame to its scaled disparity (h, w) > 0, i.e. the inverse of depth up to a factor.
Predict = Callable[[Frame], NDArray[np.floating]]


def network_input(frame: Frame, root: Path, size: tuple[int, int]) -> Tensor:
    """A frame as a network sees it, (1, 3, H, W) in [0, 1]."""
    pixels = resize_image(read_image(root / frame.image), *size)
    return torch.from_numpy(pixels)[None].float() / 255


def resize_disparity(
    disparity: NDArray[np.floating], height: int, width: int
) -> NDArray[np.float64]:
    """Resize (h, w) bilinearly with half-pixel centres, as `cv2.resize` does by default.

    Neither this nor cv2's INTER_LINEAR filters before it shrinks: each output pixel is read at
    its centre, from four input pixels. Sizes above the ground truth's are therefore aliased, not
    averaged, in the same way as in published evaluations.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(disparity, dtype=np.float64))
    resized = functional.interpolate(
        tensor[None, None], (height, width), mode="bilinear", align_corners=False
    )
    result: NDArray[np.float64] = resized[0, 0].numpy()
    return result


def evaluate(
    frames: Sequence[Frame], root: Path, predict: Predict, protocol: Protocol | str
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Evaluate predictions of many frames (monodepth2 `evaluate_depth.py`).

    The disparity is resized to the ground truth's size and then inverted; the other order gives
    other numbers at depth edges.

    Args:
        frames: frames to evaluate, in order.
        root: folder that their paths start from.
        predict: gives the *scaled* disparity (h, w), 1 / depth up to a factor, not the network's
            sigmoid (`fadepth.geometry`).
        protocol: a protocol or its name.

    Returns:
        A table with one row per frame — `drive`, `frame`, `side`, the seven metrics of
        `depth_metrics`, `scale_ratio` (median(gt) / median(prediction)) — and the mean of each
        metric over the frames.

    Raises:
        FadepthError: names the frame that lacks ground truth or has an unusable prediction.
    """
    if isinstance(protocol, str):
        protocol = find_protocol(protocol)
    if not frames:
        raise FadepthError("there is no frame to evaluate: check the split list")
    for frame in frames:
        # Told before the first prediction: the last of 697 frames may be the one without.
        require_ground_truth(frame, root, protocol)
    rows = []
    for frame in frames:
        gt = load_ground_truth(frame, root, protocol)
        disparity = resize_disparity(predict(frame), *gt.shape)
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = 1.0 / disparity
        try:
            metrics, ratio = scaled_metrics(gt, depth, protocol)
        except FadepthError as error:
            raise FadepthError(f"frame {frame}: {error}") from None
        rows.append(
            {
                "drive": frame.drive,
                "frame": frame.frame,
                "side": frame.side,
                **metrics,
                "scale_ratio": ratio,
            }
        )
    table = pd.DataFrame(rows)
    return table, {name: float(table[name].mean()) for name in METRICS}
