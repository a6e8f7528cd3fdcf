"""Evaluation over a list of frames: metrics per image, then their mean."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from fadepth.data.kitti import read_image, resize_image
from fadepth.data.manifest import Frame
from fadepth.data.parallel import Progress, in_order
from fadepth.errors import FadepthError
from fadepth.evaluation.metrics import pixel_metrics
from fadepth.evaluation.protocols import (
    Box,
    Protocol,
    Resize,
    TruePixels,
    find_protocol,
    ground_truth_file,
    load_ground_truth,
    require_ground_truth,
    true_pixels,
)
from fadepth.geometry import disparity_to_inverse_depth

#: Maps images (B, 3, H, W) in [0, 1] to inverse depth (B, 1, H, W) in 1/metres up to scale.
PredictImage = Callable[[Tensor], Tensor]

CV2_RESIZE = Resize(quantity="disparity", mode="bilinear", corners="half_pixel")

#: Maps a frame to its scaled disparity (h, w) > 0, i.e. the inverse of depth up to a factor.
Predict = Callable[[Frame], NDArray[np.floating]]

#: Images that go through a network together: at most so many, and so many pixels. Small images gain
#: from batches on a CPU, too (64x208: half the time); larger batches leave its caches [derived].
BATCH, BATCH_PIXELS = 8, 250_000

#: Where fewer than one pixel in so many counts, those are read alone; else the whole is resized.
SPARSE = 16

#: Parts of an evaluation, for who wants to know where the time goes (`fadepth.bench.evaluation`).
Stage = Literal["read", "ground_truth", "resize_input", "network", "resize_output", "metrics"]
Timer = Callable[[Stage], AbstractContextManager[object]]


def untimed(stage: Stage) -> AbstractContextManager[object]:
    """No clock."""
    return nullcontext()


def image_function(network: nn.Module, device: torch.device) -> PredictImage:
    """A depth network as a function from images to inverse depth; it is moved to the device."""
    # In this format SmallDepth takes a fifth less time on a CPU, HQDecv2 as much as in the other.
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def predict(images: Tensor) -> Tensor:
        return disparity_to_inverse_depth(network(images.to(device)))

    return predict


def batch_for(size: tuple[int, int]) -> int:
    """Images (H, W) of a batch."""
    return min(BATCH, max(1, BATCH_PIXELS // (size[0] * size[1])))


def network_input(
    frame: Frame, root: Path, size: tuple[int, int], crop: Box | None = None
) -> Tensor:
    """A frame, or the part of it in `crop`, as a network sees it, (1, 3, H, W) in [0, 1]."""
    return read_input(root / frame.image, size, crop)


def read_input(path: Path, size: tuple[int, int], crop: Box | None = None) -> Tensor:
    """An image file, or the part of it in `crop`, as a network sees it."""
    return to_input([resize_image(read_part(path, crop), *size)])


def read_part(path: Path, crop: Box | None) -> Image.Image:
    """An image file, or the part of it in `crop`, decoded."""
    image = read_image(path)
    if crop is None:
        return image
    rows, columns = crop.slices(image.height, image.width)
    return image.crop((columns.start, rows.start, columns.stop, rows.stop))


def to_input(pixels: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Images (3, H, W) of 0 to 255 as a network's input (B, 3, H, W) in [0, 1]."""
    return torch.from_numpy(np.stack(pixels)).float().div_(255)


@dataclass(frozen=True)
class NetworkPredictor:
    """A network as a function from a frame to its disparity, which `evaluate` feeds with batches.

    Batches have a fixed size, the last one is filled up: the result of a frame does not depend on
    how many come after it.

    Attributes:
        network: gives inverse depth (B, 1, H, W) for images (B, 3, H, W) in [0, 1].
        root: folder that the frames' paths start from.
        size: (H, W) that the network is fed with.
        protocol: says which part of the image, and whether its mirror image as well.
        batch: images of a batch.
    """

    network: PredictImage
    root: Path
    size: tuple[int, int]
    protocol: Protocol
    batch: int = 1

    def __call__(self, frame: Frame) -> NDArray[np.float64]:
        """Scaled disparity (H, W) of one frame, without a batch around it."""
        return self._disparities([self.pixels(self.image(frame))])[0]

    def image(self, frame: Frame) -> Image.Image:
        """The part of the frame that the network sees, decoded."""
        return read_part(self.root / frame.image, self.protocol.image_crop)

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """The same at the network's size, (3, H, W)."""
        return resize_image(image, *self.size)

    def disparities(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float64]]:
        """Scaled disparity (H, W) of each of 1 to `batch` images (3, H, W)."""
        filling = [images[-1]] * (self.batch - len(images))
        return self._disparities([*images, *filling])[: len(images)]

    def _disparities(self, images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float64]]:
        batch = to_input(images)
        plain = self.network(batch)[:, 0].double().cpu().numpy()
        if not self.protocol.post_process:
            return list(plain)
        mirrored = self.network(batch.flip(-1))[:, 0].double().cpu().numpy()
        return [post_process(a, b[:, ::-1]) for a, b in zip(plain, mirrored, strict=True)]


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
    return NetworkPredictor(network, root, size, protocol)(frame)


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


