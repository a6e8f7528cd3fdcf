"""Robustness: the same frames mirrored, dark, bright and small, against the same ground truth.

The pyramid loss is meant to "improve the robustness of SmallDepth to the left-right direction and
illumination changes" [paper, abstract]. How the paper measures that is not known to us; the
conditions and the measure `change` are [derived]. The factors of light lie outside the range of
the training's jitter (0.8 to 1.2, gamma 0.8 to 1.2), so that a network cannot have seen them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fadepth.data.manifest import Frame
from fadepth.data.parallel import in_order
from fadepth.errors import FadepthError
from fadepth.evaluation.evaluate import PredictImage, depth_at_pixels, network_input, resize_map
from fadepth.evaluation.metrics import pixel_metrics
from fadepth.evaluation.protocols import Protocol, TruePixels, load_ground_truth, true_pixels

DARK, BRIGHT = 0.5, 1.5


def _same(image: Tensor) -> Tensor:
    return image


def _mirror(image: Tensor) -> Tensor:
    return image.flip(-1)


def _half(image: Tensor) -> Tensor:
    size = [max(32, side // 2) for side in image.shape[-2:]]
    return F.interpolate(image, size, mode="area")


@dataclass(frozen=True)
class Condition:
    """An alteration of the input (1, 3, H, W), and what brings the prediction back to the frame."""

    alter: Callable[[Tensor], Tensor]
    undo: Callable[[Tensor], Tensor] = _same


#: `clean` comes first: the others are compared with it.
CONDITIONS: Mapping[str, Condition] = MappingProxyType(
    {
        "clean": Condition(_same),
        "flipped": Condition(_mirror, _mirror),
        "dark": Condition(lambda image: image * DARK),
        "bright": Condition(lambda image: (image * BRIGHT).clamp(max=1)),
        "half": Condition(_half),
    }
)


def altered_predictions(predict: PredictImage, image: Tensor) -> dict[str, NDArray[np.float64]]:
    """Inverse depth (h, w) of a frame under every condition, each in the frame's own geometry.

    Images of one size go through the network together.
    """
    altered = {name: condition.alter(image) for name, condition in CONDITIONS.items()}
    found = {}
    for size in {images.shape for images in altered.values()}:
        names = [name for name, images in altered.items() if images.shape == size]
        maps = predict(torch.cat([altered[name] for name in names])).double().cpu()
        for name, one in zip(names, maps.split(1), strict=True):
            found[name] = CONDITIONS[name].undo(one)[0, 0].numpy()
    return {name: found[name] for name in CONDITIONS}


def log_difference(
    a: NDArray[np.floating], b: NDArray[np.floating], *, aligned: bool = False
) -> float:
    """Mean |a - b| of logarithms (h, w) of two maps; `aligned` takes the median difference out."""
    difference = a - b
    if aligned:
        difference = difference - np.median(difference)
    return float(np.abs(difference).mean())


def evaluate_robustness(
    frames: Sequence[Frame],
    root: Path,
    predict: PredictImage,
    size: tuple[int, int],
    protocol: Protocol,
    teacher: PredictImage | None = None,
    *,
    workers: int = 0,
) -> pd.DataFrame:
    """Metrics of every frame under every condition.

    Args:
        frames: frames to evaluate, in order.
        root: folder that their paths start from.
        predict: the network, from images (B, 3, h, w) to inverse depth (B, 1, h, w).
        size: (H, W) of its input.
        protocol: how depth is compared with ground truth.
        teacher: another network, of the same input size.
        workers: threads that read ahead; 0: none. No effect on results.

    Returns:
        One row per frame and condition: `drive`, `frame`, `side`, `condition`, the seven metrics,
        `change` (mean |log q - log q_clean|, zero where the alteration changes nothing) and, with
        a teacher, `teacher_distance` (mean |log q - log q_T - median|, q_T for the clean image).

    Raises:
        FadepthError: names the frame that lacks ground truth or has an unusable prediction.
    """
    read = partial(_read, root=root, size=size, protocol=protocol)
    samples = in_order(frames, read, workers) if workers else map(read, frames)
    rows = []
    for frame, (truth, image) in zip(frames, samples, strict=True):
        maps = altered_predictions(predict, image)
        maps = {name: q if q.shape == size else resize_map(q, *size) for name, q in maps.items()}
        with np.errstate(divide="ignore", invalid="ignore"):  # `pixel_metrics` refuses those
            logs = {name: np.log(q) for name, q in maps.items()}
        target = np.log(teacher(image)[0, 0].double().cpu().numpy()) if teacher else None
        for name, q in maps.items():
            try:
                depth = depth_at_pixels(q, truth, protocol)
                metrics, _ = pixel_metrics(truth.depth, depth, protocol)
            except FadepthError as error:
                raise FadepthError(f"frame {frame}, {name}: {error}") from None
            row = {"drive": frame.drive, "frame": frame.frame, "side": frame.side}
            row |= {
                "condition": name,
                **metrics,
                "change": log_difference(logs[name], logs["clean"]),
            }
            if target is not None:
                row["teacher_distance"] = log_difference(logs[name], target, aligned=True)
            rows.append(row)
    return pd.DataFrame(rows)


def _read(
    frame: Frame, root: Path, size: tuple[int, int], protocol: Protocol
) -> tuple[TruePixels, Tensor]:
    truth = true_pixels(load_ground_truth(frame, root, protocol), protocol)
    return truth, network_input(frame, root, size, protocol.image_crop)


def summary(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Mean of every measure over the frames, by condition, in the order of `CONDITIONS`."""
    measures = [key for key in table.columns if key not in ("drive", "frame", "side", "condition")]
    result = {}
    for name in CONDITIONS:
        rows = table[table["condition"] == name]
        result[name] = {key: float(rows[key].mean()) for key in measures}
    return result
