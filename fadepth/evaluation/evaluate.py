"""Evaluation over a list of frames: metrics per image, then their mean."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fadepth.data.kitti import read_image, resize_image
from fadepth.data.manifest import Frame
from fadepth.data.parallel import Progress
from fadepth.errors import FadepthError
from fadepth.evaluation.metrics import scaled_metrics
from fadepth.evaluation.protocols import (
    Box,
    Protocol,
    Resize,
    find_protocol,
    ground_truth_file,
    load_ground_truth,
    require_ground_truth,
)

#: Maps an image (1, 3, H, W) in [0, 1] to inverse depth (1, 1, H, W) in 1/metres up to scale.
PredictImage = Callable[[Tensor], Tensor]

CV2_RESIZE = Resize(quantity="disparity", mode="bilinear", corners="half_pixel")

#: Maps a frame to its scaled disparity (h, w) > 0, i.e. the inverse of depth up to a factor.
Predict = Callable[[Frame], NDArray[np.floating]]


def network_input(
    frame: Frame, root: Path, size: tuple[int, int], crop: Box | None = None
) -> Tensor:
    """A frame, or the part of it in `crop`, as a network sees it, (1, 3, H, W) in [0, 1]."""
    return read_input(root / frame.image, size, crop)


def read_input(path: Path, size: tuple[int, int], crop: Box | None = None) -> Tensor:
    """An image file, or the part of it in `crop`, as a network sees it."""
    image = read_image(path)
    if crop:
        rows, columns = crop.slices(image.height, image.width)
        image = image.crop((columns.start, rows.start, columns.stop, rows.stop))
    pixels = resize_image(image, *size)
    return torch.from_numpy(pixels)[None].float() / 255


def predict_disparity(
    network: PredictImage, frame: Frame, root: Path, size: tuple[int, int], protocol: Protocol
) -> NDArray[np.float64]:
    """Scaled disparity (H, W) of a frame, as the protocol crops and post-processes.

    Args:
        network: gives inverse depth (1, 1, H, W) for an image (1, 3, H, W) in [0, 1].
        frame, root: the frame, and the folder that its path starts from.
        size: (H, W) that the network is fed with.
        protocol: says which part of the image, and whether its mirror image as well.
    """
    image = network_input(frame, root, size, protocol.image_crop)
    disparity = network(image)[0, 0].double().cpu().numpy()
    if not protocol.post_process:
        return disparity
    mirrored = network(image.flip(-1))[0, 0].double().cpu().numpy()
    return post_process(disparity, mirrored[:, ::-1])


def post_process(
    disparity: NDArray[np.floating], mirrored: NDArray[np.floating]
) -> NDArray[np.float64]:
    """Mean of two disparities (H, W), at either side that one which sees more there.

    monodepth's post-processing (`batch_post_process_disparity` in
    https://github.com/nianticlabs/monodepth2 `evaluate_depth.py`): the left 5 % are from
    `mirrored`, the right 5 % from `disparity`, with ramps of another 5 % towards the mean.

    Args:
        disparity: of the image.
        mirrored: of the mirrored image, mirrored back.
    """
    x = np.linspace(0, 1, disparity.shape[1])
    left = 1 - np.clip(20 * (x - 0.05), 0, 1)
    right = left[::-1]
    mean = (disparity + mirrored) / 2
    result: NDArray[np.float64] = right * disparity + left * mirrored + (1 - left - right) * mean
    return result


def resize_map(
    values: NDArray[np.floating],
    height: int,
    width: int,
    resize: Resize = CV2_RESIZE,
) -> NDArray[np.float64]:
    """Resize (h, w); by default bilinearly with half-pixel centres, as `cv2.resize`.

    Neither this nor cv2's INTER_LINEAR filters before it shrinks: each output pixel is read at
    its centre, from four input pixels. Sizes above the ground truth's are therefore aliased, not
    averaged, in the same way as in published evaluations. `nearest` is cv2's and torch's: output
    pixel i is input pixel floor(i · size / new size).
    """
    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float64))[None, None]
    if resize.mode == "nearest":
        resized = functional.interpolate(tensor, (height, width), mode="nearest")
    else:
        aligned = resize.corners == "aligned"
        resized = functional.interpolate(
            tensor, (height, width), mode="bilinear", align_corners=aligned
        )
    result: NDArray[np.float64] = resized[0, 0].numpy()
    return result


def depth_at(
    disparity: NDArray[np.floating], size: tuple[int, ...], protocol: Protocol
) -> NDArray[np.float64]:
    """Depth of `size` (height, width) up to scale from scaled disparity (h, w).

    Disparities of 0 and below give depths that `depth_metrics` refuses.
    """
    height, width = size
    with np.errstate(divide="ignore", invalid="ignore"):
        if protocol.resize.quantity == "depth":
            return resize_map(1.0 / disparity, height, width, protocol.resize)
        return 1.0 / resize_map(disparity, height, width, protocol.resize)


def evaluate(
    frames: Sequence[Frame],
    root: Path,
    predict: Predict,
    protocol: Protocol | str,
    progress: Progress | None = None,
    files: Mapping[str, str] | None = None,
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Evaluate predictions of many frames, one after the other (monodepth2 `evaluate_depth.py`).

    Args:
        frames: frames to evaluate, in order.
        root: folder that their paths start from.
        predict: gives the *scaled* disparity (h, w), 1 / depth up to a factor, not the network's
            sigmoid (`fadepth.geometry`).
        protocol: a protocol or its name.
        progress: called with (frames done, frames in all).
        files: path -> sha256 from the manifest; where given, images and ground truth are compared.

    Returns:
        A table with one row per frame — `drive`, `frame`, `side`, the protocol's metrics,
        `scale_ratio` (the factor on the prediction, mostly median(gt) / median(prediction)) — and
        the mean of each metric over the frames.

    Raises:
        FadepthError: names the frame that lacks ground truth or has an unusable prediction, or the
            file that is not what the manifest says.
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
        if files is not None:
            for path in (frame.image, ground_truth_file(frame, protocol)):
                _require_unchanged(root, path or "", files)
        gt = load_ground_truth(frame, root, protocol)
        depth = depth_at(predict(frame), gt.shape, protocol)
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
        if progress:
            progress(len(rows), len(frames))
    table = pd.DataFrame(rows)
    return table, {name: float(table[name].mean()) for name in protocol.metrics}


def _require_unchanged(root: Path, path: str, files: Mapping[str, str]) -> None:
    try:
        found = hashlib.sha256((root / path).read_bytes()).hexdigest()
    except OSError as error:
        raise FadepthError(f"{root / path} cannot be read ({error.strerror}): restore it") from None
    if found != files.get(path):
        raise FadepthError(
            f"{root / path} has changed since the data were prepared: restore it, or delete the "
            "manifest and run the workflow again"
        )