def depth_at_pixels(
    disparity: NDArray[np.floating], truth: TruePixels, protocol: Protocol
) -> NDArray[np.float64]:
    """`depth_at` of the pixels that count, (N,), up to scale from scaled disparity (h, w)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        if protocol.resize.quantity == "depth":
            return _resized_at(1.0 / disparity, truth, protocol.resize)
        return 1.0 / _resized_at(disparity, truth, protocol.resize)


def _resized_at(
    values: NDArray[np.floating], truth: TruePixels, resize: Resize
) -> NDArray[np.float64]:
    """`resize_map` of values (h, w), but only the pixels that count.

    A lidar's points are 3 % of an image: each is the mean of four neighbours, weighted as in
    `interpolate` (https://docs.pytorch.org/docs/stable/generated/torch.nn.functional.interpolate.html).
    """
    height, width = truth.size
    if resize.mode == "nearest" or SPARSE * len(truth.places) > height * width:
        return resize_map(values, height, width, resize).ravel()[truth.places]
    flat = np.asarray(values, dtype=np.float64).ravel()
    rows, columns = np.divmod(truth.places, width)
    above, below, down = (part[rows] for part in _neighbours(len(values), height, resize.corners))
    left, right, across = (
        part[columns] for part in _neighbours(values.shape[1], width, resize.corners)
    )
    above, below = above * values.shape[1], below * values.shape[1]
    upper = flat[above + left] * (1 - across) + flat[above + right] * across
    lower = flat[below + left] * (1 - across) + flat[below + right] * across
    return upper * (1 - down) + lower * down


@lru_cache(maxsize=16)  # heights and widths of KITTI's days
def _neighbours(
    old: int, new: int, corners: Literal["half_pixel", "aligned"]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Of each of `new` pixels on an axis: two of `old` ones, and the weight of the second."""
    pixel = np.arange(new, dtype=np.float64)
    if corners == "aligned":
        place = pixel * ((old - 1) / max(new - 1, 1))
    else:
        place = np.maximum((pixel + 0.5) * (old / new) - 0.5, 0)
    first: NDArray[np.intp] = np.minimum(place.astype(np.intp), old - 1)
    second: NDArray[np.intp] = np.minimum(first + 1, old - 1)
    return first, second, place - first


def evaluate(
    frames: Sequence[Frame],
    root: Path,
    predict: Predict,
    protocol: Protocol | str,
    progress: Progress | None = None,
    files: Mapping[str, str] | None = None,
    *,
    workers: int = 0,
    timer: Timer = untimed,
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Evaluate predictions of many frames (monodepth2 `evaluate_depth.py`).

    Args:
        frames: frames to evaluate, in order.
        root: folder that their paths start from.
        predict: gives the *scaled* disparity (h, w), 1 / depth up to a factor, not the network's
            sigmoid (`fadepth.geometry`). It is asked frame by frame, in order; a
            `NetworkPredictor`, batch by batch.
        protocol: a protocol or its name.
        progress: called with (frames done, frames in all).
        files: path -> sha256 from the manifest; where given, images and ground truth are compared.
        workers: threads that read ahead; 0: none. No effect on results.
        timer: is entered around each part of the work.

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
    read = partial(_read, root=root, predict=predict, protocol=protocol, files=files, timer=timer)
    samples = in_order(frames, read, workers) if workers else map(read, frames)
    rows = []
    for sample, disparity in _predicted(samples, predict, timer):
        frame = sample.frame
        with timer("resize_output"):
            depth = depth_at_pixels(disparity, sample.truth, protocol)
        try:
            with timer("metrics"):
                metrics, ratio = pixel_metrics(sample.truth.depth, depth, protocol)
        except FadepthError as error:
            raise FadepthError(f"frame {frame}: {error}") from None
        key = {"drive": frame.drive, "frame": frame.frame, "side": frame.side}
        rows.append({**key, **metrics, "scale_ratio": ratio})
        if progress:
            progress(len(rows), len(frames))
    table = pd.DataFrame(rows)
    return table, {name: float(table[name].mean()) for name in protocol.metrics}


class _Sample(NamedTuple):
    """A frame as read: the pixels that count and, for a `NetworkPredictor`, its input."""

    frame: Frame
    truth: TruePixels
    pixels: NDArray[np.uint8] | None


def _read(
    frame: Frame,
    root: Path,
    predict: Predict,
    protocol: Protocol,
    files: Mapping[str, str] | None,
    timer: Timer,
) -> _Sample:
    pixels = None
    if files is not None:
        with timer("read"):
            for path in (frame.image, ground_truth_file(frame, protocol)):
                _require_unchanged(root, path or "", files)
    with timer("ground_truth"):
        truth = true_pixels(load_ground_truth(frame, root, protocol), protocol)
    if isinstance(predict, NetworkPredictor):
        with timer("read"):
            image = predict.image(frame)
        with timer("resize_input"):
            pixels = predict.pixels(image)
    return _Sample(frame, truth, pixels)


def _predicted(
    samples: Iterable[_Sample], predict: Predict, timer: Timer
) -> Iterator[tuple[_Sample, NDArray[np.floating]]]:
    """Samples with their disparity, in order."""
    if not isinstance(predict, NetworkPredictor):
        for sample in samples:
            with timer("network"):
                disparity = predict(sample.frame)
            yield sample, disparity
        return
    samples = iter(samples)
    while batch := list(islice(samples, predict.batch)):
        images = [sample.pixels for sample in batch if sample.pixels is not None]
        with timer("network"):
            disparities = predict.disparities(images)
        yield from zip(batch, disparities, strict=True)


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
